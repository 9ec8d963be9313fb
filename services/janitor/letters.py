"""The dead letters at the broker, which may be away for as long as it likes."""

from __future__ import annotations

import nats.js.errors

from chassis import bus
from chassis.errors import AppError, Kind
from chassis.jobs import DLQ


class DeadLetters:
    """The stream of dead letters."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._bus: bus.Bus | None = None

    async def keep_connected(self) -> None:
        """Connect, for ever if need be, and stay connected for the life of the process."""
        async with bus.connect(self._url, name="janitor", replicas=1) as broker:
            self._bus = broker
            await broker.until_closed()

    async def count(self) -> int:
        """Return how many there are; none if there is no such stream yet. Raises AppError(UNAVAILABLE)."""
        if self._bus is None:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log="never connected")
        try:
            return int((await self._bus.js.stream_info(DLQ.name)).state.messages)
        except nats.js.errors.NotFoundError:
            return 0
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
