"""Everything that was said and is not acknowledged: in memory, then on disk, then as a declared gap."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from verbatim_client.settings import Buffering
from verbatim_client.spool import Spool
from verbatim_client.wire import FRAME_MAX_BYTES, Frame

# What was full takes audio again when this share is free: one long gap reads better than a hundred short ones.
_REOPEN_SHARE = 8
# Small writes are joined on disk, so that hours of backlog are thousands of pieces, not hundreds of thousands.
_JOIN_MAX_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the stream and where it is: in memory, in the spool, or nowhere (a gap)."""

    start: int
    end: int
    audio: bytes | None = None
    place: int | None = None

    @property
    def is_gap(self) -> bool:
        """Whether it was dropped."""
        return self.audio is None and self.place is None

    def split(self, offset: int) -> tuple[Piece, Piece]:
        """Cut in two at an offset inside."""
        at = offset - self.start
        assert 0 < at < self.end - self.start
        first = Piece(self.start, offset, None if self.audio is None else self.audio[:at], self.place)
        place = None if self.place is None else self.place + at
        return first, Piece(offset, self.end, None if self.audio is None else self.audio[at:], place)


class AudioBuffer:
    """Two rows: `sent` on this connection but not acknowledged, and `due` to be sent.

    Together they reach from `acked_offset` to `written_offset` without a hole, so that every byte is either
    kept or part of a gap that will be declared.
    """

    def __init__(self, limits: Buffering) -> None:
        """Take how much may be kept where."""
        self.acked_offset = 0
        self.sent_offset = 0
        self.written_offset = 0
        self.dropped_bytes = 0
        self.spool = Spool(limits.disk_bytes, limits.folder)
        self._memory_max_bytes = limits.memory_bytes
        self._capacity_bytes = limits.memory_bytes + limits.disk_bytes
        self._memory_bytes = 0
        self._overflowing = False
        self._joinable_from = 0
        self._ever_sent_offset = 0
        self._sent: deque[Piece] = deque()
        self._due: deque[Piece] = deque()

    @property
    def kept_bytes(self) -> int:
        """Audio that is held."""
        return self._memory_bytes + self.spool.used_bytes

    @property
    def memory_bytes(self) -> int:
        """The part of it that is in memory."""
        return self._memory_bytes

    @property
    def pieces(self) -> int:
        """How many stretches that is: what the bookkeeping costs."""
        return len(self._sent) + len(self._due)

    @property
    def backlog_bytes(self) -> int:
        """How far sending is behind writing."""
        return self.written_offset - self.sent_offset

    def has_room(self, size: int, window_bytes: int) -> bool:
        """Tell whether so much more fits into memory and the platform's window: whoever can wait, waits for this."""
        unacknowledged = self.written_offset - self.acked_offset
        return unacknowledged == 0 or unacknowledged + size <= min(window_bytes, self._memory_max_bytes)

    def write(self, audio: bytes) -> int:
        """Take the next bytes of the stream. Give how many of them had to be dropped: none, or all."""
        assert 0 < len(audio) <= FRAME_MAX_BYTES
        piece = self._keep(audio)
        if piece is None:
            self.drop(len(audio))
            return len(audio)
        self._append(piece)
        return 0

    def drop(self, size: int) -> None:
        """Let the next bytes of the stream be a gap."""
        assert size > 0
        self.dropped_bytes += size
        self._append(Piece(self.written_offset, self.written_offset + size))

    def part(self) -> None:
        """Do not join what is written from now on to what is written already."""
        self._joinable_from = self.written_offset

    def next_is_sendable(self, window_bytes: int) -> bool:
        """Tell whether something is due that the platform's window has room for."""
        if not self._due:
            return False
        first = self._due[0]
        return first.is_gap or first.end - self.acked_offset <= window_bytes or self.sent_offset == self.acked_offset

    def send_next(self) -> Frame:
        """Give the next frame to send and count it as sent. Raises OSError if the disk does not give it back."""
        piece = self._due[0]
        audio = piece.audio
        if piece.place is not None:
            audio = self.spool.get(piece.place, piece.end - piece.start)
        self._sent.append(self._due.popleft())
        self.sent_offset = piece.end
        self._ever_sent_offset = max(self._ever_sent_offset, piece.end)
        return Frame(piece.start, piece.end, audio)

    def acknowledge(self, offset: int) -> None:
        """Forget everything below. Raises ValueError for what was never sent; an older offset changes nothing.

        What was sent on an earlier connection may have arrived late: then it need not be sent again.
        """
        if offset > self._ever_sent_offset:
            raise ValueError(f"the platform acknowledges audio up to {offset}, which was not sent")
        for row in (self._sent, self._due):
            while row and row[0].start < offset:
                piece = row.popleft()
                if piece.end > offset:
                    self._forget(piece.start, offset, piece)
                    row.appendleft(piece.split(offset)[1])
                else:
                    self._forget(piece.start, piece.end, piece)
        self.acked_offset = max(self.acked_offset, offset)
        self.sent_offset = max(self.sent_offset, offset)

    def rewind(self, offset: int) -> None:
        """Make everything from an offset on due again. Raises ValueError if that was never sent.

        A platform that asks for what it has acknowledged has lost its log: what was forgotten since becomes a gap.
        """
        if not 0 <= offset <= self._ever_sent_offset:
            raise ValueError(f"the platform asks for audio from {offset}, but {self._ever_sent_offset} was sent")
        if offset < self.acked_offset:
            self._sent.appendleft(Piece(offset, self.acked_offset))
            self.dropped_bytes += self.acked_offset - offset
            self.acked_offset = offset
        rows = deque([*self._sent, *self._due])
        self._sent.clear()
        while rows and rows[0].start < offset:
            piece = rows.popleft()
            if piece.end > offset:
                piece, rest = piece.split(offset)
                rows.appendleft(rest)
            self._sent.append(piece)
        self._due = rows
        self.sent_offset = offset

    def close(self) -> None:
        """Let go of the disk."""
        self.spool.close()

    def _keep(self, audio: bytes) -> Piece | None:
        if self._overflowing and self.kept_bytes > self._capacity_bytes - self._capacity_bytes // _REOPEN_SHARE:
            return None
        self._overflowing = False
        start, end = self.written_offset, self.written_offset + len(audio)
        if self._memory_bytes + len(audio) <= self._memory_max_bytes:
            self._memory_bytes += len(audio)
            return Piece(start, end, audio=audio)
        place = self.spool.put(audio)
        if place is None:
            self._overflowing = True
            return None
        return Piece(start, end, place=place)

    def _append(self, piece: Piece) -> None:
        self.written_offset = piece.end
        last = self._due[-1] if self._due else None
        if last is None or last.start < self._joinable_from:
            self._due.append(piece)
        elif last.is_gap and piece.is_gap:
            self._due[-1] = Piece(last.start, piece.end)
        elif last.place is not None and piece.place is not None and piece.end - last.start <= _JOIN_MAX_BYTES:
            # The spool is in the order of the stream, so neighbours in one are neighbours in the other.
            assert piece.place == last.place + last.end - last.start
            self._due[-1] = Piece(last.start, piece.end, place=last.place)
        else:
            self._due.append(piece)

    def _forget(self, start: int, end: int, piece: Piece) -> None:
        if piece.audio is not None:
            self._memory_bytes -= end - start
        elif piece.place is not None:
            self.spool.forget_below(piece.place + end - start)
