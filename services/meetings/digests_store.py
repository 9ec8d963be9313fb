"""Digests of what changed: search pages for finding meetings, figures for those who count them.

A digest is always made of the whole meeting as it stands, so a revision, a deletion or a repeat needs no thought; what
has to be told is known from the tables themselves (migration 0010). See docs/adr/0060-digests-of-whole-meetings.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.meetings.v1.figures_pb2 import MeetingFigures, SpeakerFigures, TaskFigures

from chassis import outbox
from chassis.postgres import Database
from chassis.relay import withdraw
from services.meetings.digest_tables import digests_due, search_pages
from services.meetings.meetings import Status
from services.meetings.messages import stamp
from services.meetings.store import SOURCE, meetings, outbox_rows, progress, segments, tasks

MEETING, TASK = "meeting", "task"
MEETING_FIGURES, TASK_FIGURES = "events.figures.meeting", "events.figures.task"
_VERSIONS = "digests"
# A page is at most so many characters: Postgres refuses a vector over 1 MiB. Some hours of speech.
PAGE_CHARS = 200_000
# In scripts that know no blanks a sign counts as a word, as word processors count.
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = f"[{_SIGNS}]|[^\\s{_SIGNS}]*[[:alnum:]][^\\s{_SIGNS}]*"

# Pages of some meetings, as they should be. Each begins with the owner as a word that no query can hold.
PAGES = f"""
SELECT m.id AS meeting_id, coalesce(p.page, 0) AS page, m.owner_id, m.created_at,
    array_to_tsvector(ARRAY['@' || m.owner_id::text])
    || setweight(to_tsvector('simple'::regconfig, left(m.title, 10000)), 'A')
    || setweight(to_tsvector('simple'::regconfig, coalesce(left(t.text, 100000), '')), 'B')
    || to_tsvector('simple'::regconfig, coalesce(p.text, '')) AS search
FROM meetings AS m
LEFT JOIN minutes_texts AS t ON t.meeting_id = m.id
LEFT JOIN LATERAL (
    SELECT s.page, string_agg(s.text, ' ' ORDER BY s.start_s, s.session_id, s.index) AS text
    FROM (
        SELECT left(text, {PAGE_CHARS}) AS text, start_s, session_id, index,
            (sum(length(left(text, {PAGE_CHARS})) + 1) OVER (ORDER BY start_s, session_id, index) / {PAGE_CHARS})::int
            AS page
        FROM segments WHERE meeting_id = m.id
    ) AS s GROUP BY s.page
) AS p ON true
WHERE m.id = ANY(:ids)
"""  # noqa: S608 - constants
_ADD_PAGES = f"INSERT INTO search_pages (meeting_id, page, owner_id, created_at, search) {PAGES}"


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a round came to."""

    meetings: int = 0
    tasks: int = 0
    gone: int = 0
    waited_s: float = 0.0
    """How long the change that waited longest had waited."""

    @property
    def total(self) -> int:
        return self.meetings + self.tasks + self.gone


class DigestsStore:
    """Makes digests. Several replicas may: they come one after the other."""

    def __init__(self, database: Database, *, live_every_s: float = 60.0) -> None:
        """A meeting that goes on is digested every `live_every_s` seconds."""
        self._database = database
        self._live_every_s = live_every_s

    async def renew(self, most: int = 20) -> Renewed:
        """Digest at most so many meetings and tasks that changed, and tell of them. Raises AppError."""
        return await self._database.run("renew digests", lambda connection: self._renew(connection, most))

    async def rebuild(self) -> None:
        """Have everything digested again, by and by."""

        async def work(connection: AsyncConnection) -> None:
            for kind, table in ((MEETING, meetings), (TASK, tasks)):
                all_of_it = sa.select(sa.literal(kind), table.c.id)
                await connection.execute(digests_due.insert().from_select(["kind", "id"], all_of_it))

        await self._database.run("rebuild digests", work)

    async def _renew(self, connection: AsyncConnection, most: int) -> Renewed:
        if not await self._due(connection, most):
            return Renewed()
        # Its row keeps other replicas away until we are done, and its number grows from one to the next: so of two
        # digests of one thing, the one with the higher version has seen more.
        version = await _next_version(connection)
        due = await self._due(connection, most)
        if not due:
            return Renewed()
        waited_s = await _take(connection, due)
        ids_of = {kind: sorted(row_id for k, row_id in due if k == kind) for kind in (MEETING, TASK)}
        facts = await _meeting_figures(connection, ids_of[MEETING], version)
        there = [fact.meeting_id for fact in facts if not fact.deleted]
        await _renew_pages(connection, there)
        done = await _task_figures(connection, ids_of[TASK], version)
        await _forget_figures(connection, [fact.meeting_id for fact in facts if fact.deleted])
        for fact in facts:
            if fact.deleted:  # what was told of it before names who spoke
                await withdraw(connection, outbox_rows, fact.meeting_id, MEETING_FIGURES)
        events = [outbox.event(MEETING_FIGURES, fact.SerializeToString(), fact.meeting_id) for fact in facts]
        events += [outbox.event(TASK_FIGURES, fact.SerializeToString(), fact.task_id) for fact in done]
        await outbox.put(connection, outbox_rows, events, source=SOURCE)
        tasks_there = sum(not fact.deleted for fact in done)
        return Renewed(len(there), tasks_there, len(due) - len(there) - tasks_there, waited_s)

    async def _due(self, connection: AsyncConnection, most: int) -> list[tuple[str, str]]:
        d, m = digests_due.c, meetings.c
        going_on = m.status.in_((Status.LIVE, Status.PROCESSING))
        ripe = d.at < sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, self._live_every_s)
        query = (
            sa.select(d.kind, d.id)
            .select_from(digests_due.outerjoin(meetings, (d.kind == MEETING) & (m.id == d.id)))
            .where(sa.func.coalesce(~going_on, True) | ripe)
            .group_by(d.kind, d.id)
            .order_by(sa.func.min(d.seq))
            .limit(most)
        )
        return [(row[0], row[1]) for row in await connection.execute(query)]


