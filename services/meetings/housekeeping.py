"""What has expired is forgotten: tries, logins, tokens, revocations."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import telemetry
from chassis.errors import AppError
from chassis.postgres import Database
from services.meetings import metrics
from services.meetings.account_tables import known_networks, logins, refresh_tokens, revocations, tries
from services.meetings.guards_store import NETWORKS_KNOWN_S

log = telemetry.logger(__name__)

EVERY_S = 600.0
# Longer than the longest life of what was signed before a revocation, with all its graces.
REVOCATIONS_KEPT_S = 2 * 86400.0
_BATCH = 1000


class Housekeeping:
    """Deletes what has expired, in small transactions. Several replicas may do it at once."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime]) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Work for the life of the process. A database that is away is tried again the next time."""
        while True:
            await asyncio.sleep(EVERY_S * random.uniform(0.5, 1.5))
            try:
                await self.tidy()
            except AppError as fault:
                if not fault.codes.retryable:
                    raise
                log.warning("housekeeping waits", fault=str(fault))

    async def tidy(self) -> dict[str, int]:
        """Delete what has expired. Returns how many rows of each table are gone. Raises AppError."""
        now = self._clock()
        long_ago = now - dt.timedelta(seconds=REVOCATIONS_KEPT_S)
        expired: list[tuple[sa.Table, sa.ColumnElement[bool]]] = [
            (tries, tries.c.forget_at < now),
            (refresh_tokens, refresh_tokens.c.expires_at < now),
            (logins, (logins.c.expires_at < now) | (logins.c.revoked_at < long_ago)),
            (known_networks, known_networks.c.seen_at < now - dt.timedelta(seconds=NETWORKS_KNOWN_S)),
            (revocations, revocations.c.at < long_ago),
        ]
        gone = {}
        for table, over in expired:
            gone[table.name] = await self._delete(table, over)
            metrics.EXPIRED_ROWS.labels(table.name).inc(gone[table.name])
        return gone

    async def _delete(self, table: sa.Table, over: sa.ColumnElement[bool]) -> int:
        keys = list(table.primary_key.columns)
        some = sa.select(*keys).where(over).limit(_BATCH).with_for_update(skip_locked=True)
        delete = table.delete().where(sa.tuple_(*keys).in_(some))

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(delete)).rowcount

        total = 0
        while True:
            deleted = await self._database.run("housekeeping", work)
            total += deleted
            if deleted < _BATCH:
                return total
