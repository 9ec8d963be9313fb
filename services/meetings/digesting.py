"""Digests are renewed for the life of the process: soon after a change, never in its transaction."""

from __future__ import annotations

import asyncio
import random

from chassis import telemetry
from chassis.errors import AppError, Kind
from services.meetings import metrics
from services.meetings.digests_store import DigestsStore

log = telemetry.logger(__name__)

_MOST = 20


class Digesting:
    """Looks for what changed every few seconds."""

    def __init__(self, store: DigestsStore, *, every_s: float) -> None:
        self._store = store
        self._every_s = every_s
        self._most = _MOST

    async def run(self) -> None:
        """Work for the life of the process. A database that is away is tried again the next time."""
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.5, 1.5))
            try:
                await self._catch_up()
            except AppError as fault:
                if not fault.codes.retryable:
                    raise
                if fault.kind is Kind.TIMEOUT:
                    # Long meetings, or a database that has much to do: fewer at once.
                    self._most = max(1, self._most // 2)
                log.warning("digests wait", fault=str(fault))

    async def _catch_up(self) -> None:
        while (renewed := await self._store.renew(self._most)).total:
            self._most = min(_MOST, self._most + 1)
            metrics.DIGESTS.labels("meeting").inc(renewed.meetings)
            metrics.DIGESTS.labels("task").inc(renewed.tasks)
            metrics.DIGESTS.labels("deletion").inc(renewed.gone)
            metrics.DIGEST_WAITED.observe(renewed.waited_s)
