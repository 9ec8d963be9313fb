"""Figures by meeting, speaker and task, as the meetings service tells them, and what they add up to.

Each fact tells a whole meeting or task with a version: the highest counts, so what comes twice or late changes nothing.
A period is a sum over the meetings that began in it, read from an index, never over segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.meetings.v1.figures_pb2 import MeetingFigures, TaskFigures

from chassis import pruning
from services.insights.periods import Period
from services.insights.store import METADATA

_Id = sa.Uuid(as_uuid=False)
_Time = sa.DateTime(timezone=True)
SPEAKERS_MOST = 100

MEETINGS = sa.Table(
    "meeting_figures", METADATA,
    sa.Column("meeting_id", _Id, primary_key=True),
    # Nobody's, of one that was deleted.
    sa.Column("owner_id", _Id),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("began_at", _Time),
    sa.Column("talk_s", sa.Double, nullable=False),
    sa.Column("words", sa.BigInteger, nullable=False),
    sa.Column("deleted_at", _Time),
    sa.Column("told_at", _Time, nullable=False, server_default=sa.func.now()),
    sa.Index(
        "meeting_figures_of_owner", "owner_id", "began_at",
        postgresql_include=["talk_s", "words"], postgresql_where=sa.text("deleted_at IS NULL"),
    ),
)  # fmt: skip
SPEAKERS = sa.Table(
    "speaker_figures", METADATA,
    sa.Column("meeting_id", _Id, primary_key=True),
    sa.Column("speaker", sa.Text, primary_key=True),
    sa.Column("owner_id", _Id, nullable=False),
    sa.Column("began_at", _Time, nullable=False),
    sa.Column("talk_s", sa.Double, nullable=False),
    sa.Column("words", sa.BigInteger, nullable=False),
    sa.Index(
        "speaker_figures_of_owner", "owner_id", "began_at", postgresql_include=["speaker", "talk_s", "words"]
    ),
)  # fmt: skip
TASKS = sa.Table(
    "task_figures", METADATA,
    sa.Column("task_id", _Id, primary_key=True),
    sa.Column("owner_id", _Id),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", _Time),
    sa.Column("done", sa.Boolean, nullable=False),
    sa.Column("deleted_at", _Time),
    sa.Index(
        "task_figures_of_owner", "owner_id", "created_at",
        postgresql_include=["done"], postgresql_where=sa.text("deleted_at IS NULL"),
    ),
)  # fmt: skip
# What is left of the deleted keeps late facts away, and goes when none can come any more.
PRUNED = [pruning.Rule(table, pruning.older(table.c.deleted_at, 90)) for table in (MEETINGS, TASKS)]


@dataclass(frozen=True, slots=True)
class Talk:
    """What somebody said; empty: nobody is named."""

    speaker: str
    talk_s: float
    words: int


@dataclass(slots=True)
class Day:
    """The figures of a day."""

    day: date
    meetings: int = 0
    talk_s: float = 0.0
    words: int = 0
    tasks_open: int = 0
    tasks_done: int = 0


@dataclass(frozen=True, slots=True)
class Analytics:
    """What a period amounts to: its days, and who spoke in it, who talked longest first."""

    days: Sequence[Day]
    speakers: Sequence[Talk]


async def tell_meetings(connection: AsyncConnection, facts: Sequence[MeetingFigures]) -> int:
    """Take in how meetings stand. Returns of how many that was news."""
    newest = {fact.meeting_id: fact for fact in sorted(facts, key=_rank)}
    if not newest:
        return 0
    rows = [
        {
            "meeting_id": fact.meeting_id, "owner_id": None if fact.deleted else fact.owner_id, "version": fact.version,
            "began_at": None if fact.deleted else fact.began_at.ToDatetime(UTC),
            "talk_s": sum(s.talk_s for s in fact.speakers), "words": sum(s.words for s in fact.speakers),
            "deleted_at": sa.func.now() if fact.deleted else None,
        }
        for _, fact in sorted(newest.items())
    ]  # fmt: skip
    news = await _write(connection, MEETINGS, "meeting_id", rows)
    await connection.execute(SPEAKERS.delete().where(SPEAKERS.c.meeting_id.in_(news)))
    said = [
        {
            "meeting_id": meeting_id, "owner_id": newest[meeting_id].owner_id, "speaker": s.speaker,
            "began_at": newest[meeting_id].began_at.ToDatetime(UTC), "talk_s": s.talk_s, "words": s.words,
        }
        for meeting_id in news if not newest[meeting_id].deleted for s in newest[meeting_id].speakers
    ]  # fmt: skip
    if said:
        await connection.execute(SPEAKERS.insert(), said)
    return len(news)


async def tell_tasks(connection: AsyncConnection, facts: Sequence[TaskFigures]) -> int:
    """Take in how tasks stand. Returns of how many that was news."""
    newest = {fact.task_id: fact for fact in sorted(facts, key=_rank)}
    rows = [
        {
            "task_id": fact.task_id, "owner_id": None if fact.deleted else fact.owner_id, "version": fact.version,
            "created_at": None if fact.deleted else fact.created_at.ToDatetime(UTC), "done": fact.status == "done",
            "deleted_at": sa.func.now() if fact.deleted else None,
        }
        for _, fact in sorted(newest.items())
    ]  # fmt: skip
    return len(await _write(connection, TASKS, "task_id", rows))


def _rank(fact: MeetingFigures | TaskFigures) -> tuple[bool, int]:
    # Ids are not used again: what was deleted stays that, whatever comes late.
    return fact.deleted, fact.version


async def _write(connection: AsyncConnection, table: sa.Table, key: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Write what is newer than what is there. Returns the ids of these."""
    if not rows:
        return []
    new = insert(table).values(rows)
    said = {column: new.excluded[column] for column in rows[0] if column != key}
    newer = table.c.deleted_at.is_(None) & (
        (new.excluded.version > table.c.version) | new.excluded.deleted_at.is_not(None)
    )
    write = new.on_conflict_do_update(index_elements=[key], set_=said, where=newer).returning(table.c[key])
    return list((await connection.execute(write)).scalars())


