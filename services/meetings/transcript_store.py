"""Transcripts as the log tells them: a batch is one transaction, with the same result however often it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import dead_letters, ids, outbox
from chassis.postgres import Database
from services.meetings.edits_store import healed, names_of
from services.meetings.entries_store import Numbers, number_entries
from services.meetings.healing_store import give_up_drafts, settled_meetings, tell_healed
from services.meetings.sessions_store import (
    Session,
    Stored,
    advance_watermarks,
    close_sessions,
    ignored_sessions,
    known_sessions,
    lost_segments,
    open_sessions,
)
from services.meetings.store import SOURCE, gaps, inbox_rows, outbox_rows, progress, segments, sessions, suppressed
from services.meetings.transcript import GAP_REASONS, QUALITIES, Batch, Delivered, fold, storable, unaccounted_s

CONSUMER = "meetings"
DEAD_KIND = "transcript"
_ANNOUNCE_MOST = 10_000


@dataclass(slots=True)
class Applied:
    """What a batch came to."""

    stored: list[Stored] = field(default_factory=list)
    segments: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    completed: int = 0
    closed_audio_s: float = 0.0
    unaccounted_s: float = 0.0
    lost: dict[str, int] = field(default_factory=dict)
    """By session that is closed: the segments that it had and that never came."""
    noticed: set[str] = field(default_factory=set)
    """Meetings of which viewers should look for what is new."""
    letters: list[tuple[str, Delivered]] = field(default_factory=list)


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
    batch.closed_in = {
        m.entry.session_id: m.traceparent for m in messages if m.entry is not None and m.entry.HasField("closed")
    }
    known = await known_sessions(connection, batch.sessions())
    ignored = await ignored_sessions(connection, batch)
    fresh = {s: e for s, e in batch.opened.items() if s not in known and s not in ignored}
    known |= await open_sessions(connection, fresh)

    # What is not beyond the watermark is a repeat, which the tables ignore below: it takes no number.
    shown = [e for e in batch.shown() if e.session_id in known and e.position > known[e.session_id].position]
    numbers = await number_entries(connection, [(entry, known[entry.session_id].meeting_id) for entry in shown])
    await _write_segments(connection, batch, known, numbers, applied)
    await _write_gaps(connection, batch, known, numbers)
    await _write_suppressed(connection, batch, known)
    await give_up_drafts(connection, batch, known)
    for session_id, entry in batch.closed.items():
        if session_id in known and not known[session_id].closed:
            applied.closed_audio_s += entry.closed.audio_s
            applied.unaccounted_s += unaccounted_s(entry.closed)
    applied.lost = await lost_segments(connection, batch, known)
    completed = await close_sessions(connection, batch, known)
    applied.completed = len(completed)
    await tell_healed(connection, settled_meetings(batch, known) - completed)
    applied.noticed = {known[session_id].meeting_id for session_id in batch.noticed() if session_id in known}
    applied.stored = await advance_watermarks(connection, batch, known)

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


async def _write_segments(
    connection: AsyncConnection, batch: Batch, known: Mapping[str, Session], numbers: Numbers, applied: Applied
) -> None:
    rows = []
    meeting_ids = {known[s].meeting_id for s, _ in batch.segments if s in known}
    names = await names_of(connection, meeting_ids) if meeting_ids else {}
    for (session_id, index), entry in batch.segments.items():
        if (session := known.get(session_id)) is None:
            continue
        segment = entry.segment
        heard = storable(segment.speaker)
        speaker = names.get(session.meeting_id, {}).get(heard, heard)
        rows.append({
            "session_id": session_id, "index": index, "id": storable(segment.segment_id),
            "meeting_id": session.meeting_id, "revision": segment.revision,
            "speaker": speaker, "heard_speaker": heard if speaker != heard else None,
            "start_s": segment.start_s + session.shift_s, "end_s": segment.end_s + session.shift_s,
            "text": storable(segment.text), "engine": storable(segment.engine),
            "confidence": segment.confidence if segment.HasField("confidence") else None,
            "quality": QUALITIES[segment.quality],
            "start_offset": segment.start_offset, "end_offset": segment.end_offset,
            "entry": numbers.get((session_id, entry.position), 0),
        })  # fmt: skip
    if not rows:
        return
    upsert = insert(segments)
    columns = (name for name in rows[0] if name not in {"session_id", "index"})
    upsert = upsert.on_conflict_do_update(
        index_elements=["session_id", "index"],
        set_={name: upsert.excluded[name] for name in columns} | healed(upsert.excluded) | {"given_up": False},
        where=upsert.excluded.revision > segments.c.revision,
    )
    written = (await connection.execute(upsert.returning(segments.c.quality), rows)).scalars().all()
    applied.segments.update(written)
    applied.repeats += len(rows) - len(written)


async def _write_gaps(
    connection: AsyncConnection, batch: Batch, known: Mapping[str, Session], numbers: Numbers
) -> None:
    rows = [
        {
            "session_id": session_id, "position": position, "meeting_id": known[session_id].meeting_id,
            "start_s": entry.gap.start_s + known[session_id].shift_s,
            "end_s": entry.gap.end_s + known[session_id].shift_s, "reason": GAP_REASONS[entry.gap.reason],
            "entry": numbers.get((session_id, position), 0),
        }
        for (session_id, position), entry in batch.gaps.items() if session_id in known
    ]  # fmt: skip
    if rows:
        await connection.execute(insert(gaps).on_conflict_do_nothing(), rows)


async def _write_suppressed(connection: AsyncConnection, batch: Batch, known: Mapping[str, Session]) -> None:
    rows = [
        {
            "session_id": session_id, "position": position, "meeting_id": known[session_id].meeting_id,
            "start_s": heard.start_s + known[session_id].shift_s, "end_s": heard.end_s + known[session_id].shift_s,
            "text": heard.text, "reason": heard.reason, "engine": heard.engine,
        }
        for (session_id, position), heard in batch.suppressed.items() if session_id in known
    ]  # fmt: skip
    if rows:
        await connection.execute(insert(suppressed).on_conflict_do_nothing(), rows)


async def _put_letter(connection: AsyncConnection, reason: str, message: Delivered) -> None:
    """Send a message to the dead letters, through the outbox: it cannot get lost between there and here."""
    if not await outbox.first_time(connection, inbox_rows, f"{CONSUMER}-letters", str(message.sequence)):
        return
    letter = dead_letters.letter(
        ids.new_id(),
        kind=DEAD_KIND,
        subject=message.subject,
        payload=message.payload,
        error=f"{reason}: {message.problem}" if message.problem else reason,
        about={"sequence": message.sequence},
    )
    await outbox.put(connection, outbox_rows, [letter], source=SOURCE)
