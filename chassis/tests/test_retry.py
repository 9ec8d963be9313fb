"""Trying again: how often, when, for how long, and within what share of all calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from chassis.retry import Deadline, Retrier, RetryBudget, RetrySettings
from chassis.tests.clocks import Clock

pytestmark = pytest.mark.req("R-STT-2")

_names = (f"retry-{number}" for number in count())


class Fault(Exception):
    """What the dependency raises."""

    def __init__(self, *, retryable: bool = True, asked_s: float | None = None) -> None:
        super().__init__("scripted")
        self.retryable = retryable
        self.asked_s = asked_s


class Dependency:
    """Raises what its script says, then returns its answer. Notes when it was called and how long it was given."""

    def __init__(self, clock: Clock, *script: BaseException, takes_s: float = 0.0) -> None:
        self._clock = clock
        self._script = list(script)
        self._takes_s = takes_s
        self.called_at: list[float] = []
        self.given_s: list[float] = []

    async def __call__(self, deadline: Deadline) -> str:
        self.called_at.append(self._clock.now_s)
        self.given_s.append(deadline.left_s)
        self._clock.pass_(self._takes_s)
        if self._script:
            raise self._script.pop(0)
        return "answer"


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


def new(clock: Clock, settings: RetrySettings | None = None, *, chance: Callable[[], float] = lambda: 0.0) -> Retrier:
    return Retrier(
        next(_names), settings or RetrySettings(),
        retryable=lambda fault: isinstance(fault, Fault) and fault.retryable,
        asked_pause_s=lambda fault: fault.asked_s if isinstance(fault, Fault) else None,
        chance=chance, sleep=clock.sleep, clock=clock,
    )  # fmt: skip


def outcomes(retrier: Retrier) -> dict[str, float]:
    return {
        outcome: REGISTRY.get_sample_value(
            "retry_attempts_total", {"dependency": retrier.dependency, "outcome": outcome}
        )
        or 0.0
        for outcome in ("retried", "gave_up", "no_time", "no_budget")
    }


def value(name: str, dependency: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"dependency": dependency})


def test_the_defaults_are_those_of_the_specification() -> None:
    settings = RetrySettings()
    assert (settings.attempts, settings.wait_min_s, settings.wait_max_s) == (3, 2.0, 10.0)
    assert (settings.budget_share, settings.budget_burst, settings.least_s) == (0.1, 10.0, 1.0)


def test_settings_do_not_change_under_way() -> None:
    with pytest.raises(FrozenInstanceError):
        RetrySettings().attempts = 5  # type: ignore[misc]
    assert not hasattr(RetrySettings(), "__dict__")


async def test_what_is_given_by_name_is_not_given_by_place(clock: Clock) -> None:
    with pytest.raises(TypeError):
        RetryBudget("retry-names", 0.1, 1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        await new(clock).call(Dependency(clock), 30.0)  # type: ignore[call-arg]


def test_every_outcome_is_counted_from_zero(clock: Clock) -> None:
    retrier = new(clock)
    for outcome in ("retried", "gave_up", "no_time", "no_budget"):
        labels = {"dependency": retrier.dependency, "outcome": outcome}
        assert REGISTRY.get_sample_value("retry_attempts_total", labels) == 0.0


async def test_what_is_not_asked_for_does_not_lengthen_a_short_pause(clock: Clock) -> None:
    dependency = Dependency(clock, Fault())
    await new(clock, RetrySettings(wait_min_s=0.25)).call(dependency, deadline_s=30.0)
    assert dependency.called_at == [0.0, 0.25]


async def test_what_works_is_called_once(clock: Clock) -> None:
    retrier, dependency = new(clock), Dependency(clock)
    assert await retrier.call(dependency, deadline_s=30.0) == "answer"
    assert dependency.given_s == [30.0]
    assert outcomes(retrier) == {"retried": 0, "gave_up": 0, "no_time": 0, "no_budget": 0}


async def test_three_attempts_and_no_more(clock: Clock) -> None:
    retrier, faults = new(clock), [Fault(), Fault(), Fault()]
    dependency = Dependency(clock, *faults)
    with pytest.raises(Fault) as raised:
        await retrier.call(dependency, deadline_s=30.0)
    assert raised.value is faults[2]
    assert dependency.called_at == [0.0, 2.0, 6.0]
    assert dependency.given_s == [30.0, 28.0, 24.0]
    assert outcomes(retrier) == {"retried": 2, "gave_up": 1, "no_time": 0, "no_budget": 0}


async def test_the_third_attempt_may_succeed(clock: Clock) -> None:
    dependency = Dependency(clock, Fault(), Fault())
    assert await new(clock).call(dependency, deadline_s=30.0) == "answer"


@pytest.mark.parametrize("fault", [Fault(retryable=False), ValueError()])
async def test_what_a_retry_cannot_mend_is_raised_at_once(clock: Clock, fault: BaseException) -> None:
    retrier, dependency = new(clock), Dependency(clock, fault)
    with pytest.raises(type(fault)):
        await retrier.call(dependency, deadline_s=30.0)
    assert len(dependency.called_at) == 1
    assert outcomes(retrier) == {"retried": 0, "gave_up": 0, "no_time": 0, "no_budget": 0}


async def test_a_cancelled_call_is_over(clock: Clock) -> None:
    """Negative predicates of tenacity retry `CancelledError` (tenacity#529)."""
    retrier, begun = new(clock), asyncio.Event()
    calls = 0

    async def hang(_: Deadline) -> str:
        nonlocal calls
        calls += 1
        begun.set()
        await asyncio.Event().wait()
        return ""

    call = asyncio.create_task(retrier.call(hang, deadline_s=30.0))
    await begun.wait()
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert calls == 1


async def test_a_call_cancelled_between_two_attempts_is_over(clock: Clock) -> None:
    sleeping = asyncio.Event()

    async def sleep(_: float) -> None:
        sleeping.set()
        await asyncio.Event().wait()

    dependency = Dependency(clock, Fault())
    retrier = Retrier(
        next(_names), RetrySettings(),
        retryable=lambda fault: isinstance(fault, Fault), asked_pause_s=lambda _: None,
        chance=lambda: 0.0, sleep=sleep, clock=clock,
    )  # fmt: skip
    call = asyncio.create_task(retrier.call(dependency, deadline_s=30.0))
    await sleeping.wait()
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert len(dependency.called_at) == 1


# -- pauses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "chance", "pause_s"),
    [(1, 0.0, 2.0), (1, 0.5, 2.5), (2, 0.0, 4.0), (2, 0.5, 5.0), (3, 0.0, 8.0), (3, 1.0, 10.0), (9, 0.0, 10.0)],
)
def test_pauses_double_from_the_least_to_the_most(clock: Clock, failures: int, chance: float, pause_s: float) -> None:
    assert new(clock, chance=lambda: chance).pause_s(failures) == pytest.approx(pause_s)


