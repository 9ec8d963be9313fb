"""From the client's bytes to the session's audio: 16 kHz mono s16le, and the offsets of the one in the other.

Two coordinates run through a session. *Source* offsets count the client's bytes, as they are sent, acknowledged and
kept in the audio log. *PCM* offsets count the audio that is heard in them: times, utterances and the transcript log
have these. For PCM from the client both are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from verbatim.transcript.v1 import transcript_pb2 as pb

SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True)
class Heard:
    """The next stretch of audio."""

    pcm: bytes


@dataclass(frozen=True, slots=True)
class Missing:
    """The next stretch of the time line, without audio: PCM bytes, and source bytes [source_start, source_end)."""

    pcm_bytes: int
    source_start: int
    source_end: int
    reason: pb.GapReason.ValueType

    @property
    def durable_with(self) -> int:
        """The source offset below which everything must be durable before the gap may be told."""
        return self.source_start if self.reason == pb.GAP_REASON_CLIENT_MISSING else self.source_end


@dataclass(frozen=True, slots=True)
class Refused:
    """What the client sends is not what it said it would be; `reason` may be told to it."""

    reason: str


Stretch = Heard | Missing | Refused


class Decoder(Protocol):
    """Makes audio of one session's bytes. Neither how they are split nor where decoding began changes an offset."""

    unit_bytes: int
    """What comes from the client comes in whole units of this size."""
    instant: bool
    """Decoding costs nothing: it is done as bytes come."""

    @property
    def waiting_bytes(self) -> int:
        """Source bytes that `decode` has not looked at."""

    @property
    def pending(self) -> bool:
        """Whether `decode` has something to do before more is fed."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""

    def skip(self, size: int) -> None:
        """Take note that the client dropped the next bytes."""

    def end(self) -> None:
        """No more bytes come: what waits for its rest is damaged."""

    def decode(self) -> list[Stretch]:
        """Return what comes next, in order: at most about a second, or a few milliseconds of work."""

    def heard_below(self, source_offset: int) -> int:
        """Return a PCM offset below which everything comes from bytes below `source_offset`."""

    def source_below(self, pcm_offset: int) -> int:
        """Return a source offset below which everything is heard below `pcm_offset`. Must not be asked downwards."""

    def entry_point(self, pcm_offset: int) -> pb.EntryPoint | None:
        """Return where to begin again to hear what comes from `pcm_offset` on; None where the offset says it."""


class PcmDecoder:
    """Nothing to decode: source and audio are the same."""

    unit_bytes = SAMPLE_BYTES
    instant = True
    waiting_bytes = 0

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._fed: list[Stretch] = []

    @property
    def pending(self) -> bool:
        """See `Decoder`."""
        return bool(self._fed)

    def feed(self, data: bytes) -> None:
        """See `Decoder`."""
        self._fed.append(Heard(data))
        self._offset += len(data)

    def skip(self, size: int) -> None:
        """See `Decoder`."""
        start, self._offset = self._offset, self._offset + size
        self._fed.append(Missing(size, start, self._offset, pb.GAP_REASON_CLIENT_MISSING))

    def end(self) -> None:
        """See `Decoder`."""

    def decode(self) -> list[Stretch]:
        """See `Decoder`."""
        fed, self._fed = self._fed, []
        return fed

    def heard_below(self, source_offset: int) -> int:
        """See `Decoder`."""
        return source_offset

    def source_below(self, pcm_offset: int) -> int:
        """See `Decoder`."""
        return pcm_offset

    def entry_point(self, pcm_offset: int) -> pb.EntryPoint | None:
        """See `Decoder`."""
        del pcm_offset
        return None
