"""What becomes of drafts in the database: given up, or all heard again, which is told.

Every function that is given a batch works in its transaction (transcript_store.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.meetings.v1.events_pb2 import MeetingHealed

from chassis import outbox
from services.meetings.columns import Id
from services.meetings.meetings import Status
from services.meetings.sessions_store import Session
from services.meetings.store import SOURCE, meetings, outbox_rows, segments, sessions
from services.meetings.transcript import Batch

_S = segments.c

draft = _S.quality == "draft"
# Until a session is closed, nobody says whether its drafts will be heard again: they may.
heals = sa.func.coalesce(sessions.c.heals, sessions.c.closed_at.is_(None))
healing = sa.and_(draft, ~_S.given_up, heals)
"""That a segment will be heard again; in a statement that joins its session."""


async def give_up_drafts(connection: AsyncConnection, batch: Batch, known: Mapping[str, Session]) -> None:
    """Note the drafts that nobody will hear again."""
    rows = [
        (session, index) for (session, _), indexes in batch.given_up.items() if session in known for index in indexes
    ]
    if not rows:
        return
    named = sa.values(sa.column("session_id", Id), sa.column("index", sa.Integer), name="named").data(rows)
    these = (_S.session_id == named.c.session_id, _S.index == named.c.index, draft)
    await connection.execute(segments.update().where(*these).values(given_up=True))


def settled_meetings(batch: Batch, known: Mapping[str, Session]) -> set[str]:
    """Return the meetings of which the batch revises drafts or gives them up, for the first time."""
    settling = [(e.session_id, e.position) for e in batch.segments.values() if e.segment.revision > 1]
    settling += batch.given_up
    return {known[s].meeting_id for s, position in settling if s in known and position > known[s].position}


async def tell_healed(connection: AsyncConnection, meeting_ids: Collection[str]) -> None:
    """Tell of each of these meetings that is completed and has no draft left that anybody waits for.

    It counts as completed anew: viewers wait for the minutes that are made of it now.
    """
    if not meeting_ids:
        return
    m = meetings.c
    waiting = sa.exists().where(_S.meeting_id == m.id, draft, ~_S.given_up)
    complete = (
        meetings.update()
        .where(m.id.in_(meeting_ids), m.status == Status.COMPLETED, ~waiting)
        .values(newest_entry=m.newest_entry + 1, completed_entry=m.newest_entry + 1, updated_at=sa.func.now())
        .returning(m.id, m.owner_id, m.language, m.started_at)
    )
    facts = [
        MeetingHealed(meeting_id=row.id, owner_id=row.owner_id, language=row.language, day=f"{row.started_at:%Y-%m-%d}")
        for row in await connection.execute(complete)
    ]
    events = [outbox.event("events.meeting.healed", fact.SerializeToString(), fact.meeting_id) for fact in facts]
    await outbox.put(connection, outbox_rows, events, source=SOURCE)


async def count_healing(connection: AsyncConnection, meeting_id: str) -> int:
    """Return how many segments of a meeting will be heard again."""
    query = (
        sa.select(sa.func.count())
        .select_from(segments.join(sessions, sessions.c.id == _S.session_id))
        .where(_S.meeting_id == meeting_id, healing)
    )
    return int((await connection.execute(query)).scalar_one())
