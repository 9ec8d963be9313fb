"""A circuit breaker: it stops calling what fails, and tries again with care.

The states, and who does what in them:

- *closed*: calls go through; their outcomes are counted. After it was open, only a growing share of the usual
  concurrency is admitted for a while (`share`), so that what waited does not come at once.
- *open*: every call is refused at once, until its time is over.
- *half-open*: a few calls go through as probes; enough successes close it, one failure opens it again.

Time and chance are passed in. Not for threads: all calls come from one event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from prometheus_client import Counter, Gauge

from chassis import telemetry

log = telemetry.logger(__name__)

STATE = Gauge("circuit_breaker_state", "1 for the state that the breaker is in.", ["dependency", "state"])
CALLS = Counter("circuit_breaker_calls_total", "Calls by how they ended.", ["dependency", "result"])
OPENED = Counter("circuit_breaker_opened_total", "Times that the breaker opened, by reason.", ["dependency", "reason"])

_BUCKETS = 10


class State(StrEnum):
    """What the breaker does with calls; see the module."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Mode(StrEnum):
    """Who decides: the outcomes, or a person by a control."""

    AUTO = "auto"
    FORCE_OPEN = "open"
    FORCE_CLOSED = "closed"


class Result(StrEnum):
    """How a call ended, as the breaker counts it."""

    SUCCESS = "success"
    SLOW = "slow"  # a success that took `slow_s` or longer
    FAILURE = "failure"
    IGNORED = "ignored"  # says nothing of the dependency's health: refused input, a request for patience, cancelled
    REJECTED = "rejected"  # not made, because the breaker is open


