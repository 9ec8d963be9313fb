"""The gateway's connection to the broker, as long as there is one: it lives without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chassis import bus, telemetry
from chassis.errors import AppError, Kind

log = telemetry.logger(__name__)

_AGAIN_S = 1.0

Greet = Callable[[bus.Bus], Awaitable[None]]


class Broker:
    """One connection for all that the gateway does at the broker."""

    def __init__(self, url: str, name: str, *, replicas: int = 1) -> None:
        self._url = url
        self._name = name
        self._replicas = replicas
        self._greets: list[Greet] = []
        self._bus: bus.Bus | None = None

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached, as far as is known."""
        return self._bus is not None and self._bus.client.is_connected

    def get(self) -> bus.Bus | None:
        """Return the connection, which may be lost at the moment; None before there was one."""
        return self._bus

    def require(self) -> bus.Bus:
        """Return the connection. Raises AppError(UNAVAILABLE) if there is none."""
        if self._bus is None:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log="no connection to the broker")
        return self._bus

    def when_connected(self, greet: Greet) -> None:
        """Have `greet` called with every new connection. A connection that is lost and found again is not new:
        the client renews its subscriptions by itself."""
        self._greets.append(greet)

    async def run(self) -> None:
        """Keep the connection, for ever."""
        while True:
            try:
                async with bus.connect(self._url, name=self._name, replicas=self._replicas) as connection:
                    self._bus = connection
                    for greet in self._greets:
                        await greet(connection)
                    await connection.until_closed()
            except bus.FAULTS as fault:
                log.warning("no broker", fault=repr(fault))
                await asyncio.sleep(_AGAIN_S)
            finally:
                self._bus = None
