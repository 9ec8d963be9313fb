"""One replica at a time: the rest wait to take over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg

from chassis import telemetry
from chassis.postgres import Database

log = telemetry.logger(__name__)

_ASK_S = 1.0
_ANSWER_S = 5.0


class Leadership:
    """Whoever holds an advisory lock of the database leads. Its connection is the proof: both end together."""

    def __init__(self, database: Database, key: int) -> None:
        self._database = database
        self._key = key

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, which does not end by itself, whenever we lead; for ever.

        Two may work for the moment between the loss of a connection and our noticing, so `work` must bear that.
        """
        while True:
            try:
                async with self._database.dedicated() as connection:
                    await self._lock(connection)
                    log.info("leading")
                    await self._work_while_held(connection, work)
            except (psycopg.Error, OSError, TimeoutError) as fault:
                log.warning("not leading", fault=type(fault).__name__)
                await asyncio.sleep(_ASK_S)

    async def _lock(self, connection: psycopg.AsyncConnection) -> None:
        # Asked for again and again: a statement that waits for the lock would look like a dead server.
        while True:
            async with asyncio.timeout(_ANSWER_S):
                cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", [self._key])
                row = await cursor.fetchone()
            if row and row[0]:
                return
            await asyncio.sleep(_ASK_S)

    async def _work_while_held(self, connection: psycopg.AsyncConnection, work: Callable[[], Awaitable[None]]) -> None:
        working = asyncio.ensure_future(work())
        try:
            while not working.done():
                await asyncio.wait([working], timeout=_ASK_S)
                async with asyncio.timeout(_ANSWER_S):
                    await connection.execute("SELECT 1")
        finally:
            working.cancel()
            await asyncio.wait([working])
        await working