async def add_up(connection: AsyncConnection, owner_id: str, period: Period) -> Analytics:
    """Return what the period amounts to."""
    days = [Day(day) for day in period.days]
    begins = sa.cast(list(period.begins), sa.ARRAY(_Time))
    m, t, s = MEETINGS.c, TASKS.c, SPEAKERS.c
    # A day is told by its number, from 1; what began before the first one's midnight cannot be in the period.
    number = sa.func.width_bucket(m.began_at, begins).label("number")
    query = sa.select(number, sa.func.count(), sa.func.sum(m.talk_s), sa.func.sum(m.words))
    query = query.where(m.owner_id == owner_id, m.deleted_at.is_(None), *_within(m.began_at, period))
    for at, count, talk_s, words in await connection.execute(query.group_by(number)):
        day = days[at - 1]
        day.meetings, day.talk_s, day.words = count, talk_s, int(words)
    number = sa.func.width_bucket(t.created_at, begins).label("number")
    query = sa.select(number, sa.func.count().filter(~t.done), sa.func.count().filter(t.done))
    query = query.where(t.owner_id == owner_id, t.deleted_at.is_(None), *_within(t.created_at, period))
    for at, still_open, done in await connection.execute(query.group_by(number)):
        days[at - 1].tasks_open, days[at - 1].tasks_done = still_open, done
    talk = sa.func.sum(s.talk_s)
    query = sa.select(s.speaker, talk, sa.func.sum(s.words)).where(s.owner_id == owner_id, *_within(s.began_at, period))
    query = query.group_by(s.speaker).order_by(talk.desc(), s.speaker).limit(SPEAKERS_MOST)
    speakers = [Talk(row[0], row[1], int(row[2])) for row in await connection.execute(query)]
    return Analytics(days, speakers)


def _within(column: sa.ColumnElement[datetime], period: Period) -> tuple[sa.ColumnElement[bool], ...]:
    return column >= period.start, column < period.end