async def test_a_longer_pause_that_was_asked_for_is_made(clock: Clock) -> None:
    dependency = Dependency(clock, Fault(asked_s=7.0), Fault(asked_s=1.0))
    await new(clock).call(dependency, deadline_s=30.0)
    assert dependency.called_at == [0.0, 7.0, 11.0]


async def test_a_pause_that_would_outlast_the_deadline_is_not_begun(clock: Clock) -> None:
    retrier, dependency = new(clock), Dependency(clock, Fault(asked_s=120.0))
    with pytest.raises(Fault):
        await retrier.call(dependency, deadline_s=30.0)
    assert clock.slept == []
    assert outcomes(retrier)["no_time"] == 1


@pytest.mark.parametrize(("deadline_s", "calls"), [(3.0, 2), (2.99, 1), (7.0, 3), (6.99, 2)])
async def test_an_attempt_without_time_is_not_begun(clock: Clock, deadline_s: float, calls: int) -> None:
    dependency = Dependency(clock, Fault(), Fault(), Fault())
    with pytest.raises(Fault):
        await new(clock).call(dependency, deadline_s=deadline_s)
    assert len(dependency.called_at) == calls


async def test_what_an_attempt_took_is_taken_from_the_rest(clock: Clock) -> None:
    dependency = Dependency(clock, Fault(), takes_s=5.0)
    await new(clock).call(dependency, deadline_s=30.0)
    assert dependency.given_s == [30.0, 23.0]


