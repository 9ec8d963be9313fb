"""Transcripts as the log tells them: a batch is one transaction, with the same result however often it comes."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.meetings.v1.events_pb2 import MeetingCompleted
from verbatim.transcript.v1.transcript_pb2 import CloseReason, TranscriptEntry

from chassis import ids, outbox
from chassis.postgres import Database
from services.meetings.meetings import Status, title_of_session
from services.meetings.store import (
    SOURCE,
    Id,
    bury,
    gaps,
    inbox_rows,
    meetings,
    outbox_rows,
    progress,
    segments,
    sessions,
    suppressed,
    tombstones,
)
from services.meetings.transcript import GAP_REASONS, QUALITIES, Batch, Delivered, fold, recorded_at, storable

CONSUMER = "meetings"
DEAD_SUBJECT = "dlq.transcript"
_ANNOUNCE_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Stored:
    """How far a session is committed."""

    session_id: str
    end_offset: int
    event: int
    closed: bool


@dataclass(slots=True)
class Applied:
    """What a batch came to."""

    stored: list[Stored] = field(default_factory=list)
    segments: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    completed: int = 0
    letters: list[tuple[str, Delivered]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Session:
    """What the rows of a session need to know of it."""

    meeting_id: str
    shift_s: float
    closed: bool


class TranscriptStore:
    """Applies the transcript log. One replica does this at a time (see leadership.py); a second does no harm."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def progress(self) -> tuple[int, list[Stored]]:
        """Return the last stream sequence that was applied (0: none), and how far recent sessions are stored.

        Recent are those that are open, and those closed in the last hour: whoever waits to hear of them may have missed
        it.
        """
        s = sessions.c
        recent = sa.select(s.id, s.end_offset, s.event, s.closed_at.is_not(None)).where(
            s.closed_at.is_(None) | (s.closed_at > sa.func.now() - sa.text("interval '1 hour'"))
        )

        async def work(connection: AsyncConnection) -> tuple[int, list[Stored]]:
            query = sa.select(progress.c.sequence).where(progress.c.consumer == CONSUMER)
            sequence = (await connection.execute(query)).scalar() or 0
            return sequence, [Stored(*row) for row in await connection.execute(recent.limit(_ANNOUNCE_MOST))]

        return await self._database.run("transcript progress", work)

    async def apply(self, messages: Sequence[Delivered]) -> Applied:
        """Apply messages of the log, which must not be empty, and the sequence of the last.

        A message with a problem goes to the dead letters, and so does one of a session that nobody opened.

        Raises sqlalchemy's DataError or IntegrityError if the tables refuse a row in spite of all checks: then nothing
        is applied.
        """
        return await self._database.run("apply transcript", lambda connection: _apply(connection, messages))


async def _apply(connection: AsyncConnection, messages: Sequence[Delivered]) -> Applied:
    applied = Applied(letters=[(m.reason, m) for m in messages if m.entry is None])
    # First of all: the row also lets replicas that both believe to be the one come one after the other.
    await _advance(connection, max(m.sequence for m in messages))
    batch = fold(m.entry for m in messages if m.entry is not None)
    known = await _known(connection, batch.sessions())
    ignored = await _ignored(connection, batch)
    fresh = {s: e for s, e in batch.opened.items() if s not in known and s not in ignored}
    known |= await _open(connection, fresh)

    await _write_segments(connection, batch, known, applied)
    await _write_gaps(connection, batch, known)
    await _write_suppressed(connection, batch, known)
    await _close(connection, batch, known, applied)
    await _advance_watermarks(connection, batch, known, applied)

    for session in ignored:
        mark = batch.watermarks[session]
        applied.stored.append(Stored(session, mark.end_offset, mark.event, session in batch.closed))
    orphans = batch.watermarks.keys() - known.keys() - ignored
    applied.letters += [("orphan", m) for m in messages if m.entry is not None and m.entry.session_id in orphans]
    for reason, message in applied.letters:
        await _put_letter(connection, reason, message)
    return applied


async def _advance(connection: AsyncConnection, sequence: int) -> None:
    upsert = insert(progress).values(consumer=CONSUMER, sequence=sequence)
    highest = sa.func.greatest(progress.c.sequence, upsert.excluded.sequence)
    await connection.execute(upsert.on_conflict_do_update(index_elements=["consumer"], set_={"sequence": highest}))