class OpenError(Exception):
    """The breaker lets no call through. `retry_after_s` is when it may, None if a person must decide."""

    def __init__(self, dependency: str, retry_after_s: float | None) -> None:
        super().__init__(f"the breaker of {dependency} is open")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When to open and close. Rates are shares of the calls that ended within `window_s`, of `calls_min` at least."""

    failures_in_row: int = 5
    window_s: float = 30.0
    calls_min: int = 20
    failure_rate: float = 0.5
    slow_s: float = 15.0
    slow_rate: float = 0.8
    open_s: float = 60.0
    open_jitter: float = 0.1  # of `open_s`, added: replicas do not try again at the same moment
    probes: int = 2  # at one time
    probes_needed: int = 3
    ramp_s: float = 30.0
    ramp_from: float = 0.1


class Permit:
    """Leave to make one call. Say how it ended, or leave the block: then it counts as nothing and its slot is free."""

    def __init__(self, breaker: Breaker, generation: int, began: float, *, probe: bool) -> None:
        self._breaker = breaker
        self._generation = generation
        self._began = began
        self._probe = probe
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ignored()

    def success(self) -> None:
        """It answered."""
        self._end(Result.SUCCESS)

    def failure(self) -> None:
        """It did not answer, or answered that it cannot."""
        self._end(Result.FAILURE)

    def ignored(self) -> None:
        """It answered something that says nothing of its health."""
        self._end(Result.IGNORED)

    def _end(self, result: Result) -> None:
        if not self._ended:
            self._ended = True
            self._breaker._ended(result, self._generation, self._began, probe=self._probe)


class _Window:
    """Counts of the calls that ended lately, in a few buckets of time: memory does not grow with the rate."""

    def __init__(self, window_s: float) -> None:
        self._bucket_s = window_s / _BUCKETS
        self._buckets: deque[list[float]] = deque()  # [number of the bucket, calls, failures, slow ones]

    def add(self, now: float, result: Result) -> None:
        number = now // self._bucket_s
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append([number, 0, 0, 0])
        newest = self._buckets[-1]
        newest[1] += 1
        newest[2] += result is Result.FAILURE
        newest[3] += result is Result.SLOW

    def sums(self, now: float) -> tuple[float, float, float]:
        """Return calls, failures and slow calls within the window."""
        oldest = now // self._bucket_s - _BUCKETS
        while self._buckets and self._buckets[0][0] <= oldest:
            self._buckets.popleft()
        calls, failures, slow = (sum(bucket[i] for bucket in self._buckets) for i in (1, 2, 3))
        return calls, failures, slow

    def clear(self) -> None:
        self._buckets.clear()


class Breaker:
    """The breaker of one dependency. `clock` counts seconds, `chance` gives a number in [0, 1)."""

    def __init__(
        self, dependency: str, settings: BreakerSettings, *, clock: Callable[[], float], chance: Callable[[], float]
    ) -> None:
        self.dependency = dependency
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._mode = Mode.AUTO
        self._state = State.CLOSED
        self._generation = 0
        self._window = _Window(settings.window_s)
        self._failures_in_row = 0
        self._open_until = 0.0
        self._opened_because = ""
        self._probing = 0
        self._probes_passed = 0
        self._closed_at: float | None = None  # None: it was never open
        self._watchers: list[Callable[[State], None]] = []
        for result in Result:
            CALLS.labels(dependency, result)
        self._show()

    @property
    def state(self) -> State:
        """The state now."""
        if self._mode is not Mode.AUTO:
            return State.OPEN if self._mode is Mode.FORCE_OPEN else State.CLOSED
        if self._state is State.OPEN and self._clock() >= self._open_until:
            self._enter(State.HALF_OPEN)
        return self._state

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def reason(self) -> str:
        """Why it opened last, empty when it is closed."""
        if self.state is State.CLOSED:
            return ""
        return self._opened_because if self._mode is Mode.AUTO else "forced"

    @property
    def share(self) -> float:
        """The share of the usual concurrency that may be used now, in (0, 1]."""
        if self.state is not State.CLOSED or self._closed_at is None or self._settings.ramp_s <= 0:
            return 1.0
        grown = (self._clock() - self._closed_at) / self._settings.ramp_s
        return min(1.0, max(self._settings.ramp_from, grown))

    @property
    def admits(self) -> bool:
        """Whether a call would be let through now."""
        state = self.state
        return state is State.CLOSED or (state is State.HALF_OPEN and self._probing < self._settings.probes)

    def retry_after_s(self) -> float | None:
        """Return the seconds until a call may be let through; None if a person must decide."""
        match self.state:
            case State.CLOSED:
                return 0.0
            case State.HALF_OPEN:
                return 0.0 if self.admits else 1.0
        return None if self._mode is Mode.FORCE_OPEN else max(0.0, self._open_until - self._clock())

    def watch(self, seen: Callable[[State], None]) -> None:
        """Have `seen(state)` called on each change. It must not raise or wait."""
        self._watchers.append(seen)

    def force(self, mode: Mode) -> None:
        """Let a person decide, or give the decision back: then it begins closed, with no memory.

        What was refused before does not come at once then either: `share` grows as after an outage.
        """
        if mode is self._mode:
            return
        log.warning("breaker forced", dependency=self.dependency, mode=mode.value)
        if self.state is not State.CLOSED:
            self._closed_at = self._clock()
        self._mode = mode
        self._enter(State.CLOSED)

    def obey(self, control: str, value: str | None) -> None:
        """Follow the control `breaker.<dependency>`: open, closed, or else auto. Others are none of its business."""
        if control == f"breaker.{self.dependency}":
            self.force(Mode(value) if value in set(Mode) else Mode.AUTO)

    def acquire(self) -> Permit:
        """Return the leave to make one call. Raises OpenError."""
        state = self.state
        if not self.admits:
            CALLS.labels(self.dependency, Result.REJECTED).inc()
            raise OpenError(self.dependency, self.retry_after_s())
        probe = state is State.HALF_OPEN
        self._probing += probe
        return Permit(self, self._generation, self._clock(), probe=probe)

    def _ended(self, result: Result, generation: int, began: float, *, probe: bool) -> None:
        now = self._clock()
        if result is Result.SUCCESS and now - began >= self._settings.slow_s:
            result = Result.SLOW
        CALLS.labels(self.dependency, result).inc()
        # What began in a state that is over says nothing about this one.
        if generation != self._generation or self._mode is not Mode.AUTO:
            return
        if probe:
            self._probing -= 1
            self._probe_ended(result)
        elif result is not Result.IGNORED:
            self._count(result, now)

    def _probe_ended(self, result: Result) -> None:
        if result is Result.FAILURE:
            self._open("probe")
        elif result is not Result.IGNORED:
            self._probes_passed += 1
            if self._probes_passed >= self._settings.probes_needed:
                self._closed_at = self._clock()
                self._enter(State.CLOSED)

    def _count(self, result: Result, now: float) -> None:
        settings = self._settings
        self._window.add(now, result)
        self._failures_in_row = self._failures_in_row + 1 if result is Result.FAILURE else 0
        calls, failures, slow = self._window.sums(now)
        if self._failures_in_row >= settings.failures_in_row:
            self._open("row")
        elif calls >= settings.calls_min and failures / calls >= settings.failure_rate:
            self._open("rate")
        elif calls >= settings.calls_min and slow / calls >= settings.slow_rate:
            self._open("slow")

    def trip(self, reason: str) -> None:
        """Open at once: the dependency said that it will not answer (an exhausted quota)."""
        if self._mode is Mode.AUTO and self.state is not State.OPEN:
            self._open(reason)

    def _open(self, reason: str) -> None:
        self._open_until = self._clock() + self._settings.open_s * (1.0 + self._settings.open_jitter * self._chance())
        self._opened_because = reason
        OPENED.labels(self.dependency, reason).inc()
        log.warning("breaker opens", dependency=self.dependency, reason=reason)
        self._enter(State.OPEN)

    def _enter(self, state: State) -> None:
        """Begin a state with nothing of the one before."""
        self._state = state
        self._generation += 1
        self._failures_in_row = self._probing = self._probes_passed = 0
        self._window.clear()
        self._show()
        log.info("breaker state", dependency=self.dependency, state=self.state.value, mode=self._mode.value)
        for seen in self._watchers:
            seen(self.state)

    def _show(self) -> None:
        for state in State:
            STATE.labels(self.dependency, state).set(state is self.state)
