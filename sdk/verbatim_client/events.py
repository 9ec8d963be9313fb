"""Events on their way from the connection to whoever reads along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from verbatim_client.wire import UNNUMBERED, Event

LOSSY_MAX = 1000
LASTING_MAX = 20_000


class EventQueue:
    """A bounded queue. A slow reader loses `ack`, `partial`, `status` and `pong` first."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def put(self, event: Event) -> bool:
        """Add an event; False if so many are unread that one would be lost which matters."""
        if event["type"] in UNNUMBERED:
            if self._queue.qsize() < LOSSY_MAX:
                self._queue.put_nowait(event)
            return True
        if self._queue.qsize() >= LASTING_MAX:
            return False
        self._queue.put_nowait(event)
        return True

    def end(self) -> None:
        """Say that no more will come."""
        self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give the events until the end."""
        while (event := await self._queue.get()) is not None:
            yield event
