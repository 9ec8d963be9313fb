"""What the transcript log of a session says, folded entry by entry. Pure: no clock, no I/O."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from verbatim.transcript.v1 import transcript_pb2 as pb

from services.transcriber.drafts import Drafts, Place, joined

BYTES_PER_SECOND = 32_000
"""16 kHz, one channel, two bytes a sample."""

_RECENT = 256
# A message of the broker's holds 1 MiB.
_SNAPSHOT_BYTES_MAX = 512 * 1024

VISIBLE = frozenset({"opened", "resumed", "segment", "gap", "closed"})
"""Kinds of entry that a client sees as an event."""


_ENCODED = frozenset({pb.ENCODING_WEBM_OPUS, pb.ENCODING_OGG_OPUS})
_ENTERED = frozenset({"segment", "gap", "suppressed", "checkpoint"})


def seconds(offset_bytes: int) -> float:
    """Return the time of a byte offset, in seconds."""
    return offset_bytes / BYTES_PER_SECOND


def token_hash(token: str) -> bytes:
    """Return what the log keeps of a resume token."""
    return hashlib.sha256(token.encode()).digest()


@dataclass(slots=True)
class Ledger:
    """The state of a session as its log tells it. Two processes that read the same log hold equal ledgers."""

    session_id: str
    opened: pb.Opened = field(default_factory=pb.Opened)
    position: int = 0
    event: int = 0
    next_index: int = 0
    accounted_offset: int = 0
    """Every byte below is text, suppressed, silence or a gap: the checkpoint."""
    audio_sequence: int = 0
    entry_point: pb.EntryPoint | None = None
    """Where decoding begins again; None before the first entry that says it, and for PCM always."""
    transcribed_bytes: int = 0
    silence_bytes: int = 0
    gap_bytes: int = 0
    drafts: Drafts = field(default_factory=Drafts)
    drafts_given_up: int = 0
    revisions: dict[int, int] = field(default_factory=dict)
    resume_hashes: tuple[bytes, ...] = ()
    closed: pb.Closed | None = None
    tail: str = ""
    tail_end_offset: int = 0
    tail_before: str = ""
    """The tail as it was before the newest segment."""
    recent: deque[pb.TranscriptEntry] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def draft(self, writer: str, **kind: object) -> pb.TranscriptEntry:
        """Return the next entry, numbered; it is not applied yet. `kind` is one of the entry's kinds by name."""
        visible = next(iter(kind)) in VISIBLE
        entry = pb.TranscriptEntry(
            session_id=self.session_id,
            position=self.position + 1,
            event=self.event + 1 if visible else 0,
            writer=writer,
            **kind,  # type: ignore[arg-type]  # the oneof's member, by its name
        )
        entry.recorded_at.GetCurrentTime()
        if self.closed is not None:
            entry.after_close.drafts_left = len(self.drafts) - self._settled_by(entry)
        return entry

    def _settled_by(self, entry: pb.TranscriptEntry) -> int:
        if entry.HasField("given_up"):
            return sum(index in self.drafts for index in set(entry.given_up.indexes))
        return int(entry.segment.quality == pb.QUALITY_FINAL and entry.segment.index in self.drafts)

    def apply(self, entry: pb.TranscriptEntry) -> None:
        """Fold the next entry of the log into the state. Entries must come in order, each once."""
        if not self.position and entry.HasField("snapshot"):
            self._restore(entry)
            return
        if entry.position != self.position + 1:
            raise ValueError(f"entry {entry.position} after {self.position}")
        self.position = entry.position
        if entry.event:
            self.event = entry.event
            self.recent.append(entry)
        kind = entry.WhichOneof("kind")
        if kind in _ENTERED and getattr(entry, kind).HasField("entry_point"):
            self._enter_at(getattr(entry, kind).entry_point)
        match kind:
            case "opened":
                self.opened = entry.opened
                self.resume_hashes = (entry.opened.resume_token_hash,)
            case "resumed":
                self.resume_hashes = (entry.resumed.resume_token_hash, entry.resumed.presented_token_hash)
            case "segment":
                self._apply_segment(entry.segment, entry.recorded_at.ToMilliseconds() / 1000)
            case "gap":
                self._account(entry.gap.start_offset, entry.gap.end_offset)
                self.gap_bytes += entry.gap.end_offset - entry.gap.start_offset
            case "suppressed":
                self._account(entry.suppressed.start_offset, entry.suppressed.end_offset)
                self.silence_bytes += entry.suppressed.end_offset - entry.suppressed.start_offset
                self.audio_sequence = max(self.audio_sequence, entry.suppressed.audio_sequence)
            case "checkpoint":
                self._account(entry.checkpoint.end_offset, entry.checkpoint.end_offset)
                self.audio_sequence = max(self.audio_sequence, entry.checkpoint.audio_sequence)
            case "closed":
                self.closed = entry.closed
            case "given_up":
                waiting = len(self.drafts)
                self.drafts.give_up(entry.given_up.indexes)
                self.drafts_given_up += waiting - len(self.drafts)
        if kind in _ENTERED:
            self.drafts.move_to(Place(self.accounted_offset, self.audio_sequence, self.entry_point))

    def snapshot(self, writer: str) -> pb.TranscriptEntry:
        """Return an entry that stands for all that were applied."""
        entry = pb.TranscriptEntry(
            session_id=self.session_id,
            position=self.position,
            writer=writer,
            snapshot=pb.Snapshot(
                opened=self.opened,
                resume_token_hashes=self.resume_hashes,
                event=self.event,
                end_offset=self.accounted_offset,
                audio_sequence=self.audio_sequence,
                transcribed_bytes=self.transcribed_bytes,
                silence_bytes=self.silence_bytes,
                gap_bytes=self.gap_bytes,
                revisions=self.revisions,
                drafts=self.drafts.told(),
                drafts_given_up=self.drafts_given_up,
                tail=self.tail,
                tail_before=self.tail_before,
                tail_end_offset=self.tail_end_offset,
                entry_point=self.entry_point,
                recent=self._newest(_SNAPSHOT_BYTES_MAX),
                places=self.drafts.places(),
            ),
        )
        entry.recorded_at.GetCurrentTime()
        return entry

    def _newest(self, bytes_max: int) -> list[pb.TranscriptEntry]:
        """Return as many of the newest entries as fit, oldest first."""
        kept: deque[pb.TranscriptEntry] = deque()
        for entry in reversed(self.recent):
            bytes_max -= entry.ByteSize()
            if bytes_max < 0:
                break
            kept.appendleft(entry)
        return list(kept)

    def _restore(self, entry: pb.TranscriptEntry) -> None:
        told = entry.snapshot
        self.opened, self.position, self.event = told.opened, entry.position, told.event
        self.resume_hashes = tuple(told.resume_token_hashes)
        self.accounted_offset, self.audio_sequence = told.end_offset, told.audio_sequence
        self.entry_point = told.entry_point if told.HasField("entry_point") else None
        self.transcribed_bytes, self.silence_bytes = told.transcribed_bytes, told.silence_bytes
        self.gap_bytes = told.gap_bytes
        self.revisions = dict(told.revisions)
        self.next_index = max(self.revisions, default=-1) + 1
        self.drafts = Drafts.of(told)
        self.drafts_given_up = told.drafts_given_up
        self.tail, self.tail_before, self.tail_end_offset = told.tail, told.tail_before, told.tail_end_offset
        self.recent.extend(told.recent)

    def _enter_at(self, entry_point: pb.EntryPoint) -> None:
        if self.entry_point is None or entry_point.encoded_offset > self.entry_point.encoded_offset:
            self.entry_point = entry_point

    @property
    def source_offset(self) -> int:
        """Where in the client's stream, and so in the audio log, reading begins again."""
        if self.entry_point is not None:
            return self.entry_point.encoded_offset
        return 0 if self.opened.encoding in _ENCODED else self.accounted_offset

    @property
    def trusted_tail(self) -> str:
        """The end of the text; nothing if that is a draft, which would lead a better engine astray."""
        return "" if self.next_index - 1 in self.drafts else self.tail

    def _apply_segment(self, segment: pb.Segment, told_at: float) -> None:
        if segment.index in self.revisions:
            self._revise(segment)
            return
        self.revisions[segment.index] = segment.revision
        self.next_index = segment.index + 1
        self.drafts.tell(segment, told_at=told_at, before=self.tail, before_offset=self.tail_end_offset)
        self._account(segment.start_offset, segment.end_offset)
        self.transcribed_bytes += segment.end_offset - segment.start_offset
        self.audio_sequence = max(self.audio_sequence, segment.audio_sequence)
        self.tail_before, self.tail = self.tail, joined(self.tail, segment.text)
        self.tail_end_offset = segment.end_offset

    def _revise(self, segment: pb.Segment) -> None:
        if segment.revision <= self.revisions[segment.index]:
            return
        self.revisions[segment.index] = segment.revision
        before = self.drafts[segment.index].before if segment.index in self.drafts else self.tail_before
        self.drafts.revise(segment)
        if segment.index == self.next_index - 1:
            self.tail_before, self.tail = before, joined(before, segment.text)

    def _account(self, start: int, end: int) -> None:
        """Move the checkpoint to `end`; what lies between it and `start` was silence."""
        if start < self.accounted_offset or end < start:
            raise ValueError(f"[{start}, {end}) overlaps what is accounted below {self.accounted_offset}")
        self.silence_bytes += start - self.accounted_offset
        self.accounted_offset = end

    def accounts(
        self, reason: pb.CloseReason.ValueType, received_bytes: int, heard_offset: int, *, heals: bool = False
    ) -> pb.Closed:
        """Return the accounts at the end: heard = transcribed + silence + gaps, or coverage tells the difference.

        `received_bytes` counts the client's stream, `heard_offset` is the end of the PCM in it; `heals` says that
        there is an engine to hear the drafts again.
        """
        silence = self.silence_bytes + max(0, heard_offset - self.accounted_offset)
        covered = self.transcribed_bytes + silence
        return pb.Closed(
            reason=reason,
            received_bytes=received_bytes,
            audio_s=seconds(heard_offset),
            gap_s=seconds(self.gap_bytes),
            transcribed_s=seconds(self.transcribed_bytes),
            silence_s=seconds(silence),
            segments=len(self.revisions),
            draft_segments=len(self.drafts),
            coverage=covered / heard_offset if heard_offset else 1.0,
            heals=heals and bool(self.drafts),
        )

    def since(self, event: int) -> list[pb.TranscriptEntry] | None:
        """Return the visible entries after `event`, or None if they reach further back than memory does."""
        if event >= self.event:
            return []
        if not self.recent or self.recent[0].event > event + 1:
            return None
        return newest(entry for entry in self.recent if entry.event > event)


def newest(entries: Iterable[pb.TranscriptEntry]) -> list[pb.TranscriptEntry]:
    """Return segments (the newest revision of each) and gaps, in the order in which each first appeared."""
    segments: dict[int, pb.TranscriptEntry] = {}
    rows: list[pb.TranscriptEntry] = []
    for entry in entries:
        kind = entry.WhichOneof("kind")
        if kind == "gap":
            rows.append(entry)
        elif kind == "segment":
            index = entry.segment.index
            if index not in segments:
                segments[index] = entry
                rows.append(entry)
            elif entry.segment.revision > segments[index].segment.revision:
                rows[rows.index(segments[index])] = entry
                segments[index] = entry
    return rows


def fold(session_id: str, entries: Iterable[pb.TranscriptEntry]) -> Ledger:
    """Return the ledger of a log."""
    ledger = Ledger(session_id)
    for entry in entries:
        ledger.apply(entry)
    return ledger
