"""The transcript log as this service reads it: entries checked, a batch folded into what it changes."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from verbatim.transcript.v1.transcript_pb2 import (
    ENCODING_UNSPECIFIED,
    GAP_REASON_CLIENT_MISSING,
    GAP_REASON_UNDECODABLE,
    QUALITY_DRAFT,
    QUALITY_FINAL,
    Closed,
    Suppressed,
    TranscriptEntry,
)

from chassis import ids

# What Postgres holds in a bigint and an integer.
_BIGINT_MAX = 2**63 - 1
_INTEGER_MAX = 2**31 - 1
_ROUNDING_S = 0.05

QUALITIES = {QUALITY_FINAL: "final", QUALITY_DRAFT: "draft"}
GAP_REASONS = {GAP_REASON_CLIENT_MISSING: "client_missing", GAP_REASON_UNDECODABLE: "undecodable"}


class Unreadable(ValueError):
    """An entry that cannot be applied. The text says which rule it breaks, never what it holds."""


@dataclass(slots=True)
class Watermark:
    """How far a session's log has come: all below `end_offset` is accounted for, `event` is the last clients saw."""

    position: int = 0
    event: int = 0
    end_offset: int = 0

    def advance(self, position: int, event: int, end_offset: int) -> None:
        """Take one more entry into account. Never goes back, so that a repeat changes nothing."""
        self.position = max(self.position, position)
        self.event = max(self.event, event)
        self.end_offset = max(self.end_offset, end_offset)


