"""The transcript log of a session, written as the transcriber writes it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import ids
from services.meetings.transcript import Delivered, delivered

NOON = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)
BYTES_PER_S = 32000


class Logbook:
    """Writes entries of one session, in order; `entries` is what it has written."""

    def __init__(
        self,
        owner_id: str,
        meeting_id: str | None = None,
        *,
        title: str = "Weekly",
        at: dt.datetime = NOON,
        speaker: str = "Ann",
    ) -> None:
        self.session_id = ids.new_id()
        self.owner_id = owner_id
        self.meeting_id = meeting_id or ids.new_id()
        self.entries: list[pb.TranscriptEntry] = []
        self.at = at
        self.speaker = speaker
        self.end_s = 0.0
        self._event = 0
        self._index = 0
        opened = pb.Opened(
            meeting_id=self.meeting_id, owner_id=owner_id, title=title, encoding=pb.ENCODING_PCM_S16LE,
            sample_rate=16000, channels=1, language="en", speaker=speaker, interim=True,
        )  # fmt: skip
        self.write(opened=opened)

    def write(self, *, event: bool = False, **kind: object) -> pb.TranscriptEntry:
        entry = pb.TranscriptEntry(
            session_id=self.session_id, position=len(self.entries) + 1, writer="test", **kind  # type: ignore[arg-type]
        )  # fmt: skip
        if event:
            self._event += 1
            entry.event = self._event
        entry.recorded_at.FromDatetime(self.at + dt.timedelta(seconds=self.end_s))
        self.entries.append(entry)
        return entry

    def say(self, text: str, *, length_s: float = 2.0, draft: bool = False) -> pb.Segment:
        segment = pb.Segment(
            segment_id=ids.derived_id(self.session_id, "segment", self._index), index=self._index, revision=1,
            speaker=self.speaker, start_s=self.end_s, end_s=self.end_s + length_s, text=text, engine="test",
            quality=pb.QUALITY_DRAFT if draft else pb.QUALITY_FINAL, confidence=0.5,
            start_offset=self._offset(), end_offset=self._offset(length_s),
        )  # fmt: skip
        self.end_s += length_s
        self._index += 1
        self.write(event=True, segment=segment)
        return segment

    def heal(self, segment: pb.Segment, text: str) -> pb.Segment:
        healed = pb.Segment()
        healed.CopyFrom(segment)
        healed.text, healed.revision, healed.quality = text, segment.revision + 1, pb.QUALITY_FINAL
        self.write(event=True, segment=healed)
        return healed

    def miss(self, length_s: float = 1.0) -> None:
        gap = pb.Gap(
            start_s=self.end_s, end_s=self.end_s + length_s, reason=pb.GAP_REASON_CLIENT_MISSING,
            start_offset=self._offset(), end_offset=self._offset(length_s),
        )  # fmt: skip
        self.end_s += length_s
        self.write(event=True, gap=gap)

    def suppress(self, text: str = "Thanks for watching", length_s: float = 1.0) -> None:
        suppressed = pb.Suppressed(
            text=text, reason="no_speech", start_s=self.end_s, end_s=self.end_s + length_s, engine="test",
            start_offset=self._offset(), end_offset=self._offset(length_s),
        )  # fmt: skip
        self.end_s += length_s
        self.write(suppressed=suppressed)

    def rest(self, length_s: float = 1.0) -> None:
        self.end_s += length_s
        self.write(checkpoint=pb.Checkpoint(end_offset=self._offset()))

    def snapshot(self) -> pb.TranscriptEntry:
        """Return what stands for all that was written: the log does not get it."""
        entry = pb.TranscriptEntry(session_id=self.session_id, position=len(self.entries), writer="test")
        entry.recorded_at.FromDatetime(self.at + dt.timedelta(seconds=self.end_s))
        shown = [one for one in self.entries if one.event]
        entry.snapshot.MergeFrom(
            pb.Snapshot(
                opened=self.entries[0].opened, event=self._event, end_offset=self._offset(), recent=shown[-256:]
            )
        )
        return entry

    def resume(self) -> None:
        self.write(resumed=pb.Resumed(resume_token_hash=b"x", adopted=True))

    def give_up(self, *segments: pb.Segment) -> None:
        self.write(given_up=pb.GivenUp(indexes=[s.index for s in segments], reason=pb.GIVEN_UP_REASON_AGE))

    def close(self, *, heals: bool = False) -> None:
        gap_s = sum(e.gap.end_s - e.gap.start_s for e in self.entries if e.HasField("gap"))
        heard_s = self.end_s - gap_s
        closed = pb.Closed(
            reason=pb.CLOSE_REASON_FINISHED, received_bytes=self._offset(), audio_s=self.end_s, gap_s=gap_s,
            transcribed_s=heard_s, silence_s=0.0, segments=self._index,
            coverage=heard_s / self.end_s if self.end_s else 1.0, heals=heals,
        )  # fmt: skip
        self.write(event=True, closed=closed)

    @property
    def end_offset(self) -> int:
        return self._offset()

    def _offset(self, more_s: float = 0.0) -> int:
        return int((self.end_s + more_s) * BYTES_PER_S)


def meeting_log(owner_id: str) -> Logbook:
    """Return a session with every kind of entry in it, closed."""
    log = Logbook(owner_id)
    log.say("Good morning everybody")
    draft = log.say("we ship on fryday", draft=True)
    log.miss()
    log.resume()
    log.suppress()
    log.say("Ben writes the report")
    log.rest()
    log.heal(draft, "we ship on Friday")
    log.say("draft that never heals", draft=True)
    log.close()
    return log


def numbered(entries: Sequence[pb.TranscriptEntry], first: int = 1) -> list[Delivered]:
    """Return the entries as messages of the stream."""
    return [
        delivered(sequence, f"transcript.{entry.session_id}", entry.SerializeToString())
        for sequence, entry in enumerate(entries, first)
    ]
