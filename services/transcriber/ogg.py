"""Ogg (RFC 3533) with one Opus stream (RFC 7845), as far as recorders write it. Pure."""

from __future__ import annotations

import struct
import zlib
from collections import deque

from services.transcriber.opus import (
    DAMAGE_BYTES_MAX,
    PACKET_BYTES_MAX,
    Damage,
    Head,
    Item,
    Packet,
    Refusal,
    Tape,
    packet_samples,
    parse_head,
)

_CAPTURE = b"OggS"
_PAGE = struct.Struct("<4sBBQIIIB")
CHECKSUM_AT = 22
_CONTINUED, _FIRST = 1, 2
_LACING_MAX = 255
_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class OggDemuxer:
    """Reads pages. `stream_id` is the serial number of the Opus stream, if reading begins behind its header."""

    def __init__(self, offset: int = 0, stream_id: int | None = None) -> None:
        self._tape = Tape(offset)
        self._items: deque[Item] = deque()
        self._serial = stream_id
        self._tags_due = False
        self._packet: bytearray | None = None
        self._packet_from = 0
        self._packet_entry: int | None = None
        self._orphaned = False
        self._lost_bytes = 0
        self._lost = False
        self._refused = False
        self._ended = False

    def feed(self, data: bytes) -> None:
        """See `Demuxer`."""
        self._tape.feed(data)

    def end(self) -> None:
        """See `Demuxer`."""
        self._ended = True

    def read(self) -> Item | None:
        """See `Demuxer`."""
        while not self._items and (self._seek() if self._lost else self._read_page()):
            pass
        if not self._items and self._ended:
            self._give_up()
        return self._items.popleft() if self._items else None

    def _give_up(self) -> None:
        if self._packet is not None:
            self._drop_packet()
        if self._tape.left:
            if self._serial is None:
                self._refuse("The stream does not begin as Ogg does.")
            self._damage(self._tape.left)

    def _seek(self) -> bool:
        """Look for the next page; what lies before it is damage."""
        if self._serial is None and not self._refused:
            self._refuse("The stream does not begin as Ogg does.")
            return True
        # Not at the place of reading itself: what was found there did not hold.
        found = self._tape.find(_CAPTURE, 1, DAMAGE_BYTES_MAX + len(_CAPTURE))
        if found is not None:
            self._lost = False
            self._damage(found)
        elif self._tape.left >= DAMAGE_BYTES_MAX + len(_CAPTURE):
            self._damage(DAMAGE_BYTES_MAX)
        else:
            return False
        return True

    def _damage(self, size: int) -> None:
        self._items.append(Damage(self._tape.offset, self._tape.offset + size))
        self._tape.skip(size)

    def _refuse(self, reason: str) -> None:
        if not self._refused:
            self._refused = True
            self._items.append(Refusal(reason))

    def _read_page(self) -> bool:
        start = self._tape.peek(0, _PAGE.size)
        if not _CAPTURE.startswith(start[: len(_CAPTURE)]) or (len(start) > len(_CAPTURE) and start[len(_CAPTURE)]):
            self._lost = True
            return True
        if len(start) < _PAGE.size:
            return False
        _, _, flags, _, serial, _, wanted, segments = _PAGE.unpack(start)
        lacing = self._tape.peek(_PAGE.size, segments)
        size = _PAGE.size + segments + sum(lacing)
        if len(lacing) < segments or self._tape.left < size:
            return False
        page = self._tape.peek(0, size)
        if checksum(page) != wanted:
            self._lost = True
            return True
        self._take_page(page, flags, serial, lacing)
        self._tape.skip(size)
        return True

    def _take_page(self, page: bytes, flags: int, serial: int, lacing: bytes) -> None:
        body = page[_PAGE.size + len(lacing) :]
        if flags & _FIRST:
            if (head := parse_head(body)) is not None:
                if self._packet is not None:
                    self._drop_packet()
                self._serial, self._tags_due = serial, True
                self._items.append(Head(self._tape.offset, head))
        elif serial == self._serial:
            self._take_segments(body, lacing, continued=bool(flags & _CONTINUED))
        elif self._serial is None:
            self._refuse("Nothing in the Ogg stream is Opus with one or two channels.")
            self._items.append(Damage(self._tape.offset, self._tape.offset + len(page)))

    def _take_segments(self, body: bytes, lacing: bytes, *, continued: bool) -> None:
        """Cut a page into packets; the last one may go on in the next page."""
        page_offset = self._tape.offset
        end_offset = page_offset + _PAGE.size + len(lacing) + len(body)
        if self._packet is not None and not continued:
            self._drop_packet()
        # The end of a packet whose beginning was lost is lost too.
        self._orphaned = (continued and self._packet is None) or (self._orphaned and continued)
        entry = page_offset if self._packet is None and not self._orphaned else None
        at = 0
        for length in lacing:
            if self._packet is None:
                self._packet, self._packet_from, self._packet_entry = bytearray(), page_offset, entry
            entry = None
            self._packet += body[at : at + length]
            at += length
            if self._tags_due or self._orphaned:
                self._lost_bytes += len(self._packet)
                self._packet.clear()  # a comment may hold a picture: it is not kept
            if length < _LACING_MAX:
                self._take_packet(end_offset)
            elif len(self._packet) > PACKET_BYTES_MAX:
                self._orphaned = True

    def _take_packet(self, end_offset: int) -> None:
        assert self._serial is not None and self._packet is not None
        data, self._packet = bytes(self._packet), None
        lost_bytes, self._lost_bytes = self._lost_bytes, 0
        if self._orphaned:
            self._orphaned = False
            if not self._tags_due:
                self._items.append(Damage(self._packet_from, self._packet_from + lost_bytes))
        elif self._tags_due:
            self._tags_due = False
        elif packet_samples(data) is not None:
            self._items.append(Packet(data, end_offset, self._packet_entry, self._serial))
        elif data:  # some recorders end a stream with an empty packet
            self._items.append(Damage(self._packet_from, self._packet_from + len(data)))

    def _drop_packet(self) -> None:
        """Give up a packet that was begun and does not go on."""
        assert self._packet is not None
        lost_bytes, self._lost_bytes = self._lost_bytes + len(self._packet), 0
        if not self._tags_due:
            self._items.append(Damage(self._packet_from, self._packet_from + lost_bytes))
        self._packet = None


def checksum(page: bytes) -> int:
    """Return the CRC of a page, counted without its own; it runs over the bits of a byte the other way than zlib's."""
    turned = (page[:CHECKSUM_AT] + bytes(4) + page[CHECKSUM_AT + 4 :]).translate(_BITS_REVERSED)
    crc = zlib.crc32(turned, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
