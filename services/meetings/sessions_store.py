"""Sessions as the log tells of them: opened in a meeting, closed with their accounts, stored up to a watermark.

Every function works in the transaction of a batch (transcript_store.py).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.meetings.v1.events_pb2 import MeetingCompleted
from verbatim.transcript.v1.transcript_pb2 import CloseReason, TranscriptEntry

from chassis import outbox
from services.meetings.columns import Id
from services.meetings.meetings import Status, title_of_session
from services.meetings.store import SOURCE, bury, meetings, outbox_rows, segments, sessions, tombstones
from services.meetings.transcript import Batch, recorded_at, storable
from services.meetings.usage_store import charge


@dataclass(frozen=True, slots=True)
class Stored:
    """How far a session is committed."""

    session_id: str
    end_offset: int
    event: int
    closed: bool


@dataclass(frozen=True, slots=True)
class Session:
    """What the rows of a session need to know of it."""

    meeting_id: str
    shift_s: float
    closed: bool
    position: int = 0


async def known_sessions(connection: AsyncConnection, session_ids: Sequence[str]) -> dict[str, Session]:
    """Return the sessions that have a row. Their meetings cannot be deleted until we are done."""
    s = sessions.c
    query = (
        sa.select(s.id, s.meeting_id, s.shift_s, s.closed_at.is_not(None), s.position)
        .join(meetings, meetings.c.id == s.meeting_id)
        .where(s.id.in_(session_ids))
        .order_by(s.id)
        .with_for_update(read=True, key_share=True, of=meetings)
    )
    return {row[0]: Session(*row[1:]) for row in await connection.execute(query)}


async def ignored_sessions(connection: AsyncConnection, batch: Batch) -> set[str]:
    """Return the sessions whose meeting or owner was deleted; one that opens there is buried with it."""
    belongs_to = {s: {entry.opened.meeting_id, entry.opened.owner_id} for s, entry in batch.opened.items()}
    named = [*batch.sessions(), *set().union(*belongs_to.values())]
    query = sa.select(tombstones.c.id).where(tombstones.c.id.in_(named))
    buried = set((await connection.execute(query)).scalars())
    ignored = {s for s in batch.sessions() if s in buried or belongs_to.get(s, set()) & buried}
    await bury(connection, "session", ignored - buried)
    return ignored


async def open_sessions(connection: AsyncConnection, opened: dict[str, TranscriptEntry]) -> dict[str, Session]:
    """Make sessions, and their meetings where missing. A session in somebody else's meeting is not made."""
    if not opened:
        return {}
    rows: dict[str, dict[str, object]] = {}
    for entry in opened.values():
        o = entry.opened
        row = {"id": o.meeting_id, "owner_id": o.owner_id, "title": title_of_session(o.title),
               "language": storable(o.language), "created_at": recorded_at(entry)}  # fmt: skip
        rows.setdefault(o.meeting_id, row)
    await connection.execute(insert(meetings).on_conflict_do_nothing(index_elements=["id"]), list(rows.values()))
    query = (
        sa.select(meetings.c.id, meetings.c.owner_id, meetings.c.started_at)
        .where(meetings.c.id.in_(rows))
        .order_by(meetings.c.id)
        .with_for_update()
    )
    found = {row.id: row for row in await connection.execute(query)}
    started: dict[str, dt.datetime] = {row.id: row.started_at for row in found.values() if row.started_at}
    made: dict[str, Session] = {}
    lines = []
    uploaded = {entry.opened.meeting_id for entry in opened.values() if entry.opened.upload}
    ends = await _ends(connection, uploaded)
    for session_id, entry in opened.items():
        meeting_id, at = entry.opened.meeting_id, recorded_at(entry)
        if meeting_id not in found or found[meeting_id].owner_id != entry.opened.owner_id:
            continue
        # Clocks of replicas differ a little: a session never starts before its meeting.
        shift_s = max(0.0, (at - started.setdefault(meeting_id, at)).total_seconds())
        if entry.opened.upload:
            # When it was sent says nothing of when it was spoken: it follows what is there.
            shift_s = ends.get(meeting_id, 0.0)
        made[session_id] = Session(meeting_id, shift_s, closed=False)
        lines.append({"id": session_id, "meeting_id": meeting_id, "shift_s": shift_s, "opened_at": at})
    if lines:
        await connection.execute(sessions.insert(), lines)
        live = {made[s].meeting_id for s, entry in opened.items() if s in made and not entry.opened.upload}
        change = meetings.update().where(meetings.c.id == sa.bindparam("meeting"))
        spoken = sa.bindparam("live", type_=sa.Boolean) | (meetings.c.status == Status.LIVE)
        change = change.values(
            status=sa.case((spoken, Status.LIVE), else_=Status.PROCESSING),
            started_at=sa.bindparam("start"),
            ended_at=None,
            updated_at=sa.func.now(),
        )
        touched = sorted({session.meeting_id for session in made.values()})
        await connection.execute(change, [{"meeting": m, "start": started[m], "live": m in live} for m in touched])
    return made