async def _known(connection: AsyncConnection, session_ids: Sequence[str]) -> dict[str, _Session]:
    """Return the sessions that have a row. Their meetings cannot be deleted until we are done."""
    s = sessions.c
    query = (
        sa.select(s.id, s.meeting_id, s.shift_s, s.closed_at.is_not(None))
        .join(meetings, meetings.c.id == s.meeting_id)
        .where(s.id.in_(session_ids))
        .order_by(s.id)
        .with_for_update(read=True, key_share=True, of=meetings)
    )
    return {row[0]: _Session(*row[1:]) for row in await connection.execute(query)}


async def _ignored(connection: AsyncConnection, batch: Batch) -> set[str]:
    """Return the sessions whose meeting was deleted; one that opens in such a meeting is buried with it."""
    meeting_of = {session: entry.opened.meeting_id for session, entry in batch.opened.items()}
    named = [*batch.sessions(), *meeting_of.values()]
    query = sa.select(tombstones.c.id).where(tombstones.c.id.in_(named))
    buried = set((await connection.execute(query)).scalars())
    ignored = {s for s in batch.sessions() if s in buried or meeting_of.get(s) in buried}
    await bury(connection, "session", ignored - buried)
    return ignored


async def _open(connection: AsyncConnection, opened: dict[str, TranscriptEntry]) -> dict[str, _Session]:
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
    made: dict[str, _Session] = {}
    lines = []
    for session_id, entry in opened.items():
        meeting_id, at = entry.opened.meeting_id, recorded_at(entry)
        if meeting_id not in found or found[meeting_id].owner_id != entry.opened.owner_id:
            continue
        # Clocks of replicas differ a little: a session never starts before its meeting.
        shift_s = max(0.0, (at - started.setdefault(meeting_id, at)).total_seconds())
        made[session_id] = _Session(meeting_id, shift_s, closed=False)
        lines.append({"id": session_id, "meeting_id": meeting_id, "shift_s": shift_s, "opened_at": at})
    if lines:
        await connection.execute(sessions.insert(), lines)
        live = meetings.update().where(meetings.c.id == sa.bindparam("meeting"))
        live = live.values(
            status=Status.LIVE, started_at=sa.bindparam("start"), ended_at=None, updated_at=sa.func.now()
        )
        touched = sorted({session.meeting_id for session in made.values()})
        await connection.execute(live, [{"meeting": m, "start": started[m]} for m in touched])
    return made


async def _write_segments(
    connection: AsyncConnection, batch: Batch, known: Mapping[str, _Session], applied: Applied
) -> None:
    rows = []
    for (session_id, index), entry in batch.segments.items():
        if (session := known.get(session_id)) is None:
            continue
        segment = entry.segment
        rows.append({
            "session_id": session_id, "index": index, "id": storable(segment.segment_id),
            "meeting_id": session.meeting_id, "revision": segment.revision, "speaker": storable(segment.speaker),
            "start_s": segment.start_s + session.shift_s, "end_s": segment.end_s + session.shift_s,
            "text": storable(segment.text), "engine": storable(segment.engine),
            "confidence": segment.confidence if segment.HasField("confidence") else None,
            "quality": QUALITIES[segment.quality],
            "start_offset": segment.start_offset, "end_offset": segment.end_offset,
        })  # fmt: skip
    if not rows:
        return
    upsert = insert(segments)
    columns = (c for c in segments.c if c.name not in {"session_id", "index", "search"})
    upsert = upsert.on_conflict_do_update(
        index_elements=["session_id", "index"],
        set_={c.name: upsert.excluded[c.name] for c in columns},
        where=upsert.excluded.revision > segments.c.revision,
    )
    written = (await connection.execute(upsert.returning(segments.c.quality), rows)).scalars().all()
    applied.segments.update(written)
    applied.repeats += len(rows) - len(written)


async def _write_gaps(connection: AsyncConnection, batch: Batch, known: Mapping[str, _Session]) -> None:
    rows = [
        {
            "session_id": session_id, "position": position, "meeting_id": known[session_id].meeting_id,
            "start_s": entry.gap.start_s + known[session_id].shift_s,
            "end_s": entry.gap.end_s + known[session_id].shift_s, "reason": GAP_REASONS[entry.gap.reason],
        }
        for (session_id, position), entry in batch.gaps.items() if session_id in known
    ]  # fmt: skip
    if rows:
        await connection.execute(insert(gaps).on_conflict_do_nothing(), rows)


