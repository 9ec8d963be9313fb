"""Time and chance for tests of what takes them as arguments."""

from __future__ import annotations

import asyncio


class Clock:
    """Seconds that pass when the test says so; to sleep is to let them pass."""

    def __init__(self, now_s: float = 1_000.0) -> None:
        self.now_s = now_s
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds

    async def sleep(self, seconds: float) -> None:
        """Be back at once, so much later."""
        self.slept.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)
