"""A connection to the broker that is made in the background: the process lives without it."""

from __future__ import annotations

import asyncio

from chassis import bus
from chassis.errors import AppError, Kind


class Broker:
    """Connects for as long as it takes; `bus` is there when the broker is."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._bus: bus.Bus | None = None
        self.met = asyncio.Event()
        """Set once there has been a connection; it mends itself from then on."""

    async def keep_connected(self) -> None:
        """Connect, for ever if need be, and stay connected for the life of the process."""
        async with bus.connect(self._url, name=self._name, replicas=1) as connected:
            self._bus = connected
            self.met.set()
            await connected.until_closed()

    @property
    def bus(self) -> bus.Bus:
        """The connection. Raises AppError(UNAVAILABLE) if there was none yet."""
        if self._bus is None:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log="never connected")
        return self._bus
