"""When to connect again: at once, then later and later, with full jitter, and not for ever."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

FIRST_S = 0.25
LONGEST_S = 10.0
FAILURES_MAX = 10
SHORT_LIFE_S = 5.0
SHORT_LIVES_MAX = 3
HEALTHY_AFTER_S = 10.0


class Backoff:
    """The reconnect rules of the live protocol, as a state machine that only counts.

    Full jitter: a uniform draw between 0 and the exponential bound
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, draw: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._clock = clock
        self._draw = draw
        self._failures = 0
        self._short_lives = 0
        self._connected_at: float | None = None

    def connected(self) -> None:
        """Note that a connection was accepted by the platform."""
        self._connected_at = self._clock()

    def lost(self, retry_after_s: float | None = None) -> float | None:
        """Note that a connection, or an attempt, failed. Give the wait in seconds, None for: give up."""
        lived_s = 0.0 if self._connected_at is None else self._clock() - self._connected_at
        if lived_s >= HEALTHY_AFTER_S:
            self._failures = self._short_lives = 0
        elif self._connected_at is not None and lived_s < SHORT_LIFE_S:
            self._short_lives += 1
        self._connected_at = None
        self._failures += 1
        if self._failures >= FAILURES_MAX or self._short_lives >= SHORT_LIVES_MAX:
            return None
        if retry_after_s is not None:
            return retry_after_s
        if self._failures == 1:
            return 0.0
        return self._draw(0.0, min(LONGEST_S, FIRST_S * 2.0 ** (self._failures - 2)))
