"""What accounts have used: seconds of audio by calendar month, written in the transaction that closes a session."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.postgres import Database
from services.meetings.store import meetings, sessions
from services.meetings.webhook_tables import audio_usage

# Of an open session nobody knows yet how much was said in it; of one that nobody closes no more than a day counts.
_OPEN_MAX_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one account in the month from `start` to `end` (UTC)."""

    start: dt.datetime
    end: dt.datetime
    audio_s: float


def month_of(now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Return the first moment of a time's calendar month in UTC, and that of the next."""
    start = now.astimezone(dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start, (start + dt.timedelta(days=32)).replace(day=1)


class UsageStore:
    """Reads what was used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, owner_id: str, now: dt.datetime) -> Usage:
        """Return the usage of an account in the month of `now`; sessions under way count by how long they are open."""
        start, end = month_of(now)
        closed = sa.select(audio_usage.c.audio_s).where(
            audio_usage.c.owner_id == owner_id, audio_usage.c.month == start.date()
        )
        since = sa.func.extract("epoch", sa.func.now() - sa.func.greatest(sessions.c.opened_at, start))
        under_way = (
            sa.select(sa.func.coalesce(sa.func.sum(sa.func.least(sa.func.greatest(since, 0.0), _OPEN_MAX_S)), 0.0))
            .join(meetings, meetings.c.id == sessions.c.meeting_id)
            .where(meetings.c.owner_id == owner_id, sessions.c.closed_at.is_(None))
        )

        async def work(connection: AsyncConnection) -> float:
            used = (await connection.execute(closed)).scalar_one_or_none() or 0.0
            return float(used) + float((await connection.execute(under_way)).scalar_one())

        return Usage(start, end, await self._database.run("usage", work))


async def charge(connection: AsyncConnection, session_ids: Collection[str]) -> None:
    """Charge the accounts of sessions that the caller's transaction has just closed."""
    if not session_ids:
        return
    day = sa.func.date_trunc("month", sa.func.timezone("UTC", sessions.c.closed_at))
    month = sa.cast(day, sa.Date).label("month")
    used = (
        sa.select(meetings.c.owner_id, month, sa.func.sum(sessions.c.audio_s))
        .join(meetings, meetings.c.id == sessions.c.meeting_id)
        .where(sessions.c.id.in_(session_ids), sessions.c.audio_s.is_not(None))
        .group_by(meetings.c.owner_id, month)
    )
    add = insert(audio_usage).from_select(["owner_id", "month", "audio_s"], used)
    total = audio_usage.c.audio_s + add.excluded.audio_s
    await connection.execute(add.on_conflict_do_update(index_elements=["owner_id", "month"], set_={"audio_s": total}))
