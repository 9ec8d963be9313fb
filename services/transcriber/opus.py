"""Opus as WebM and Ogg carry it: the header, the packets, and what could not be read. Pure.

Containers are read by our own code (`webm.py`, `ogg.py`), of which nothing but Opus packets reaches native code: the
Opus decoder is made for packets from strangers, a general demuxer has many more places to go wrong.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

PACKET_BYTES_MAX = 64 * 1024
"""No Opus packet is longer: 120 ms at the highest rate are 61,298 bytes (RFC 6716, section 3.4)."""

DAMAGE_BYTES_MAX = 64 * 1024
"""Longer damage is told in parts of this size."""

LOOK_BACK_BYTES = 16

_MAGIC = b"OpusHead"
_FIELDS = struct.Struct("<BBHIhB")
# RFC 6716, section 3.1: samples of a frame at 48 kHz by the configuration in the first five bits.
_SILK, _HYBRID, _CELT = (480, 960, 1920, 2880), (480, 960), (120, 240, 480, 960)
_FRAME_SAMPLES = _SILK * 3 + _HYBRID * 2 + _CELT * 4
_PACKET_SAMPLES_MAX = 5760


@dataclass(frozen=True, slots=True)
class OpusHead:
    """What is needed of a stream's header to decode it. Samples are counted at 48 kHz."""

    pre_skip_samples: int
    gain: int

    def mono(self) -> bytes:
        """Return a header with which a decoder gives one channel, whatever the stream has, and skips nothing."""
        return _MAGIC + _FIELDS.pack(1, 1, 0, 48_000, self.gain, 0)


@dataclass(frozen=True, slots=True)
class Head:
    """A stream begins: at the start, or anew where the client's recorder was started again."""

    start_offset: int
    head: OpusHead


@dataclass(frozen=True, slots=True)
class Packet:
    """One Opus packet. If `entry_offset` is set, reading can begin there with this packet, given the `stream_id`."""

    data: bytes
    end_offset: int
    entry_offset: int | None
    stream_id: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes [start_offset, end_offset) hold nothing that can be decoded."""

    start_offset: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """This is not the container that the client promised, or nothing in it is Opus with one or two channels."""

    reason: str


Item = Head | Packet | Damage | Refusal


class Demuxer(Protocol):
    """Reads a container in whatever pieces it comes. How it is split changes nothing."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""

    def read(self) -> Item | None:
        """Return the next item; None if it is not whole yet."""

    def end(self) -> None:
        """No more bytes come: what is not whole is damage."""


def parse_head(data: bytes) -> OpusHead | None:
    """Return the header of a stream with one or two channels; None if it is another one, or none (RFC 7845, 5.1)."""
    if len(data) < len(_MAGIC) + _FIELDS.size or not data.startswith(_MAGIC):
        return None
    version, channels, pre_skip, _, gain, family = _FIELDS.unpack_from(data, len(_MAGIC))
    if version >> 4 or channels not in (1, 2) or family:
        return None
    return OpusHead(pre_skip, gain)


def packet_samples(data: bytes) -> int | None:
    """Return how long a packet is, in samples at 48 kHz; None if it is no Opus packet (RFC 6716, section 3)."""
    if not data:
        return None
    frames = (1, 2, 2, 0)[data[0] & 3]
    if not frames:
        if len(data) < 2:
            return None
        frames = data[1] & 63
    samples = frames * _FRAME_SAMPLES[data[0] >> 3]
    return samples if 0 < samples <= _PACKET_SAMPLES_MAX else None


class Tape:
    """The bytes of a container that came and are not read yet, by their offset in the client's stream.

    The last `LOOK_BACK_BYTES` that were read stay: places behind the place of reading may be that much negative.
    """

    def __init__(self, offset: int) -> None:
        self._held = bytearray()
        self._at = 0
        self._held_from = offset

    @property
    def offset(self) -> int:
        """Where the next byte to be read lies."""
        return self._held_from + self._at

    @property
    def left(self) -> int:
        """How many bytes are there to be read."""
        return len(self._held) - self._at

    def feed(self, data: bytes) -> None:
        """Add the next bytes."""
        done = max(0, self._at - LOOK_BACK_BYTES)
        del self._held[:done]
        self._held_from += done
        self._at -= done
        self._held += data

    def peek(self, start: int, size: int) -> bytes:
        """Return bytes from `start` behind the place of reading; fewer than `size` if they have not come."""
        return bytes(self._held[self._at + start : self._at + start + size])

    def find(self, pattern: bytes, start: int, end: int) -> int | None:
        """Return where a pattern begins between `start` and `end` behind the place of reading; None if it does not."""
        found = self._held.find(pattern, max(0, self._at + start), self._at + end)
        return None if found < 0 else found - self._at

    def skip(self, size: int) -> None:
        """Move the place of reading."""
        self._at += size
