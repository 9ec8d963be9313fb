"""Trying again: the one layer of it around a call to another system, bounded in number, time and share of all calls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity
from prometheus_client import Counter, Gauge

ATTEMPTS = Counter("retry_attempts_total", "Retries and their refusals.", ["dependency", "outcome"])
EXHAUSTED = Counter("retry_budget_exhausted_total", "Retries not made because too many were.", ["dependency"])
TOKENS = Gauge("retry_budget_tokens", "Retries that the budget would allow now.", ["dependency"])

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """How often, when, and how much of all calls may be retries; for the pauses see `Retrier.pause_s`."""

    attempts: int = 3
    wait_min_s: float = 2.0
    wait_max_s: float = 10.0
    least_s: float = 1.0  # an attempt that would have less time is not begun
    budget_share: float = 0.1  # retries per call, on the average
    budget_burst: float = 10.0  # retries that may come at once after quiet times


class RetryBudget:
    """A bucket of tokens: each call puts a share of one in, each retry takes one out. Shared by a process.

    When everything fails, retries add at most `share` to the load; see the SRE book, "Handling Overload".
    """

    def __init__(self, dependency: str, *, share: float, burst: float) -> None:
        self._dependency = dependency
        self._share = share
        self._burst = burst
        self.tokens = burst
        EXHAUSTED.labels(dependency)
        TOKENS.labels(dependency).set(burst)

    def deposit(self) -> None:
        """Count a call."""
        self.tokens = min(self._burst, self.tokens + self._share)
        TOKENS.labels(self._dependency).set(self.tokens)

    def withdraw(self) -> bool:
        """Take leave for a retry, if there is any."""
        if self.tokens < 1.0:
            EXHAUSTED.labels(self._dependency).inc()
            return False
        self.tokens -= 1.0
        TOKENS.labels(self._dependency).set(self.tokens)
        return True


class Deadline:
    """The time that a call has, its retries included."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends_at = clock() + seconds

    @property
    def left_s(self) -> float:
        """The seconds that are left, never less than none."""
        return max(0.0, self._ends_at - self._clock())

    def extend(self, seconds: float) -> None:
        """Give back time that the call spent waiting for its turn, where nobody waits for its answer."""
        self._ends_at += seconds


class Retrier:
    """Makes calls to one dependency, again where that may help."""

    def __init__(
        self,
        dependency: str,
        settings: RetrySettings,
        *,
        retryable: Callable[[BaseException], bool],
        asked_pause_s: Callable[[BaseException], float | None],
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float],
    ) -> None:
        """Take what tells failures apart: `retryable` must be true only for those that another try may mend.

        `asked_pause_s` gives what the dependency asked for (`Retry-After`), or None.
        """
        self.dependency = dependency
        self._settings = settings
        self._retryable = retryable
        self._asked_pause_s = asked_pause_s
        self._chance = chance
        self._sleep = sleep
        self._clock = clock
        self.budget = RetryBudget(dependency, share=settings.budget_share, burst=settings.budget_burst)
        for outcome in ("retried", "gave_up", "no_time", "no_budget"):
            ATTEMPTS.labels(dependency, outcome)

    async def call(self, attempt: Callable[[Deadline], Awaitable[T]], *, deadline_s: float) -> T:
        """Return what `attempt` returns. It is given the deadline, and must keep it.

        Raises what the last attempt raised. A pause that would not leave time for another attempt is not begun.
        """
        deadline = Deadline(deadline_s, self._clock)
        self.budget.deposit()

        def stop(state: tenacity.RetryCallState) -> bool:
            outcome = "retried"
            if state.attempt_number >= self._settings.attempts:
                outcome = "gave_up"
            elif deadline.left_s < state.upcoming_sleep + self._settings.least_s:
                outcome = "no_time"
            elif not self.budget.withdraw():
                outcome = "no_budget"
            ATTEMPTS.labels(self.dependency, outcome).inc()
            return outcome != "retried"

        def wait(state: tenacity.RetryCallState) -> float:
            fault = state.outcome.exception() if state.outcome is not None else None
            asked_s = self._asked_pause_s(fault) if fault is not None else None
            return max(self.pause_s(state.attempt_number), asked_s or 0.0)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(self._retryable), wait=wait, stop=stop, sleep=self._sleep, reraise=True
        )

        async def once() -> T:
            return await attempt(deadline)

        return await retrying(once)

    def pause_s(self, failures: int) -> float:
        """Return the pause after some failures: doubling from the least, up to half longer by chance, to the most."""
        settings = self._settings
        grown = settings.wait_min_s * 2.0 ** (failures - 1) * (1.0 + 0.5 * self._chance())
        return min(settings.wait_max_s, grown)
