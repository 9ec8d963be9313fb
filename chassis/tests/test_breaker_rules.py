"""The breaker, rule by rule, with a clock of the test's own."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError, replace
from itertools import count

import pytest
from prometheus_client import REGISTRY

from chassis.breaker import Breaker, BreakerSettings, Mode, OpenError, Permit, Result, State, _Window
from chassis.tests.clocks import Clock

pytestmark = pytest.mark.req("R-STT-3")

_names = (f"rules-{number}" for number in count())
SETTINGS = BreakerSettings(
    failures_in_row=5, window_s=30.0, calls_min=20, failure_rate=0.5, slow_s=15.0, slow_rate=0.8, open_s=60.0,
    open_jitter=0.1, probes=2, probes_needed=3, ramp_s=30.0, ramp_from=0.1,
)  # fmt: skip


@pytest.fixture
def clock() -> Clock:
    return Clock()


def new(clock: Clock, settings: BreakerSettings = SETTINGS, *, chance: float = 0.5) -> Breaker:
    return Breaker(next(_names), settings, clock=clock, chance=lambda: chance)


def state(breaker: Breaker) -> State:
    return breaker.state


def succeed(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with breaker.acquire() as permit:
            permit.success()


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with breaker.acquire() as permit:
            permit.failure()


def opened(clock: Clock, settings: BreakerSettings = SETTINGS, *, chance: float = 0.5) -> Breaker:
    breaker = new(clock, settings, chance=chance)
    fail(breaker, settings.failures_in_row)
    assert state(breaker) is State.OPEN
    return breaker


def half_open(clock: Clock, settings: BreakerSettings = SETTINGS) -> Breaker:
    breaker = opened(clock, settings)
    clock.pass_(settings.open_s * (1 + settings.open_jitter))
    assert state(breaker) is State.HALF_OPEN
    return breaker


def closed_again(clock: Clock, settings: BreakerSettings = SETTINGS) -> Breaker:
    breaker = half_open(clock, settings)
    succeed(breaker, settings.probes_needed)
    assert state(breaker) is State.CLOSED
    return breaker


def sample(name: str, breaker: Breaker, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"dependency": breaker.dependency} | labels) or 0.0


def calls(breaker: Breaker, result: str) -> float:
    return sample("circuit_breaker_calls_total", breaker, result=result)


def shown(breaker: Breaker) -> dict[str, float]:
    return {state.value: sample("circuit_breaker_state", breaker, state=state.value) for state in State}


def test_the_defaults_are_those_of_the_specification() -> None:
    settings = BreakerSettings()
    assert (settings.failures_in_row, settings.open_s, settings.failure_rate) == (5, 60.0, 0.5)
    assert (settings.window_s, settings.calls_min) == (30.0, 20)
    assert (settings.slow_s, settings.slow_rate) == (15.0, 0.8)
    assert (settings.open_jitter, settings.probes, settings.probes_needed) == (0.1, 2, 3)
    assert (settings.ramp_s, settings.ramp_from) == (30.0, 0.1)


# -- closed --------------------------------------------------------------------------------------------------------


def test_opens_at_the_fifth_failure_in_a_row_and_not_before(clock: Clock) -> None:
    breaker = new(clock)
    fail(breaker, 4)
    assert state(breaker) is State.CLOSED
    fail(breaker)
    assert state(breaker) is State.OPEN
    assert sample("circuit_breaker_opened_total", breaker, reason="row") == 1


def test_a_success_ends_the_row(clock: Clock) -> None:
    breaker = new(clock)
    fail(breaker, 4)
    succeed(breaker)
    fail(breaker, 4)
    assert state(breaker) is State.CLOSED


def test_after_a_success_five_more_open_it(clock: Clock) -> None:
    breaker = new(clock)
    fail(breaker, 4)
    succeed(breaker)
    fail(breaker, 5)
    assert state(breaker) is State.OPEN


def test_settings_do_not_change_under_way() -> None:
    with pytest.raises(FrozenInstanceError):
        BreakerSettings().open_s = 1.0  # type: ignore[misc]
    assert not hasattr(BreakerSettings(), "__dict__")


def test_what_is_given_by_name_is_not_given_by_place(clock: Clock) -> None:
    with pytest.raises(TypeError):
        Breaker("rules-names", SETTINGS, clock, lambda: 0.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Permit(new(clock), 0, 0.0, True)  # type: ignore[call-arg]


def test_a_slow_success_ends_the_row_too(clock: Clock) -> None:
    breaker = new(clock)
    fail(breaker, 4)
    slow(breaker, clock)
    fail(breaker, 4)
    assert state(breaker) is State.CLOSED


def test_what_says_nothing_neither_counts_nor_ends_the_row(clock: Clock) -> None:
    breaker = new(clock)
    fail(breaker, 4)
    with breaker.acquire() as permit:
        permit.ignored()
    fail(breaker)
    assert state(breaker) is State.OPEN
    assert calls(breaker, "ignored") == 1


def alternate(breaker: Breaker, pairs: int) -> None:
    for _ in range(pairs):
        succeed(breaker)
        fail(breaker)


def test_opens_at_half_of_twenty_calls(clock: Clock) -> None:
    breaker = new(clock)
    alternate(breaker, 9)
    succeed(breaker)
    assert state(breaker) is State.CLOSED
    fail(breaker)
    assert state(breaker) is State.OPEN
    assert sample("circuit_breaker_opened_total", breaker, reason="rate") == 1


def test_stays_closed_below_the_rate(clock: Clock) -> None:
    breaker = new(clock)
    succeed(breaker, 2)
    alternate(breaker, 40)
    assert state(breaker) is State.CLOSED


def test_calls_that_ended_before_the_window_do_not_count(clock: Clock) -> None:
    breaker = new(clock)
    alternate(breaker, 9)
    clock.pass_(SETTINGS.window_s)
    alternate(breaker, 9)
    assert state(breaker) is State.CLOSED
    alternate(breaker, 1)
    assert state(breaker) is State.OPEN


def test_calls_within_the_window_do(clock: Clock) -> None:
    breaker = new(clock)
    alternate(breaker, 5)
    clock.pass_(SETTINGS.window_s * 0.45)
    alternate(breaker, 4)
    clock.pass_(SETTINGS.window_s * 0.45)
    alternate(breaker, 1)
    assert state(breaker) is State.OPEN


def test_a_call_is_remembered_for_the_window_less_the_rest_of_its_tenth(clock: Clock) -> None:
    """Tenths of the window begin at multiples of three seconds."""
    for later_s, opens in ((29.9, True), (30.0, False)):
        breaker = new(clock, replace(SETTINGS, calls_min=4))
        clock.pass_(3.0 - clock.now_s % 3.0)
        alternate(breaker, 1)
        clock.pass_(later_s)
        alternate(breaker, 1)
        assert (state(breaker) is State.OPEN) is opens


def test_a_window_need_not_be_a_multiple_of_ten(clock: Clock) -> None:
    breaker = new(clock, replace(SETTINGS, window_s=15.0, calls_min=4))
    clock.pass_(1.5 - clock.now_s % 1.5)
    alternate(breaker, 1)
    clock.pass_(14.0)
    alternate(breaker, 1)
    assert state(breaker) is State.OPEN


def test_memory_does_not_grow_with_the_rate(clock: Clock) -> None:
    window = _Window(30.0)
    for _ in range(10_000):
        window.add(clock.now_s, Result.SUCCESS)
        clock.pass_(0.01)
        assert window.sums(clock.now_s)[0] <= 3_000
    assert len(window._buckets) <= 11


def test_calls_long_before_the_window_do_not_count_either(clock: Clock) -> None:
    breaker = new(clock, replace(SETTINGS, calls_min=4))
    alternate(breaker, 1)
    clock.pass_(95.0)
    alternate(breaker, 1)
    assert state(breaker) is State.CLOSED


def test_the_rate_opens_it_also_after_many_calls(clock: Clock) -> None:
    breaker = new(clock, replace(SETTINGS, failures_in_row=1_000))
    succeed(breaker, 20)
    fail(breaker, 19)
    assert state(breaker) is State.CLOSED
    fail(breaker)
    assert state(breaker) is State.OPEN


def test_more_slow_calls_than_the_rate_open_it_too(clock: Clock) -> None:
    breaker = new(clock, replace(SETTINGS, window_s=3_000.0))
    succeed(breaker, 2)
    slow(breaker, clock, 18)
    assert state(breaker) is State.OPEN


def test_what_takes_longer_than_slow_is_slow_and_clocks_may_have_begun_just_now() -> None:
    clock = Clock(10.0)
    breaker = new(clock)
    with breaker.acquire() as permit:
        clock.pass_(16.0)
        permit.success()
    assert calls(breaker, "slow") == 1
    fail(breaker, 5)
    assert breaker.retry_after_s() == pytest.approx(63.0)


def test_a_few_slow_calls_are_too_few(clock: Clock) -> None:
    breaker = new(clock, replace(SETTINGS, window_s=3_000.0))
    slow(breaker, clock, 19)
    assert state(breaker) is State.CLOSED


def test_slow_calls_open_it_also_after_many_that_were_not(clock: Clock) -> None:
    breaker = new(clock, replace(SETTINGS, window_s=3_000.0))
    succeed(breaker, 10)
    slow(breaker, clock, 39)
    assert state(breaker) is State.CLOSED
    slow(breaker, clock)
    assert state(breaker) is State.OPEN


def test_it_is_half_open_from_the_very_moment_that_its_time_is_over(clock: Clock) -> None:
    breaker = opened(clock, chance=0.0)
    clock.pass_(59.875)
    assert state(breaker) is State.OPEN
    clock.pass_(0.125)
    assert state(breaker) is State.HALF_OPEN


def slow(breaker: Breaker, clock: Clock, times: int = 1) -> None:
    for _ in range(times):
        with breaker.acquire() as permit:
            clock.pass_(SETTINGS.slow_s)
            permit.success()


def test_opens_when_most_calls_are_slow(clock: Clock) -> None:
    breaker = new(clock, replace(SETTINGS, window_s=3_000.0))
    succeed(breaker, 4)
    slow(breaker, clock, 15)
    assert state(breaker) is State.CLOSED
    slow(breaker, clock)
    assert state(breaker) is State.OPEN
    assert calls(breaker, "slow") == 16
    assert sample("circuit_breaker_opened_total", breaker, reason="slow") == 1


def test_slow_calls_below_the_rate_are_borne(clock: Clock) -> None:
    breaker = new(clock, replace(SETTINGS, window_s=3_000.0))
    succeed(breaker, 5)
    slow(breaker, clock, 19)
    assert state(breaker) is State.CLOSED


def test_what_is_just_quicker_than_slow_is_a_success(clock: Clock) -> None:
    breaker = new(clock)
    with breaker.acquire() as permit:
        clock.pass_(SETTINGS.slow_s - 0.001)
        permit.success()
    assert (calls(breaker, "success"), calls(breaker, "slow")) == (1, 0)


def test_a_slow_failure_is_a_failure(clock: Clock) -> None:
    breaker = new(clock)
    with breaker.acquire() as permit:
        clock.pass_(SETTINGS.slow_s * 2)
        permit.failure()
    assert (calls(breaker, "failure"), calls(breaker, "slow")) == (1, 0)


def test_what_a_dependency_says_of_itself_opens_at_once(clock: Clock) -> None:
    breaker = new(clock)
    breaker.trip("quota")
    assert state(breaker) is State.OPEN
    breaker.trip("quota")
    assert sample("circuit_breaker_opened_total", breaker, reason="quota") == 1


# -- open ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chance", "open_s"), [(0.0, 60.0), (0.5, 63.0), (0.999, 65.994)])
def test_stays_open_for_its_time_and_some_by_chance(clock: Clock, chance: float, open_s: float) -> None:
    breaker = opened(clock, chance=chance)
    assert breaker.retry_after_s() == pytest.approx(open_s)
    clock.pass_(open_s - 0.01)
    with pytest.raises(OpenError) as refused:
        breaker.acquire()
    assert refused.value.retry_after_s == pytest.approx(0.01)
    assert not breaker.admits
    assert calls(breaker, "rejected") == 1
    clock.pass_(0.011)
    assert breaker.admits
    assert state(breaker) is State.HALF_OPEN
    assert breaker.retry_after_s() == 0.0


def test_it_knows_why_it_is_open(clock: Clock) -> None:
    breaker = new(clock)
    assert breaker.reason == ""
    breaker.trip("quota")
    assert breaker.reason == "quota"
    clock.pass_(66.0)
    assert breaker.reason == "quota"
    fail(breaker)
    assert breaker.reason == "probe"
    clock.pass_(66.0)
    succeed(breaker, 3)
    assert breaker.reason == ""
    breaker.force(Mode.FORCE_OPEN)
    assert breaker.reason == "forced"


def test_the_refusal_names_the_dependency(clock: Clock) -> None:
    breaker = opened(clock)
    with pytest.raises(OpenError, match=breaker.dependency):
        breaker.acquire()


def test_what_ends_after_it_opened_changes_nothing(clock: Clock) -> None:
    breaker = new(clock)
    late = [breaker.acquire() for _ in range(9)]
    fail(breaker, 5)
    until = breaker.retry_after_s()
    for permit in late[:8]:
        permit.failure()
    late[8].success()
    assert state(breaker) is State.OPEN
    assert breaker.retry_after_s() == until
    assert (calls(breaker, "failure"), calls(breaker, "success")) == (13, 1)


# -- half-open -----------------------------------------------------------------------------------------------------


def test_lets_so_many_probes_through_at_one_time(clock: Clock) -> None:
    breaker = half_open(clock)
    probes = [breaker.acquire() for _ in range(SETTINGS.probes)]
    assert not breaker.admits
    assert breaker.retry_after_s() == 1.0
    with pytest.raises(OpenError):
        breaker.acquire()
    probes[0].success()
    assert breaker.admits
    breaker.acquire()
    assert not breaker.admits


def test_enough_probes_close_it(clock: Clock) -> None:
    breaker = half_open(clock)
    succeed(breaker, SETTINGS.probes_needed - 1)
    assert state(breaker) is State.HALF_OPEN
    succeed(breaker)
    assert state(breaker) is State.CLOSED
    assert breaker.retry_after_s() == 0.0


def test_one_failed_probe_opens_it_for_its_whole_time(clock: Clock) -> None:
    breaker = half_open(clock)
    succeed(breaker, SETTINGS.probes_needed - 1)
    fail(breaker)
    assert state(breaker) is State.OPEN
    assert breaker.retry_after_s() == pytest.approx(63.0)
    assert sample("circuit_breaker_opened_total", breaker, reason="probe") == 1


def test_probes_are_counted_anew_each_time(clock: Clock) -> None:
    breaker = half_open(clock)
    succeed(breaker, SETTINGS.probes_needed - 1)
    fail(breaker)
    clock.pass_(66.0)
    succeed(breaker, SETTINGS.probes_needed - 1)
    assert state(breaker) is State.HALF_OPEN


def test_a_probe_that_says_nothing_gives_its_slot_back(clock: Clock) -> None:
    breaker = half_open(clock)
    for _ in range(10):
        with breaker.acquire() as permit:
            permit.ignored()
    assert state(breaker) is State.HALF_OPEN
    assert len([breaker.acquire() for _ in range(SETTINGS.probes)]) == 2


def test_a_probe_of_another_time_gives_no_slot_back(clock: Clock) -> None:
    """A slot freed twice would let one probe more than allowed through."""
    breaker = half_open(clock)
    stale = breaker.acquire()
    fail(breaker)
    clock.pass_(66.0)
    held = [breaker.acquire() for _ in range(SETTINGS.probes)]
    stale.success()
    assert not breaker.admits
    held[0].ignored()
    assert breaker.admits


def test_a_permit_ends_once(clock: Clock) -> None:
    breaker = half_open(clock)
    held = breaker.acquire()
    other = breaker.acquire()
    with held:
        held.success()
        held.success()
        held.failure()
    assert state(breaker) is State.HALF_OPEN
    assert calls(breaker, "success") == 1
    assert breaker.admits
    breaker.acquire()
    assert not breaker.admits
    other.success()


async def test_a_cancelled_probe_gives_its_slot_back(clock: Clock) -> None:
    breaker = half_open(clock)

    async def hang() -> None:
        with breaker.acquire():
            await asyncio.Event().wait()

    for _ in range(5):
        probes = [asyncio.create_task(hang()) for _ in range(SETTINGS.probes)]
        await asyncio.sleep(0)
        assert not breaker.admits
        for probe in probes:
            probe.cancel()
        await asyncio.wait(probes)
        assert breaker.admits
    assert calls(breaker, "ignored") == 10
    succeed(breaker, SETTINGS.probes_needed)
    assert state(breaker) is State.CLOSED


async def test_of_a_thousand_that_rush_in_only_probes_pass(clock: Clock) -> None:
    breaker = half_open(clock)
    inside = most = passed = 0

    async def call() -> None:
        nonlocal inside, most, passed
        try:
            permit = breaker.acquire()
        except OpenError:
            return
        with permit:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            passed += 1
            if state(breaker) is State.HALF_OPEN:
                permit.ignored()

    await asyncio.gather(*(call() for _ in range(1_000)))
    assert most == passed == SETTINGS.probes
    assert calls(breaker, "rejected") == 998


# -- closed again --------------------------------------------------------------------------------------------------


def test_the_share_grows_from_a_tenth_to_all_after_it_closed(clock: Clock) -> None:
    breaker = closed_again(clock)
    seen = []
    for _ in range(8):
        seen.append(round(breaker.share, 3))
        clock.pass_(5.0)
    assert seen == [0.1, 0.167, 0.333, 0.5, 0.667, 0.833, 1.0, 1.0]


def test_the_share_is_all_of_it_when_it_was_never_open(clock: Clock) -> None:
    assert new(clock).share == 1.0


@pytest.mark.parametrize("ramp_s", [0.0, 0.5])
def test_without_a_ramp_all_of_it_is_there_at_once(clock: Clock, ramp_s: float) -> None:
    breaker = closed_again(clock, replace(SETTINGS, ramp_s=ramp_s))
    clock.pass_(ramp_s)
    assert breaker.share == 1.0


def test_the_share_limits_nothing_else_than_a_closed_breaker(clock: Clock) -> None:
    breaker = closed_again(clock)
    fail(breaker, 5)
    assert state(breaker) is State.OPEN
    assert breaker.share == 1.0


def test_what_was_counted_before_is_forgotten(clock: Clock) -> None:
    breaker = new(clock, replace(SETTINGS, window_s=10_000.0))
    alternate(breaker, 9)
    breaker.trip("quota")
    clock.pass_(66.0)
    succeed(breaker, 3)
    alternate(breaker, 9)
    assert state(breaker) is State.CLOSED
    alternate(breaker, 1)
    assert state(breaker) is State.OPEN


# -- a person decides ----------------------------------------------------------------------------------------------


def test_forced_open_refuses_until_a_person_takes_it_back(clock: Clock) -> None:
    breaker = new(clock)
    breaker.force(Mode.FORCE_OPEN)
    assert (breaker.state, breaker.mode) == (State.OPEN, Mode.FORCE_OPEN)
    clock.pass_(10_000.0)
    assert breaker.retry_after_s() is None
    with pytest.raises(OpenError) as refused:
        breaker.acquire()
    assert refused.value.retry_after_s is None
    assert shown(breaker) == {"closed": 0, "open": 1, "half_open": 0}
    breaker.force(Mode.AUTO)
    assert (breaker.state, breaker.mode) == (State.CLOSED, Mode.AUTO)
    assert shown(breaker) == {"closed": 1, "open": 0, "half_open": 0}
    succeed(breaker)


def test_forced_closed_lets_through_what_fails(clock: Clock) -> None:
    breaker = opened(clock)
    breaker.force(Mode.FORCE_CLOSED)
    fail(breaker, 50)
    breaker.trip("quota")
    assert state(breaker) is State.CLOSED
    assert shown(breaker) == {"closed": 1, "open": 0, "half_open": 0}
    breaker.force(Mode.AUTO)
    fail(breaker, 4)
    assert state(breaker) is State.CLOSED
    fail(breaker)
    assert state(breaker) is State.OPEN


def test_forced_open_is_not_opened_again_by_what_fails_meanwhile(clock: Clock) -> None:
    breaker = new(clock)
    running = [breaker.acquire() for _ in range(6)]
    breaker.force(Mode.FORCE_OPEN)
    for permit in running:
        permit.failure()
    breaker.force(Mode.AUTO)
    assert state(breaker) is State.CLOSED


@pytest.mark.parametrize("mode", [Mode.FORCE_CLOSED, Mode.AUTO])
def test_what_a_person_lets_in_again_comes_slowly(clock: Clock, mode: Mode) -> None:
    breaker = new(clock)
    breaker.force(Mode.FORCE_OPEN)
    clock.pass_(100.0)
    breaker.force(mode)
    assert breaker.share == pytest.approx(0.1)
    clock.pass_(15.0)
    assert breaker.share == pytest.approx(0.5)


def test_a_ramp_may_be_as_short_as_a_second(clock: Clock) -> None:
    breaker = closed_again(clock, replace(SETTINGS, ramp_s=1.0))
    assert breaker.share == pytest.approx(0.1)
    clock.pass_(0.5)
    assert breaker.share == pytest.approx(0.5)


def test_to_force_what_was_closed_slows_nothing(clock: Clock) -> None:
    breaker = new(clock)
    breaker.force(Mode.FORCE_CLOSED)
    assert breaker.share == 1.0


def test_to_force_what_is_forced_already_changes_nothing(clock: Clock) -> None:
    breaker = new(clock)
    fail(breaker, 4)
    breaker.force(Mode.AUTO)
    fail(breaker)
    assert state(breaker) is State.OPEN


# -- what is seen of it --------------------------------------------------------------------------------------------


def test_exactly_one_state_is_shown(clock: Clock) -> None:
    breaker = new(clock)
    assert shown(breaker) == {"closed": 1, "open": 0, "half_open": 0}
    fail(breaker, 5)
    assert shown(breaker) == {"closed": 0, "open": 1, "half_open": 0}
    clock.pass_(66.0)
    assert state(breaker) is State.HALF_OPEN
    assert shown(breaker) == {"closed": 0, "open": 0, "half_open": 1}
    succeed(breaker, 3)
    assert shown(breaker) == {"closed": 1, "open": 0, "half_open": 0}


def test_every_result_is_counted_from_zero(clock: Clock) -> None:
    breaker = new(clock)
    for result in ("success", "slow", "failure", "ignored", "rejected"):
        labels = {"dependency": breaker.dependency, "result": result}
        assert REGISTRY.get_sample_value("circuit_breaker_calls_total", labels) == 0.0


def test_watchers_are_told_every_change(clock: Clock) -> None:
    breaker = new(clock)
    told: list[State] = []
    breaker.watch(told.append)
    fail(breaker, 5)
    clock.pass_(66.0)
    succeed(breaker, 3)
    breaker.force(Mode.FORCE_OPEN)
    assert told == [State.OPEN, State.HALF_OPEN, State.CLOSED, State.OPEN]


@pytest.mark.parametrize(
    ("value", "mode"), [("open", Mode.FORCE_OPEN), ("closed", Mode.FORCE_CLOSED), ("auto", Mode.AUTO)]
)
def test_it_obeys_the_control_that_bears_its_name(clock: Clock, value: str, mode: Mode) -> None:
    breaker = new(clock)
    breaker.obey(f"breaker.{breaker.dependency}", value)
    assert breaker.mode is mode


def test_a_control_that_ends_or_makes_no_sense_is_auto_and_those_of_others_are_nothing(clock: Clock) -> None:
    breaker = new(clock)
    name = f"breaker.{breaker.dependency}"
    for value in (None, "ajar"):
        breaker.obey(name, "open")
        breaker.obey("breaker.another", "closed")
        breaker.obey("rate_limits", "closed")
        assert mode_of(breaker) is Mode.FORCE_OPEN
        breaker.obey(name, value)
        assert mode_of(breaker) is Mode.AUTO


def mode_of(breaker: Breaker) -> Mode:
    return breaker.mode
