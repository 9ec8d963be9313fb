"""Hold a task to its share of the processor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Pace:
    """Tells a task how long to rest, so that it uses at most `share` of one processor after a burst of `burst_s`.

    Counts the processor time of the thread, so the work that it times must not await.
    """

    def __init__(
        self,
        *,
        share: float,
        burst_s: float,
        clock: Callable[[], float] = time.monotonic,
        processor_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._share = share
        self._burst_s = burst_s
        self._clock = clock
        self._processor_clock = processor_clock
        self._owed_s = 0.0
        self._settled_at = clock()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Time a piece of work."""
        begun_at = self._processor_clock()
        try:
            yield
        finally:
            self._owed_s += self._processor_clock() - begun_at

    def rest_s(self) -> float:
        """Return how long to rest now; 0 while the burst lasts."""
        now = self._clock()
        self._owed_s = max(0.0, self._owed_s - (now - self._settled_at) * self._share)
        self._settled_at = now
        return max(0.0, self._owed_s - self._burst_s) / self._share
