"""The client's bytes on their way to the audio log, and back from it. Pure: publishing is the log's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

_OFFSET_BYTES = 8
# A window frees whole pieces: what an adoption reads at once is kept in parts.
_PIECE_BYTES_MAX = 64 * 1024


def pack(offset: int, data: bytes) -> bytes:
    """Return one message of the audio log: 8 bytes big-endian offset of the first byte, then the bytes."""
    return offset.to_bytes(_OFFSET_BYTES, "big") + data


def unpack(message: bytes) -> tuple[int, bytes]:
    """Return (offset, bytes) of one message. Raises ValueError if it is too short to be one."""
    if len(message) < _OFFSET_BYTES:
        raise ValueError("shorter than an offset")
    return int.from_bytes(message[:_OFFSET_BYTES], "big"), message[_OFFSET_BYTES:]


def assemble(messages: Iterable[tuple[int, bytes]], start_offset: int) -> bytes:
    """Return the unbroken run of bytes from `start_offset` that (offset, bytes) messages hold.

    Messages may overlap, repeat and come in any order: a resend, or two owners that wrote at once, leave such a log.
    What lies behind a hole is not part of the run; the client still has it, for it was never acknowledged.
    """
    held = bytearray()
    for offset, data in sorted(messages, key=lambda message: message[0]):
        end = start_offset + len(held)
        if offset > end:
            break
        if offset + len(data) > end:
            held += data[end - offset :]
    return bytes(held)


class Window:
    """A stretch of the session's stream in memory, from `start_offset` on. It keeps the pieces as they came: nothing
    is copied before somebody wants a part of it."""

    def __init__(self, start_offset: int) -> None:
        self._pieces: deque[bytes] = deque()
        self._start_offset = start_offset
        self.size = 0

    def append(self, data: bytes) -> None:
        """Add the next bytes."""
        if len(data) <= _PIECE_BYTES_MAX:
            self._pieces.append(data)
        else:
            self._pieces.extend(part for _, part in pieces(data, 0, _PIECE_BYTES_MAX))
        self.size += len(data)

    def slice(self, start: int, end: int) -> bytes:
        """Return bytes [start, end) of the stream, as far as they are here."""
        parts = []
        offset = self._start_offset
        for piece in self._pieces:
            if offset >= end:
                break
            if offset + len(piece) > start:
                parts.append(piece[max(0, start - offset) : end - offset])
            offset += len(piece)
        return b"".join(parts)

    def forget_below(self, offset: int) -> None:
        """Free the pieces that lie below `offset`."""
        while self._pieces and self._start_offset + len(self._pieces[0]) <= offset:
            size = len(self._pieces.popleft())
            self._start_offset += size
            self.size -= size


def pieces(data: bytes, offset: int, size_max: int) -> Iterator[tuple[int, bytes]]:
    """Split bytes into (offset, at most `size_max` bytes)."""
    for start in range(0, len(data), size_max):
        yield offset + start, data[start : start + size_max]