async def test_time_spent_waiting_for_a_turn_can_be_given_back(clock: Clock) -> None:
    """Healing and uploads wait as long as it takes: that is no part of the call's deadline."""
    left_s: list[float] = []

    async def attempt(deadline: Deadline) -> str:
        clock.pass_(60.0)
        deadline.extend(60.0)
        left_s.append(deadline.left_s)
        if len(left_s) < 3:
            raise Fault
        return "answer"

    assert await new(clock).call(attempt, deadline_s=30.0) == "answer"
    assert left_s == [30.0, 28.0, 24.0]


def test_a_deadline_that_is_over_leaves_nothing(clock: Clock) -> None:
    deadline = Deadline(5.0, clock)
    clock.pass_(7.0)
    assert deadline.left_s == 0.0
    deadline.extend(3.0)
    assert deadline.left_s == 1.0


# -- the budget ----------------------------------------------------------------------------------------------------


def test_the_budget_begins_full_and_is_shown() -> None:
    name = next(_names)
    budget = RetryBudget(name, share=0.1, burst=3.0)
    assert value("retry_budget_tokens", name) == 3.0
    assert value("retry_budget_exhausted_total", name) == 0.0
    assert [budget.withdraw() for _ in range(5)] == [True, True, True, False, False]
    assert value("retry_budget_tokens", name) == 0.0
    assert value("retry_budget_exhausted_total", name) == 2.0


def test_calls_fill_the_budget_again_up_to_its_brim() -> None:
    name = next(_names)
    budget = RetryBudget(name, share=0.25, burst=2.0)
    assert budget.withdraw()
    assert budget.withdraw()
    for _ in range(3):
        budget.deposit()
    assert value("retry_budget_tokens", name) == 0.75
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()
    for _ in range(50):
        budget.deposit()
    assert budget.tokens == 2.0
    assert value("retry_budget_tokens", name) == 2.0


@given(st.lists(st.booleans(), max_size=200), st.sampled_from([0.0625, 0.125, 0.25]), st.integers(1, 10))
def test_retries_never_exceed_the_share_and_the_burst(fails: list[bool], share: float, burst: int) -> None:
    budget = RetryBudget("retry-share", share=share, burst=float(burst))
    retries = 0
    for calls, failed in enumerate(fails, 1):
        budget.deposit()
        retries += failed and budget.withdraw()
        assert retries <= burst + share * calls
        assert 0.0 <= budget.tokens <= burst


async def test_when_all_fails_retries_are_a_tenth_of_the_calls(clock: Clock) -> None:
    retrier = new(clock)
    made = 0

    async def attempt(_: Deadline) -> str:
        nonlocal made
        made += 1
        raise Fault

    for _ in range(1_000):
        with pytest.raises(Fault):
            await retrier.call(attempt, deadline_s=30.0)
    assert 1_000 < made <= 1_000 + 10 + 100
    assert outcomes(retrier)["no_budget"] > 800
    assert outcomes(retrier)["retried"] == made - 1_000


async def test_without_a_budget_retries_would_be_twice_the_calls(clock: Clock) -> None:
    """The negative control of the test above."""
    retrier = new(clock, RetrySettings(budget_share=2.0))
    dependency = Dependency(clock, *(Fault() for _ in range(3_000)))
    for _ in range(1_000):
        with pytest.raises(Fault):
            await retrier.call(dependency, deadline_s=30.0)
    assert len(dependency.called_at) == 3_000


async def test_a_call_that_may_not_be_repeated_costs_no_budget(clock: Clock) -> None:
    retrier = new(clock)
    for fault in (Fault(retryable=False), Fault(asked_s=300.0)):
        with pytest.raises(Fault):
            await retrier.call(Dependency(clock, fault), deadline_s=30.0)
    assert retrier.budget.tokens == 10.0
