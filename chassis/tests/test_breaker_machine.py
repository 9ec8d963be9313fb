"""The breaker against a model of it, in any order of calls, outcomes, cancellations, time and orders of a person."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import Counter, Gauge

from chassis.breaker import CALLS, STATE, Breaker, BreakerSettings, Mode, OpenError, Permit, Result, State
from chassis.tests.clocks import Clock

pytestmark = pytest.mark.req("R-STT-3")

_NAME = "machine"
_BUCKETS = 10
# Eighths of a second are exact in floating point, so the model and the breaker never differ by a rounding.
SECONDS = st.integers(0, 800).map(lambda eighths: eighths / 8)


class Cancelled(BaseException):
    """What ends a block from outside."""


@dataclass
class Held:
    """A permit, and what the model knows of it."""

    permit: Permit
    began_s: float
    era: int
    probe: bool


class BreakerMachine(RuleBasedStateMachine):
    """The model remembers every outcome of an era (a time between two changes) and derives all else from them."""

    @initialize(
        failures_in_row=st.integers(1, 6),
        calls_min=st.integers(1, 8),
        failure_rate=st.sampled_from([0.25, 0.5, 1.0]),
        slow_rate=st.sampled_from([0.25, 0.75, 1.0]),
        probes=st.integers(1, 3),
        probes_needed=st.integers(1, 4),
        ramp_s=st.sampled_from([0.0, 32.0]),
        chance=st.sampled_from([0.0, 0.5]),
    )
    def begin(self, chance: float, **chosen: float) -> None:
        self.settings = BreakerSettings(
            window_s=20.0, slow_s=4.0, open_s=16.0, open_jitter=0.5, ramp_from=0.125, **chosen,  # type: ignore[arg-type]
        )  # fmt: skip
        self.clock = Clock()
        self.breaker = Breaker(_NAME, self.settings, clock=self.clock, chance=lambda: chance)
        self.open_s = 16.0 * (1 + 0.5 * chance)
        self.mode = Mode.AUTO
        self.inner = State.CLOSED
        self.opened_s = 0.0
        self.era = 0
        self.outcomes: list[tuple[float, Result]] = []
        self.held: list[Held] = []
        self.results: Tally[Result] = Tally()
        self.counted_before = samples(CALLS, "result")

    # -- the model ---------------------------------------------------------------------------------------------

    def now_is(self, state: State) -> None:
        self.inner = state
        self.era += 1
        self.outcomes = []
        if state is State.OPEN:
            self.opened_s = self.clock.now_s

    @property
    def state(self) -> State:
        if self.mode is not Mode.AUTO:
            return State.OPEN if self.mode is Mode.FORCE_OPEN else State.CLOSED
        if self.inner is State.OPEN and self.clock.now_s >= self.opened_s + self.open_s:
            self.now_is(State.HALF_OPEN)
        return self.inner

    @property
    def probing(self) -> int:
        return sum(one.probe and one.era == self.era for one in self.held)

    def ended(self, one: Held, said: Result) -> None:
        state = self.state
        took_s = self.clock.now_s - one.began_s
        result = Result.SLOW if said is Result.SUCCESS and took_s >= self.settings.slow_s else said
        self.results[result] += 1
        if one.era != self.era or self.mode is not Mode.AUTO or result is Result.IGNORED:
            return
        self.outcomes.append((self.clock.now_s, result))
        if state is State.HALF_OPEN:
            if result is Result.FAILURE:
                self.now_is(State.OPEN)
            elif len(self.outcomes) >= self.settings.probes_needed:
                self.now_is(State.CLOSED)
        elif self.is_too_much():
            self.now_is(State.OPEN)

    def is_too_much(self) -> bool:
        row = self.settings.failures_in_row
        if [result for _, result in self.outcomes[-row:]] == [Result.FAILURE] * row:
            return True
        bucket_s = self.settings.window_s / _BUCKETS
        oldest = self.clock.now_s // bucket_s - _BUCKETS
        recent = [result for at_s, result in self.outcomes if at_s // bucket_s > oldest]
        return len(recent) >= self.settings.calls_min and (
            recent.count(Result.FAILURE) / len(recent) >= self.settings.failure_rate
            or recent.count(Result.SLOW) / len(recent) >= self.settings.slow_rate
        )

    # -- what happens ------------------------------------------------------------------------------------------

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.clock.pass_(seconds)

    @rule()
    def somebody_calls(self) -> None:
        state, probing = self.state, self.probing
        admitted = state is State.CLOSED or (state is State.HALF_OPEN and probing < self.settings.probes)
        assert self.breaker.admits is admitted
        try:
            permit = self.breaker.acquire()
        except OpenError as refused:
            assert not admitted
            self.results[Result.REJECTED] += 1
            assert (refused.retry_after_s is None) is (self.mode is Mode.FORCE_OPEN)
        else:
            assert admitted
            self.held.append(Held(permit, self.clock.now_s, self.era, probe=state is State.HALF_OPEN))

    @precondition(lambda self: self.held)
    @rule(
        which=st.randoms(use_true_random=False), said=st.sampled_from([Result.SUCCESS, Result.FAILURE, Result.IGNORED])
    )
    def a_call_ends(self, which: object, said: Result) -> None:
        one = self.held.pop(which.randrange(len(self.held)))  # type: ignore[attr-defined]
        with one.permit as permit:
            {Result.SUCCESS: permit.success, Result.FAILURE: permit.failure, Result.IGNORED: permit.ignored}[said]()
        self.ended(one, said)

    @precondition(lambda self: self.held)
    @rule(which=st.randoms(use_true_random=False))
    def a_call_is_cancelled(self, which: object) -> None:
        one = self.held.pop(which.randrange(len(self.held)))  # type: ignore[attr-defined]
        with pytest.raises(Cancelled), one.permit:
            raise Cancelled
        self.ended(one, Result.IGNORED)

    @rule()
    def many_fail(self) -> None:
        for _ in range(self.settings.failures_in_row):
            self.somebody_calls()
            if self.held:
                one = self.held.pop()
                one.permit.failure()
                self.ended(one, Result.FAILURE)

    @rule()
    def the_dependency_says_no(self) -> None:
        state = self.state
        self.breaker.trip("quota")
        if self.mode is Mode.AUTO and state is not State.OPEN:
            self.now_is(State.OPEN)

    @rule(mode=st.sampled_from(Mode))
    def a_person_decides(self, mode: Mode) -> None:
        self.breaker.force(mode)
        if mode is not self.mode:
            self.mode = mode
            self.now_is(State.CLOSED)

    # -- what always holds -------------------------------------------------------------------------------------

    @invariant()
    def it_is_in_the_state_of_the_model(self) -> None:
        assert self.breaker.state is self.state
        assert self.breaker.mode is self.mode

    @invariant()
    def exactly_one_state_is_shown(self) -> None:
        assert self.breaker.state is self.state  # it notices that time has passed when it is asked
        assert samples(STATE, "state") == {state.value: float(state is self.state) for state in State}

    @invariant()
    def every_call_is_counted_once(self) -> None:
        now = samples(CALLS, "result")
        assert all(now[result] - self.counted_before[result] == self.results[result] for result in Result)

    @invariant()
    def no_slot_is_lost_or_made(self) -> None:
        free = self.settings.probes - self.probing
        assert 0 <= free <= self.settings.probes
        if self.state is State.HALF_OPEN:
            assert self.breaker.admits is (free > 0)

    @invariant()
    def what_it_promises_makes_sense(self) -> None:
        assert 0.0 < self.breaker.share <= 1.0
        wait_s = self.breaker.retry_after_s()
        assert wait_s is None or 0.0 <= wait_s <= self.open_s
        if self.breaker.admits:
            assert wait_s == 0.0


def samples(metric: Counter | Gauge, label: str) -> dict[str, float]:
    """Return the values of the machine's breaker by the other label."""
    return {
        sample.labels[label]: sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.labels.get("dependency") == _NAME and not sample.name.endswith("_created")
    }


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
