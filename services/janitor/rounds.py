"""Tasks that come round again and again; a round that fails is counted, and the next one comes all the same."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from chassis import telemetry
from services.janitor import metrics

log = telemetry.logger(__name__)

_JITTER = 0.1


class Round:
    """One task. `work` makes one round; it must be safe to repeat, and safe beside the same task of another replica."""

    def __init__(self, task: str, work: Callable[[], Awaitable[None]], every_s: float, *, deadline_s: float) -> None:
        self.task = task
        self._work = work
        self._every_s = every_s
        self._deadline_s = deadline_s
        for result in ("done", "failed"):
            metrics.RUNS.labels(task, result)

    async def run(self) -> None:
        """Make rounds for the life of the process, the first at once."""
        while True:
            await self.once()
            # Replicas that started together do not stay together.
            await asyncio.sleep(self._every_s * random.uniform(1.0 - _JITTER, 1.0 + _JITTER))

    async def once(self) -> bool:
        """Make one round; False if it failed."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._work()
            result = "done"
        except Exception as fault:  # noqa: BLE001 - the edge of the task: one bad round must not be the last
            log.warning("round failed", task=self.task, fault=f"{type(fault).__name__}: {fault}")
            result = "failed"
        metrics.DURATION.labels(self.task).observe(time.monotonic() - began)
        metrics.RUNS.labels(self.task, result).inc()
        metrics.LAST_RUN.labels(self.task).set(time.time())
        metrics.LAST_SUCCESS.labels(self.task).set(result == "done")
        return result == "done"