async def _write_suppressed(connection: AsyncConnection, batch: Batch, known: Mapping[str, _Session]) -> None:
    rows = [
        {
            "session_id": session_id, "position": position, "meeting_id": known[session_id].meeting_id,
            "start_s": entry.suppressed.start_s + known[session_id].shift_s,
            "end_s": entry.suppressed.end_s + known[session_id].shift_s, "text": storable(entry.suppressed.text),
            "reason": storable(entry.suppressed.reason), "engine": storable(entry.suppressed.engine),
        }
        for (session_id, position), entry in batch.suppressed.items() if session_id in known
    ]  # fmt: skip
    if rows:
        await connection.execute(insert(suppressed).on_conflict_do_nothing(), rows)


async def _close(connection: AsyncConnection, batch: Batch, known: Mapping[str, _Session], applied: Applied) -> None:
    """Close sessions; a meeting with no open session left is completed, and that is told once."""
    closing = {s: e for s, e in batch.closed.items() if s in known and not known[s].closed}
    if not closing:
        return
    rows = [
        {
            "session": session_id, "closed_at": recorded_at(entry), "received_bytes": entry.closed.received_bytes,
            "close_reason": CloseReason.Name(entry.closed.reason).removeprefix("CLOSE_REASON_").lower(),
            "audio_s": entry.closed.audio_s, "gap_s": entry.closed.gap_s, "coverage": entry.closed.coverage,
            "transcribed_s": entry.closed.transcribed_s, "silence_s": entry.closed.silence_s,
        }
        for session_id, entry in closing.items()
    ]  # fmt: skip
    names = [name for name in rows[0] if name != "session"]
    close = sessions.update().where(sessions.c.id == sa.bindparam("session"))
    await connection.execute(close.values({name: sa.bindparam(name) for name in names}), rows)

    m, s = meetings.c, sessions.c
    ended = sa.select(sa.func.max(s.closed_at)).where(s.meeting_id == m.id).scalar_subquery()
    complete = (
        meetings.update()
        .where(
            m.id.in_({known[session_id].meeting_id for session_id in closing}),
            m.status == Status.LIVE,
            ~sa.exists().where(s.meeting_id == m.id, s.closed_at.is_(None)),
        )
        .values(status=Status.COMPLETED, ended_at=ended, updated_at=sa.func.now())
        .returning(m.id, m.owner_id, m.language, m.started_at)
    )
    facts = [
        MeetingCompleted(
            meeting_id=row.id, owner_id=row.owner_id, language=row.language, day=f"{row.started_at:%Y-%m-%d}"
        )
        for row in await connection.execute(complete)
    ]
    applied.completed += len(facts)
    events = [outbox.event("events.meeting.completed", fact.SerializeToString()) for fact in facts]
    await outbox.put(connection, outbox_rows, events, source=SOURCE)


async def _advance_watermarks(
    connection: AsyncConnection, batch: Batch, known: Mapping[str, _Session], applied: Applied
) -> None:
    rows = [
        (session_id, mark.position, mark.event, mark.end_offset)
        for session_id, mark in sorted(batch.watermarks.items()) if session_id in known
    ]  # fmt: skip
    if not rows:
        return
    names = ("position", "event", "end_offset")
    mark = sa.values(sa.column("id", Id), *(sa.column(n, sa.BigInteger) for n in names), name="mark").data(rows)
    s = sessions.c
    advance = (
        sessions.update()
        .where(s.id == mark.c.id)
        .values({name: sa.func.greatest(s[name], mark.c[name]) for name in names})
        .returning(s.id, s.end_offset, s.event, s.closed_at.is_not(None))
    )
    applied.stored += [Stored(*row) for row in await connection.execute(advance)]


async def _put_letter(connection: AsyncConnection, reason: str, message: Delivered) -> None:
    """Send a message to the dead letters, through the outbox: it cannot get lost between there and here."""
    if not await outbox.first_time(connection, inbox_rows, f"{CONSUMER}-letters", str(message.sequence)):
        return
    headers = {
        "verbatim-error": f"{reason}: {message.problem}" if message.problem else reason,
        "verbatim-subject": message.subject,
        "verbatim-sequence": str(message.sequence),
    }
    letter = outbox.Event(DEAD_SUBJECT, message.payload, ids.new_id(), headers)
    await outbox.put(connection, outbox_rows, [letter], source=SOURCE)
