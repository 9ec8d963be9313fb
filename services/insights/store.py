"""The insights database: insights by meeting, jobs, outbox and inbox."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import idempotency, jobs, outbox, pruning, relay
from services.insights.minutes import ActionItem, Minutes, Point

# The oldest schema that this code works on: numbers of migrations, which compare as text.
REVISION = "0005"

METADATA = sa.MetaData()
OUTBOX = outbox.outbox_table(METADATA)
INBOX = outbox.inbox_table(METADATA)
KEYS = idempotency.keys_table(METADATA)
STREAMS = relay.streams_table(METADATA)
JOBS = jobs.jobs_table(METADATA)
PRUNED = [*pruning.inbox_rules(INBOX), *pruning.jobs_rules(JOBS)]
INSIGHTS = sa.Table(
    "insights",
    METADATA,
    sa.Column("meeting_id", sa.Text, primary_key=True),
    sa.Column("owner_id", sa.Text, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("key_points", JSONB, nullable=False),
    sa.Column("decisions", JSONB, nullable=False),
    sa.Column("action_items", JSONB, nullable=False),
    sa.Column("quality", sa.Text, nullable=False),
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)


@dataclass(frozen=True, slots=True)
class Stored:
    """Minutes as they stand in the database. The version grows by one with each change."""

    minutes: Minutes
    version: int
    updated_at: datetime


async def put(
    connection: AsyncConnection, meeting_id: str, owner_id: str, minutes: Minutes, *, job_id: str
) -> int | None:
    """Store minutes and return their version; None, and nothing stored, if a job that was asked for later has stored
    its own already."""
    values = {
        "meeting_id": meeting_id,
        "owner_id": owner_id,
        "summary": minutes.summary,
        "key_points": _rows(minutes.key_points),
        "decisions": _rows(minutes.decisions),
        "action_items": [
            {
                "text": item.text,
                "assignee": item.assignee,
                "due": item.due.isoformat() if item.due else "",
                "segment_ids": list(item.segment_ids),
            }
            for item in minutes.action_items
        ],
        "quality": minutes.quality,
        "engine": minutes.engine,
        "job_id": job_id,
    }
    change = {**values, "version": INSIGHTS.c.version + 1, "updated_at": sa.func.now()}
    stored = await connection.execute(
        insert(INSIGHTS)
        .values(values)
        # Ids of jobs grow with time.
        .on_conflict_do_update(index_elements=["meeting_id"], set_=change, where=INSIGHTS.c.job_id <= job_id)
        .returning(INSIGHTS.c.version)
    )
    row = stored.first()
    return int(row.version) if row is not None else None


async def get(connection: AsyncConnection, meeting_id: str, owner_id: str) -> Stored | None:
    """Return what is stored for a meeting of this owner, or None."""
    query = sa.select(INSIGHTS).where(INSIGHTS.c.meeting_id == meeting_id, INSIGHTS.c.owner_id == owner_id)
    row = (await connection.execute(query)).first()
    if row is None:
        return None
    minutes = Minutes(
        summary=row.summary,
        key_points=_points(row.key_points),
        decisions=_points(row.decisions),
        action_items=tuple(
            ActionItem(
                item["text"],
                item["assignee"],
                date.fromisoformat(item["due"]) if item["due"] else None,
                tuple(item["segment_ids"]),
            )
            for item in row.action_items
        ),
        quality=row.quality,
        engine=row.engine,
    )
    return Stored(minutes, row.version, row.updated_at)


async def remove(connection: AsyncConnection, meeting_id: str) -> None:
    """Remove what is stored for a meeting, if there is anything."""
    await connection.execute(INSIGHTS.delete().where(INSIGHTS.c.meeting_id == meeting_id))


def _rows(points: Iterable[Point]) -> list[dict[str, Any]]:
    return [{"text": point.text, "segment_ids": list(point.segment_ids)} for point in points]


def _points(rows: Iterable[dict[str, Any]]) -> tuple[Point, ...]:
    return tuple(Point(row["text"], tuple(row["segment_ids"])) for row in rows)
