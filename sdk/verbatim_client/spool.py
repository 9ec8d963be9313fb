"""A bounded queue of bytes on disk, in a file that has no name: nothing is left of it, however the process ends."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO


class Spool:
    """A ring in a temporary file. Places count bytes since the beginning and are given back in order.

    Reading and writing are system calls on the page cache, short enough for an event loop.
    """

    def __init__(self, capacity_bytes: int, folder: Path | None = None) -> None:
        """Take the size and the folder (None: the system's for temporary files). The file is made when needed."""
        self.fault: OSError | None = None
        self._capacity_bytes = capacity_bytes
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._first = 0
        self._next = 0

    @property
    def used_bytes(self) -> int:
        """Bytes that are held."""
        return self._next - self._first

    def put(self, data: bytes) -> int | None:
        """Keep bytes and give their place; None if there is no room, or the disk refuses (`fault` tells why)."""
        if self.used_bytes + len(data) > self._capacity_bytes:
            return None
        place = self._next
        try:
            if self._file is None:
                # Unlinked from birth: a crash cannot leave recorded speech behind.
                self._file = tempfile.TemporaryFile(prefix="verbatim-", dir=self._folder)  # noqa: SIM115
            for position, start, end in self._parts(place, len(data)):
                _write(self._file.fileno(), data[start:end], position)
        except OSError as fault:
            self.fault = fault
            return None
        self._next += len(data)
        return place

    def get(self, place: int, size: int) -> bytes:
        """Give bytes that are held. Raises OSError."""
        assert self._file is not None and self._first <= place and place + size <= self._next
        file = self._file.fileno()
        return b"".join(os.pread(file, end - start, position) for position, start, end in self._parts(place, size))

    def forget_below(self, place: int) -> None:
        """Give room back."""
        assert place <= self._next
        self._first = max(self._first, place)

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _parts(self, place: int, size: int) -> list[tuple[int, int, int]]:
        """Cut a stretch where the ring ends: (position in the file, start, end) of each part."""
        position = place % self._capacity_bytes
        first = min(size, self._capacity_bytes - position)
        return [(position, 0, first), (0, first, size)] if first < size else [(position, 0, size)]


def _write(file: int, data: bytes, position: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], position + written)
