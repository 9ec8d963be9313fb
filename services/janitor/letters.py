"""The dead letters at the broker."""

from __future__ import annotations

import nats.js.errors

from chassis import bus
from chassis.broker import Broker
from chassis.dead_letters import DLQ
from chassis.errors import AppError, Kind


class DeadLetters:
    """The stream of dead letters."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def count(self) -> int:
        """Return how many there are; none if there is no such stream yet. Raises AppError(UNAVAILABLE)."""
        try:
            return int((await self._broker.bus.js.stream_info(DLQ.name)).state.messages)
        except nats.js.errors.NotFoundError:
            return 0
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