@dataclass(frozen=True, slots=True)
class Delivered:
    """One message of the log: the entry in it, or why it has to go to the dead letters."""

    sequence: int
    subject: str
    payload: bytes
    entry: TranscriptEntry | None = None
    reason: str = ""
    problem: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard and judged to be no speech; seconds of the session."""

    start_s: float
    end_s: float
    text: str
    reason: str
    engine: str


@dataclass(slots=True)
class Batch:
    """What some entries of the log change. Entries of one session keep their order; repeats are folded away."""

    opened: dict[str, TranscriptEntry] = field(default_factory=dict)
    segments: dict[tuple[str, int], TranscriptEntry] = field(default_factory=dict)
    gaps: dict[tuple[str, int], TranscriptEntry] = field(default_factory=dict)
    suppressed: dict[tuple[str, int], Heard] = field(default_factory=dict)
    given_up: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)
    """By session and position of the entry: the drafts that nobody will hear again."""
    closed: dict[str, TranscriptEntry] = field(default_factory=dict)
    watermarks: dict[str, Watermark] = field(default_factory=dict)
    ranks: dict[tuple[str, int], int] = field(default_factory=dict)
    """Where in the batch an entry stands, by session and position."""
    closed_in: dict[str, str] = field(default_factory=dict)
    """The trace in which a session was closed: what follows from that belongs to it."""

    def sessions(self) -> list[str]:
        """Return every session that the batch tells of."""
        return list(self.watermarks)

    def shown(self) -> list[TranscriptEntry]:
        """Return what viewers are shown of the batch, in the order of the log."""
        entries = [*self.segments.values(), *self.gaps.values()]
        return sorted(entries, key=lambda entry: self.ranks[entry.session_id, entry.position])

    def noticed(self) -> set[str]:
        """Return the sessions of which the batch has something that viewers notice."""
        return {*self.opened, *self.closed, *(entry.session_id for entry in self.shown())}


def delivered(sequence: int, subject: str, payload: bytes, traceparent: str = "") -> Delivered:
    """Read one message; what cannot be read is not an exception here but a fact about the message."""
    try:
        return Delivered(sequence, subject, payload, entry=read(payload), traceparent=traceparent)
    except Unreadable as fault:
        return Delivered(sequence, subject, payload, None, "unreadable", str(fault))


def read(payload: bytes) -> TranscriptEntry:
    """Return the entry in a message, checked so that every rule of the tables holds. Raises Unreadable."""
    entry = TranscriptEntry()
    try:
        entry.ParseFromString(payload)
    except DecodeError:
        raise Unreadable("not a transcript entry") from None
    _check(entry)
    for earlier in entry.snapshot.recent:
        _demand(not earlier.HasField("snapshot"), "a snapshot in a snapshot")
        _demand(earlier.session_id == entry.session_id, "a snapshot of several sessions")
        _check(earlier)
    return entry


def _check(entry: TranscriptEntry) -> None:
    kind = entry.WhichOneof("kind")
    _demand(kind is not None, "of a kind that this version does not know")
    _demand(ids.is_id(entry.session_id), "session_id is no UUID")
    _demand(0 < entry.position <= _BIGINT_MAX, "position out of range")
    _demand(entry.event <= _BIGINT_MAX, "event out of range")
    _demand(_is_time(entry), "recorded_at is no time")
    body = getattr(entry, str(kind))
    _demand(getattr(body, "end_offset", 0) <= _BIGINT_MAX, "end_offset out of range")
    _demand(getattr(body, "start_offset", 0) <= getattr(body, "end_offset", 0), "start_offset after end_offset")
    if hasattr(body, "end_s"):
        _demand(_is_span(body.start_s, body.end_s), "times are no span")
    if kind in {"opened", "snapshot"}:
        opened = body if kind == "opened" else body.opened
        _demand(ids.is_id(opened.meeting_id) and ids.is_id(opened.owner_id), "meeting_id or owner_id is no UUID")
        _demand(opened.encoding != ENCODING_UNSPECIFIED, "encoding is missing")
    elif kind == "segment":
        _demand(bool(body.segment_id), "segment_id is missing")
        _demand(body.index <= _INTEGER_MAX and body.revision <= _INTEGER_MAX, "index or revision out of range")
        _demand(body.quality in QUALITIES, "quality is missing")
        _demand(not body.HasField("confidence") or math.isfinite(body.confidence), "confidence is no number")
    elif kind == "given_up":
        _demand(all(index <= _INTEGER_MAX for index in body.indexes), "indexes out of range")
    elif kind == "gap":
        _demand(body.reason in GAP_REASONS, "reason is missing")
    elif kind == "closed":
        numbers = (body.audio_s, body.gap_s, body.transcribed_s, body.silence_s, body.coverage)
        _demand(all(math.isfinite(n) and n >= 0 for n in numbers), "accounts are no numbers")
        _demand(body.received_bytes <= _BIGINT_MAX, "received_bytes out of range")


def fold(entries: Iterable[TranscriptEntry]) -> Batch:
    """Fold entries, in the order of the log, into a batch. Of a segment the highest revision stays."""
    batch = Batch()
    for rank, entry in enumerate(_unfolded(entries)):
        session = entry.session_id
        batch.ranks[session, entry.position] = rank
        mark = batch.watermarks.setdefault(session, Watermark())
        kind = entry.WhichOneof("kind")
        event = entry.snapshot.event if kind == "snapshot" else entry.event
        mark.advance(entry.position, event, getattr(getattr(entry, str(kind)), "end_offset", 0))
        if kind == "opened":
            batch.opened.setdefault(session, entry)
        elif kind == "segment":
            key = (session, entry.segment.index)
            known = batch.segments.get(key)
            if known is None or entry.segment.revision > known.segment.revision:
                batch.segments[key] = entry
            if entry.segment.HasField("suppressed"):
                batch.suppressed[session, entry.position] = _heard(entry.segment, entry.segment.suppressed)
        elif kind == "gap":
            batch.gaps[session, entry.position] = entry
        elif kind == "suppressed":
            batch.suppressed[session, entry.position] = _heard(entry.suppressed, entry.suppressed)
        elif kind == "given_up":
            batch.given_up[session, entry.position] = tuple(entry.given_up.indexes)
        elif kind == "closed":
            batch.closed.setdefault(session, entry)
    return batch


def _unfolded(entries: Iterable[TranscriptEntry]) -> Iterator[TranscriptEntry]:
    """Yield entries; of a snapshot what it repeats, before itself."""
    for entry in entries:
        if entry.HasField("snapshot"):
            opened = TranscriptEntry(session_id=entry.session_id, position=1, event=1, opened=entry.snapshot.opened)
            opened.recorded_at.CopyFrom(entry.recorded_at)
            yield from (opened, *entry.snapshot.recent)
        yield entry


def _heard(span: Any, heard: Suppressed) -> Heard:
    return Heard(span.start_s, span.end_s, storable(heard.text), storable(heard.reason), storable(heard.engine))


def recorded_at(entry: TranscriptEntry) -> dt.datetime:
    """Return when the entry was written."""
    return entry.recorded_at.ToDatetime(tzinfo=dt.UTC)


def unaccounted_s(accounts: Closed) -> float:
    """Return how much of a session's audio is neither text, nor silence, nor a gap; what rounding leaves is none."""
    missing_s = accounts.audio_s - accounts.transcribed_s - accounts.silence_s - accounts.gap_s
    return missing_s if missing_s > _ROUNDING_S else 0.0


def storable(text: str) -> str:
    """Return text without NUL, which Postgres cannot hold; what an engine says is not to be trusted."""
    return text.replace("\0", "")


def _demand(holds: bool, problem: str) -> None:
    if not holds:
        raise Unreadable(problem)


def _is_time(entry: TranscriptEntry) -> bool:
    if not entry.HasField("recorded_at"):
        return False
    try:
        recorded_at(entry)
    except (ValueError, OverflowError):
        return False
    return True


def _is_span(start_s: float, end_s: float) -> bool:
    return math.isfinite(start_s) and math.isfinite(end_s) and 0 <= start_s <= end_s
