"""The insights database: insights by meeting, jobs, outbox and inbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import idempotency, jobs, outbox, pruning, relay
from chassis.errors import AppError, Kind
from services.insights.minutes import ActionItem, Minutes, Point

# The oldest schema that this code works on: numbers of migrations, which compare as text.
REVISION = "0008"

METADATA = sa.MetaData()
OUTBOX = outbox.outbox_table(METADATA)
INBOX = outbox.inbox_table(METADATA)
KEYS = idempotency.keys_table(METADATA)
STREAMS = relay.streams_table(METADATA)
JOBS = jobs.jobs_table(METADATA)
PRUNED = [*pruning.inbox_rules(INBOX), *pruning.jobs_rules(JOBS), pruning.Rule(KEYS, KEYS.c.expires_at < sa.func.now())]
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
    sa.Column("edited", sa.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("beside", JSONB, nullable=False, server_default="{}"),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
)

EDITABLE = ("summary", "key_points", "decisions")
"""What a person may write: it is never overwritten then, what is made for it is kept beside."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Minutes as they stand in the database. The version grows by one with each change."""

    minutes: Minutes
    version: int
    updated_at: datetime
    edited: tuple[str, ...] = ()
    """Fields of EDITABLE that hold a person's words."""
    beside: dict[str, Any] = field(default_factory=dict)
    """By such a field, what was made for it: a text, or Points."""
    reason: str = ""
    """Why it is a draft."""


async def put(
    connection: AsyncConnection, meeting_id: str, owner_id: str, minutes: Minutes, *, job_id: str, reason: str = ""
) -> int | None:
    """Store minutes and return their version; None, and nothing stored, if a job that was asked for later has stored
    its own already. What a person has written stays, and what was made for it is stored beside it."""
    values: dict[str, Any] = {
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
        "reason": reason,
    }
    row = insert(INSIGHTS).values(values)
    written = INSIGHTS.c.edited
    # Decided by the database on the row as it is then: an edit that comes at the same moment is not missed.
    change = {name: value for name, value in values.items() if name not in EDITABLE}
    change |= {
        name: sa.case((sa.literal(name) == sa.any_(written), INSIGHTS.c[name]), else_=row.excluded[name])
        for name in EDITABLE
    }
    made = sa.func.jsonb_build_object(*(part for name in EDITABLE for part in (name, _as_json(row, name))))
    change |= {
        "beside": sa.case((sa.func.cardinality(written) == 0, sa.literal({}, JSONB)), else_=made),
        "version": INSIGHTS.c.version + 1,
        "updated_at": sa.func.now(),
    }
    stored = await connection.execute(
        # Ids of jobs grow with time.
        row.on_conflict_do_update(
            index_elements=["meeting_id"], set_=change, where=INSIGHTS.c.job_id <= job_id
        ).returning(INSIGHTS.c.version)
    )
    found = stored.first()
    return int(found.version) if found is not None else None


async def get(connection: AsyncConnection, meeting_id: str, owner_id: str) -> Stored | None:
    """Return what is stored for a meeting of this owner, or None."""
    query = sa.select(INSIGHTS).where(INSIGHTS.c.meeting_id == meeting_id, INSIGHTS.c.owner_id == owner_id)
    row = (await connection.execute(query)).first()
    return _stored(row) if row is not None else None


async def edit(
    connection: AsyncConnection, meeting_id: str, owner_id: str, version: int, written: Mapping[str, Any]
) -> Stored:
    """Put a person's words in the place of what was made; None in the place of words gives the field back.

    `written` is by field of EDITABLE: a text, or Points. Raises AppError: NOT_FOUND, PRECONDITION_FAILED with the
    current version.
    """
    query = sa.select(INSIGHTS).where(INSIGHTS.c.meeting_id == meeting_id, INSIGHTS.c.owner_id == owner_id)
    row = (await connection.execute(query.with_for_update())).first()
    if row is None:
        raise AppError(Kind.NOT_FOUND, "There are no insights for this meeting.")
    if row.version != version:
        raise AppError(Kind.PRECONDITION_FAILED, "Somebody else has changed it meanwhile.", version=row.version)
    values: dict[str, Any] = {}
    # What stands beside is of edited fields only.
    beside = {name: made for name, made in row.beside.items() if name in row.edited}
    for name, words in written.items():
        if words is not None:
            beside.setdefault(name, row._mapping[name])
            values[name] = words if isinstance(words, str) else _rows(words)
        elif name in beside:
            values[name] = beside.pop(name)
    values |= {"edited": sorted(beside), "beside": beside, "version": row.version + 1, "updated_at": sa.func.now()}
    change = INSIGHTS.update().where(INSIGHTS.c.meeting_id == meeting_id).values(values).returning(*INSIGHTS.c)
    return _stored((await connection.execute(change)).one())


def _stored(row: Any) -> Stored:
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
    beside = {
        name: made if isinstance(made, str) else _points(made)
        for name, made in row.beside.items()
        if name in row.edited
    }
    return Stored(minutes, row.version, row.updated_at, tuple(row.edited), beside, row.reason)


async def remove(connection: AsyncConnection, meeting_id: str) -> None:
    """Remove what is stored for a meeting, if there is anything."""
    await connection.execute(INSIGHTS.delete().where(INSIGHTS.c.meeting_id == meeting_id))


def _as_json(row: Any, name: str) -> Any:
    return sa.func.to_jsonb(row.excluded[name])


def _rows(points: Iterable[Point]) -> list[dict[str, Any]]:
    return [{"text": point.text, "segment_ids": list(point.segment_ids)} for point in points]


def _points(rows: Iterable[dict[str, Any]]) -> tuple[Point, ...]:
    return tuple(Point(row["text"], tuple(row["segment_ids"])) for row in rows)
