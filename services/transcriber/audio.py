"""The client's bytes on their way to the audio log, and back from it. Pure: publishing is the log's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_OFFSET_BYTES = 8


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


@dataclass(slots=True)
class Window:
    """A stretch of the session's stream in memory: bytes [start_offset, end_offset)."""

    start_offset: int
    data: bytearray

    @property
    def end_offset(self) -> int:
        return self.start_offset + len(self.data)

    def append(self, data: bytes) -> None:
        """Add the bytes at `end_offset`."""
        self.data += data

    def slice(self, start: int, end: int) -> bytes:
        """Return bytes [start, end); a start before the window is moved to its beginning."""
        start = max(start, self.start_offset)
        return bytes(self.data[start - self.start_offset : end - self.start_offset])

    def forget_below(self, offset: int) -> None:
        """Free everything below `offset`."""
        offset = min(offset, self.end_offset)
        if offset > self.start_offset:
            del self.data[: offset - self.start_offset]
            self.start_offset = offset


def pieces(data: bytes, offset: int, size_max: int) -> Iterator[tuple[int, bytes]]:
    """Split bytes into (offset, at most `size_max` bytes)."""
    for start in range(0, len(data), size_max):
        yield offset + start, data[start : start + size_max]
