"""A token bucket: so many at once, then so many per second. Pure."""

from __future__ import annotations

from collections.abc import Callable


class Bucket:
    """Starts full. Who finds it empty is told how long to wait, and has taken its token nevertheless."""

    def __init__(self, per_s: float, at_once: float, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._clock = clock
        self._tokens = at_once
        self._filled_at = clock()

    def take(self) -> float:
        """Take a token; return the seconds until it is really there (0: it is)."""
        now = self._clock()
        self._tokens = min(self._at_once, self._tokens + (now - self._filled_at) * self._per_s) - 1.0
        self._filled_at = now
        return max(0.0, -self._tokens / self._per_s)
