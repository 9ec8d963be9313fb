"""The run-time switches, as far as the broker has told of them. The gateway lives without it, with safe defaults."""

from __future__ import annotations

import asyncio

from chassis import bus, telemetry
from chassis.controls import Control, Controls
from chassis.errors import AppError, Kind
from chassis.orders import Orders

log = telemetry.logger(__name__)

_AGAIN_S = 1.0


class Switches:
    """A door to `chassis.controls` that is there before the broker is."""

    def __init__(self, url: str, name: str, *, replicas: int, orders: Orders | None = None) -> None:
        self._url = url
        self._name = name
        self._replicas = replicas
        self._orders = orders
        self._controls: Controls | None = None

    def value(self, name: str, default: str = "") -> str:
        """Return what holds now: without the broker what was read last, or the default."""
        return default if self._controls is None else self._controls.value(name, default)

    def active(self) -> list[Control]:
        """Return the controls that hold now."""
        return [] if self._controls is None else self._controls.active()

    async def put(self, name: str, value: str, *, who: str, why: str, for_s: float | None) -> Control:
        """Set a control for all services. Raises AppError(UNAVAILABLE)."""
        return await self._there().put(name, value, who=who, why=why, for_s=for_s)

    async def clear(self, name: str, *, who: str, why: str) -> None:
        """Give a control back to its default. Raises AppError(UNAVAILABLE)."""
        await self._there().clear(name, who=who, why=why)

    def _there(self) -> Controls:
        if self._controls is None:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.")
        return self._controls

    async def run(self) -> None:
        """Keep the connection and what it tells, for ever."""
        while True:
            try:
                async with bus.connect(self._url, name=f"{self._name} controls", replicas=self._replicas) as broker:
                    self._controls = Controls(broker, replicas=self._replicas)
                    if self._orders is not None:
                        self._orders.obey(self._controls)
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._controls.run())
                        group.create_task(broker.until_closed())
            except* bus.FAULTS as faults:
                log.warning("no controls", fault=repr(faults.exceptions[0]))
            await asyncio.sleep(_AGAIN_S)