async def _next_version(connection: AsyncConnection) -> int:
    """Return a number higher than all before, also after a restored backup or on a standby with another clock."""
    now = insert(progress).values(consumer=_VERSIONS, sequence=time.time_ns() // 1000)
    higher = sa.func.greatest(progress.c.sequence + 1, now.excluded.sequence)
    number = now.on_conflict_do_update(index_elements=["consumer"], set_={"sequence": higher})
    return int((await connection.execute(number.returning(progress.c.sequence))).scalar_one())


async def _take(connection: AsyncConnection, due: Sequence[tuple[str, str]]) -> float:
    """Take the notes of what is digested now; what is noted from here on will be digested again."""
    d = digests_due.c
    named = sa.values(sa.column("kind", sa.Text), sa.column("id", d.id.type), name="named").data(list(due))
    take = digests_due.delete().where(d.kind == named.c.kind, d.id == named.c.id)
    waited = await connection.execute(take.returning(sa.func.extract("epoch", sa.func.now() - d.at)))
    return max((float(row[0]) for row in waited), default=0.0)


async def _meeting_figures(
    connection: AsyncConnection, meeting_ids: Sequence[str], version: int
) -> list[MeetingFigures]:
    if not meeting_ids:
        return []
    m, s = meetings.c, segments.c
    # Kept there until we are done: a deletion waits for us, and is noted after us.
    query = sa.select(m.id, m.owner_id, sa.func.coalesce(m.started_at, m.created_at).label("began_at"))
    query = query.where(m.id.in_(meeting_ids)).order_by(m.id).with_for_update(read=True, key_share=True)
    found = {row.id: row for row in await connection.execute(query)}
    words = sa.func.regexp_count(s.text, _WORD)
    spoken = (
        sa.select(s.meeting_id, s.speaker, sa.func.sum(s.end_s - s.start_s), sa.func.sum(words))
        .where(s.meeting_id.in_(found))
        .group_by(s.meeting_id, s.speaker)
        .order_by(s.speaker)
    )
    speakers: dict[str, list[SpeakerFigures]] = {}
    for meeting_id, speaker, talk_s, count in await connection.execute(spoken):
        speakers.setdefault(meeting_id, []).append(SpeakerFigures(speaker=speaker, talk_s=talk_s, words=count))
    return [_figures(meeting_id, found, speakers, version) for meeting_id in meeting_ids]


def _figures(
    meeting_id: str, found: Mapping[str, Any], speakers: Mapping[str, list[SpeakerFigures]], version: int
) -> MeetingFigures:
    if (row := found.get(meeting_id)) is None:
        return MeetingFigures(meeting_id=meeting_id, version=version, deleted=True)
    began_at: Timestamp | None = stamp(row.began_at)
    return MeetingFigures(
        meeting_id=meeting_id, owner_id=row.owner_id, version=version, began_at=began_at,
        speakers=speakers.get(meeting_id, []),
    )  # fmt: skip


async def _forget_figures(connection: AsyncConnection, meeting_ids: Sequence[str]) -> None:
    """Remove what was told of deleted meetings from the outbox: who spoke in them is nobody's business any more."""
    if meeting_ids:
        o = outbox_rows.c
        gone = outbox_rows.delete().where(o.aggregate.in_(meeting_ids), o.subject == MEETING_FIGURES)
        await connection.execute(gone)


async def _task_figures(connection: AsyncConnection, task_ids: Sequence[str], version: int) -> list[TaskFigures]:
    if not task_ids:
        return []
    t = tasks.c
    query = sa.select(t.id, t.owner_id, t.created_at, t.status).where(t.id.in_(task_ids))
    facts = {
        row.id: TaskFigures(
            task_id=row.id, owner_id=row.owner_id, version=version, created_at=stamp(row.created_at), status=row.status
        )
        for row in await connection.execute(query)
    }
    return [facts.get(one) or TaskFigures(task_id=one, version=version, deleted=True) for one in task_ids]


async def _renew_pages(connection: AsyncConnection, meeting_ids: Sequence[str]) -> None:
    if meeting_ids:
        await connection.execute(search_pages.delete().where(search_pages.c.meeting_id.in_(meeting_ids)))
        add = sa.text(_ADD_PAGES).bindparams(sa.bindparam("ids", type_=sa.ARRAY(search_pages.c.meeting_id.type)))
        await connection.execute(add, {"ids": list(meeting_ids)})
