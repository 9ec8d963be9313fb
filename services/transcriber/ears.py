"""One pair of ears for all sessions of a process: every few milliseconds they go through all that came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Ears:
    """Lets the sessions hear together. Frame by frame, as they come, the same work takes twice the time: between two
    frames the processor does other things, and has forgotten code and tables."""

    def __init__(self, *, every_s: float = 0.01) -> None:
        self._every_s = every_s
        self._due: list[Callable[[], None]] = []
        self._news = asyncio.Event()
        self._open = False

    def soon(self, hear: Callable[[], None]) -> None:
        """Call `hear`, which must not raise, in some milliseconds; at once if `run` is not running."""
        if self._open:
            self._due.append(hear)
            self._news.set()
        else:
            hear()

    async def run(self) -> None:
        """Hear, for ever."""
        self._open = True
        try:
            while True:
                await self._news.wait()
                await asyncio.sleep(self._every_s)
                self._hear()
        finally:
            self._open = False
            self._hear()

    def _hear(self) -> None:
        self._news.clear()
        due, self._due = self._due, []
        for hear in due:
            hear()
