"""Transcripts that people have changed: told of when they rest, so that minutes are made once and not for each word."""

from __future__ import annotations

import asyncio
import random

from chassis import telemetry
from chassis.errors import AppError
from services.meetings.edits_store import EditsStore

log = telemetry.logger(__name__)


class Resting:
    """Looks now and then for transcripts that were changed and have rested since."""

    def __init__(self, store: EditsStore, *, rest_s: float) -> None:
        self._store = store
        self._rest_s = rest_s

    async def run(self) -> None:
        """Work for the life of the process. A database that is away is tried again the next time."""
        while True:
            await asyncio.sleep(max(0.5, self._rest_s / 5) * random.uniform(0.5, 1.5))
            try:
                while await self._store.tell_rested(self._rest_s):
                    pass
            except AppError as fault:
                if not fault.codes.retryable:
                    raise
                log.warning("edits wait to be told", fault=str(fault))
