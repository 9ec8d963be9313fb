"""WebM (EBML, RFC 8794; Matroska, RFC 9559) with one Opus track, as far as recorders write it. Pure.

The stream is read flat: of `Segment`, `Cluster` and `BlockGroup` only the header is read, so that their sizes, which
recorders leave open, do not matter, and reading can begin at any block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from services.transcriber.opus import (
    DAMAGE_BYTES_MAX,
    LOOK_BACK_BYTES,
    PACKET_BYTES_MAX,
    Damage,
    Head,
    Item,
    OpusHead,
    Packet,
    Refusal,
    Tape,
    packet_samples,
    parse_head,
)

_EBML, _SEGMENT, _CLUSTER, _TRACKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B
_SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK = 0xA3, 0xA0, 0xA1
_DOC_TYPE, _TRACK_ENTRY, _TRACK_NUMBER, _CODEC, _CODEC_PRIVATE = 0x4282, 0xAE, 0xD7, 0x86, 0x63A2
_ENTERED = frozenset({_SEGMENT, _CLUSTER, _BLOCK_GROUP})
_PASSED = frozenset(
    # Info, SeekHead, Cues, Tags, Chapters, Attachments, Void, CRC-32
    {0x1549A966, 0x114D9B74, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469, 0xEC, 0xBF}
    # of a cluster: Timestamp, Position, PrevSize, SilentTracks
    | {0xE7, 0xA7, 0xAB, 0x5854}
    # of a block group: BlockDuration, ReferencePriority, ReferenceBlock, CodecState, DiscardPadding, BlockAdditions
    | {0x9B, 0xFA, 0xFB, 0xA4, 0x75A2, 0x75A1}
)
_HEADER_BYTES_MAX = 12
_HEAD_BYTES_MAX = 64 * 1024
_PASSED_BYTES_MAX = 1024 * 1024
_TRACK_MAX = 126
_LACED = 0x06
_EBML_MAGIC = _EBML.to_bytes(4, "big")
_EBML_VERSION = b"\x42\x86"
_ANCHORS = (_EBML_MAGIC, _CLUSTER.to_bytes(4, "big"))


class WebmDemuxer:
    """Reads elements. `stream_id` is the number of the Opus track, if reading begins behind the header."""

    def __init__(self, offset: int = 0, stream_id: int | None = None) -> None:
        self._tape = Tape(offset)
        self._items: deque[Item] = deque()
        self._track = stream_id
        self._begun = stream_id is not None
        self._begun_at = offset
        self._lost = False
        self._refused = False
        self._ended = False
        self._to_pass = 0
        self._header_tried_at = offset - 1

    def feed(self, data: bytes) -> None:
        """See `Demuxer`."""
        self._tape.feed(data)

    def end(self) -> None:
        """See `Demuxer`."""
        self._ended = True

    def read(self) -> Item | None:
        """See `Demuxer`."""
        while not self._items and (self._seek() if self._lost else self._read_element()):
            pass
        if not self._items and self._ended and self._tape.left:
            if not self._begun:
                self._refuse("The stream does not begin as WebM does.")
            self._damage(self._tape.left)
        return self._items.popleft() if self._items else None

    def _seek(self) -> bool:
        """Look for the next cluster or header; what lies before it is damage."""
        if not self._begun and not self._refused:
            self._refuse("The stream does not begin as WebM does.")
            return True
        if self._rewind():
            return True
        # Not at the place of reading itself: what was found there did not hold.
        found = [self._tape.find(anchor, 1, DAMAGE_BYTES_MAX + len(anchor)) for anchor in _ANCHORS]
        places = [place for place in found if place is not None]
        if places:
            self._lost = False
            self._damage(min(places))
        elif self._tape.left >= DAMAGE_BYTES_MAX + len(_EBML_MAGIC):
            self._damage(DAMAGE_BYTES_MAX)
        else:
            return False
        return True

    def _rewind(self) -> bool:
        """Go back to a header whose first bytes were taken for the rest of an element that was cut off."""
        back = self._tape.find(_EBML_MAGIC, -LOOK_BACK_BYTES, len(_EBML_MAGIC) - 1)
        if back is None or self._tape.offset + back <= self._header_tried_at:
            return False
        self._tape.skip(back)
        self._lost = False
        return True

    def _damage(self, size: int) -> None:
        self._items.append(Damage(self._tape.offset, self._tape.offset + size))
        self._tape.skip(size)

    def _refuse(self, reason: str) -> None:
        if not self._refused:
            self._refused = True
            self._items.append(Refusal(reason))

    def _read_element(self) -> bool:
        """Read one element, or the header of one that is entered. Return whether to go on."""
        if self._to_pass:
            passed = min(self._to_pass, self._tape.left)
            self._tape.skip(passed)
            self._to_pass -= passed
            return not self._to_pass
        start = self._tape.peek(0, _HEADER_BYTES_MAX)
        if start.startswith(_EBML_MAGIC):
            self._header_tried_at = self._tape.offset
        header = _element(start)
        if header is None:
            # Of a header that is whole but not right nothing can come.
            self._lost = len(start) == _HEADER_BYTES_MAX or not _may_become_element(start)
            return self._lost
        element, size, at = header
        if element in _ENTERED and self._begun:
            self._tape.skip(at)
        elif size is not None and element in {_SIMPLE_BLOCK, _BLOCK} and self._track is not None:
            return self._read_block(at, size)
        elif size is not None and element in {_EBML, _TRACKS} and size <= _HEAD_BYTES_MAX:
            if self._tape.left < at + size:
                return False
            self._take_head(element, self._tape.peek(at, size), at + size)
        elif size is not None and element in _PASSED and size <= _PASSED_BYTES_MAX and self._begun:
            self._tape.skip(at)
            self._to_pass = size
        else:
            self._lost = True
        return True

    def _take_head(self, element: int, body: bytes, size: int) -> None:
        if element == _EBML:
            if dict(_children(body)).get(_DOC_TYPE, b"").rstrip(b"\0") not in {b"webm", b"matroska"}:
                self._lost = True
                return
            self._begun, self._begun_at, self._track = True, self._tape.offset, None
        elif self._begun:
            for number, head in _opus_tracks(body):
                self._track = number
                self._items.append(Head(self._begun_at, head))
                break
            else:
                self._refuse("Nothing in the WebM stream is Opus with one or two channels.")
        else:
            self._lost = True
            return
        self._tape.skip(size)

    def _read_block(self, at: int, size: int) -> bool:
        number = self._tape.peek(at, 1)
        if not number:
            return False
        if number[0] & 0x7F != self._track or not number[0] & 0x80:
            if size > _PASSED_BYTES_MAX:
                self._lost = True
                return True
            self._tape.skip(at)
            self._to_pass = size
            return True
        if not 4 <= size <= PACKET_BYTES_MAX:
            self._lost = True
            return True
        if self._tape.left < at + size:
            return False
        block = self._tape.peek(at, size)
        if (cut := _header_within(block)) is not None:
            # The recorder before ended in the midst of this block, and a new one began.
            self._damage(at + cut)
            return True
        offset, end_offset = self._tape.offset, self._tape.offset + at + size
        if block[3] & _LACED or packet_samples(block[4:]) is None:
            self._items.append(Damage(offset, end_offset))
        else:
            self._items.append(Packet(block[4:], end_offset, offset, self._track))
        self._tape.skip(at + size)
        return True


def _element(data: bytes) -> tuple[int, int | None, int] | None:
    """Return (id, size, length of both) at the start of bytes; size None if it is left open; None if not there."""
    if not data or not data[0] >> 4:
        return None
    id_length = 9 - data[0].bit_length()
    if len(data) <= id_length or not data[id_length]:
        return None
    size_length = 9 - data[id_length].bit_length()
    end = id_length + size_length
    if len(data) < end:
        return None
    bits = 7 * size_length
    size = int.from_bytes(data[id_length:end], "big") & ((1 << bits) - 1)
    return int.from_bytes(data[:id_length], "big"), None if size == (1 << bits) - 1 else size, end


def _may_become_element(data: bytes) -> bool:
    """Tell whether more bytes could make a header of these."""
    if not data:
        return True
    id_length = 9 - data[0].bit_length()
    return id_length <= 4 and (len(data) <= id_length or data[id_length] != 0)


def _children(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Give (id, body) of the elements in a whole one, up to the first that is not right."""
    at = 0
    while (header := _element(body[at : at + _HEADER_BYTES_MAX])) is not None:
        element, size, length = header
        if size is None or at + length + size > len(body):
            return
        yield element, body[at + length : at + length + size]
        at += length + size


def _opus_tracks(tracks: bytes) -> Iterator[tuple[int, OpusHead]]:
    for element, entry in _children(tracks):
        fields = dict(_children(entry)) if element == _TRACK_ENTRY else {}
        number = int.from_bytes(fields.get(_TRACK_NUMBER, b"")[:8], "big")
        head = parse_head(fields.get(_CODEC_PRIVATE, b""))
        if fields.get(_CODEC) == b"A_OPUS" and head is not None and 0 < number <= _TRACK_MAX:
            yield number, head


def _header_within(block: bytes) -> int | None:
    """Return where a new stream begins in a block that was cut off; None in any other."""
    found = block.find(_EBML_MAGIC)
    return found if found >= 0 and _EBML_VERSION in block[found : found + 2 * _HEADER_BYTES_MAX] else None