async def _ends(connection: AsyncConnection, meeting_ids: set[str]) -> dict[str, float]:
    """Return where the closed sessions of meetings end, in seconds from the start of each."""
    if not meeting_ids:
        return {}
    s = sessions.c
    query = sa.select(s.meeting_id, sa.func.max(s.shift_s + s.audio_s))
    query = query.where(s.meeting_id.in_(meeting_ids), s.closed_at.is_not(None)).group_by(s.meeting_id)
    return {row[0]: row[1] for row in await connection.execute(query)}


async def close_sessions(connection: AsyncConnection, batch: Batch, known: Mapping[str, Session]) -> set[str]:
    """Close sessions; a meeting with no open session left is completed, and that is told once. Returns which are."""
    closing = {s: e for s, e in batch.closed.items() if s in known and not known[s].closed}
    if not closing:
        return set()
    rows = [
        {
            "session": session_id, "closed_at": recorded_at(entry), "received_bytes": entry.closed.received_bytes,
            "close_reason": CloseReason.Name(entry.closed.reason).removeprefix("CLOSE_REASON_").lower(),
            "audio_s": entry.closed.audio_s, "gap_s": entry.closed.gap_s, "coverage": entry.closed.coverage,
            "transcribed_s": entry.closed.transcribed_s, "silence_s": entry.closed.silence_s,
            "heals": entry.closed.heals,
        }
        for session_id, entry in closing.items()
    ]  # fmt: skip
    names = [name for name in rows[0] if name != "session"]
    close = sessions.update().where(sessions.c.id == sa.bindparam("session"))
    await connection.execute(close.values({name: sa.bindparam(name) for name in names}), rows)
    await charge(connection, list(closing))

    m, s = meetings.c, sessions.c
    ended = sa.select(sa.func.max(s.closed_at)).where(s.meeting_id == m.id).scalar_subquery()
    complete = (
        meetings.update()
        .where(
            m.id.in_({known[session_id].meeting_id for session_id in closing}),
            # One that had failed may have been tried again.
            m.status.in_((Status.LIVE, Status.PROCESSING, Status.FAILED)),
            ~sa.exists().where(s.meeting_id == m.id, s.closed_at.is_(None)),
        )
        .values(
            status=Status.COMPLETED,
            # Whoever closed the last session may have a clock that is behind that of who opened the first.
            ended_at=sa.func.greatest(ended, m.started_at),
            updated_at=sa.func.now(),
            newest_entry=m.newest_entry + 1,
            completed_entry=m.newest_entry + 1,
        )
        .returning(m.id, m.owner_id, m.language, m.started_at)
    )
    facts = [
        MeetingCompleted(
            meeting_id=row.id, owner_id=row.owner_id, language=row.language, day=f"{row.started_at:%Y-%m-%d}"
        )
        for row in await connection.execute(complete)
    ]
    traces = {known[session_id].meeting_id: batch.closed_in.get(session_id, "") for session_id in closing}
    events = [
        outbox.event(
            "events.meeting.completed", fact.SerializeToString(), fact.meeting_id, traceparent=traces[fact.meeting_id]
        )
        for fact in facts
    ]
    await outbox.put(connection, outbox_rows, events, source=SOURCE)
    return {fact.meeting_id for fact in facts}


async def lost_segments(connection: AsyncConnection, batch: Batch, known: Mapping[str, Session]) -> dict[str, int]:
    """Return by session how many segments its accounts tell of, as it is closed, that are not stored: there are none,
    unless the log lost what it had acknowledged, or the dead letters have them."""
    told = {s: e.closed.segments for s, e in batch.closed.items() if s in known and not known[s].closed}
    if not told:
        return {}
    t = segments.c
    query = sa.select(t.session_id, sa.func.count()).where(t.session_id.in_(told)).group_by(t.session_id)
    stored = {row[0]: row[1] for row in await connection.execute(query)}
    missing = {session_id: count - stored.get(session_id, 0) for session_id, count in told.items()}
    return {session_id: count for session_id, count in missing.items() if count > 0}


async def advance_watermarks(connection: AsyncConnection, batch: Batch, known: Mapping[str, Session]) -> list[Stored]:
    """Note how far the sessions of the batch are stored, and return it. Never goes back."""
    rows = [
        (session_id, mark.position, mark.event, mark.end_offset)
        for session_id, mark in sorted(batch.watermarks.items()) if session_id in known
    ]  # fmt: skip
    if not rows:
        return []
    names = ("position", "event", "end_offset")
    mark = sa.values(sa.column("id", Id), *(sa.column(n, sa.BigInteger) for n in names), name="mark").data(rows)
    s = sessions.c
    advance = (
        sessions.update()
        .where(s.id == mark.c.id)
        .values({name: sa.func.greatest(s[name], mark.c[name]) for name in names})
        .returning(s.id, s.end_offset, s.event, s.closed_at.is_not(None))
    )
    return [Stored(*row) for row in await connection.execute(advance)]
