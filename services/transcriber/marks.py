"""Where a session's audio can be entered, and which of its bytes stand for which audio. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from verbatim.transcript.v1 import transcript_pb2 as pb

from services.transcriber.transcript import BYTES_PER_SECOND

# RFC 7845, section 4.6: a decoder needs 80 ms to settle. It gets more, because that costs next to nothing.
_SETTLING_BYTES = 2 * BYTES_PER_SECOND
_EVERY_BYTES = BYTES_PER_SECOND // 5
_MARKS_MAX = 20_000


class Marks:
    """Entry points of a session in order, some for each second, from the last one that can still be wanted."""

    def __init__(self, first: pb.EntryPoint) -> None:
        self._marks = [first]
        # Ends of holes: nobody who wants what comes after may begin before.
        self._bounds: list[pb.EntryPoint] = []
        self._source_below = 0

    @property
    def newest(self) -> pb.EntryPoint:
        """The last one added."""
        return self._marks[-1]

    def add(self, mark: pb.EntryPoint) -> None:
        """Add a place behind all others."""
        if mark.encoded_offset > self.newest.encoded_offset:
            self._marks.append(mark)
            # An hour behind, it may cost precision: whoever asks gets the oldest that is left.
            del self._marks[:-_MARKS_MAX]

    def add_now_and_then(self, encoded_offset: int, pcm_offset: int, stream_id: int, gain: int) -> None:
        """Add a packet's place unless there is one shortly before."""
        newest = self.newest
        if not newest.HasField("stream_id") or pcm_offset - newest.pcm_offset >= _EVERY_BYTES:
            self.add(
                pb.EntryPoint(encoded_offset=encoded_offset, pcm_offset=pcm_offset, stream_id=stream_id, gain=gain)
            )

    def add_hole(self, start_offset: int, start_pcm_offset: int, behind: pb.EntryPoint) -> None:
        """Add a hole in the client's stream, and where reading goes on behind it."""
        self.add(pb.EntryPoint(encoded_offset=start_offset, pcm_offset=start_pcm_offset))
        self.add(behind)
        self._bounds.append(behind)

    def heard_below(self, source_offset: int) -> int:
        """Return the PCM offset of the newest mark at or below a source offset."""
        behind = bisect_right(self._marks, source_offset, key=_source)
        return self._marks[behind - 1].pcm_offset if behind else 0

    def source_below(self, pcm_offset: int) -> int:
        """Return the source offset of the newest mark at or below a PCM offset, and forget what lies well before."""
        behind = bisect_right(self._marks, pcm_offset, key=_heard)
        if behind:
            self._source_below = max(self._source_below, self._marks[behind - 1].encoded_offset)
        entry = self.entry_point(pcm_offset)
        del self._marks[: bisect_left(self._marks, entry.encoded_offset, key=_source)]
        self._bounds = [bound for bound in self._bounds if bound.encoded_offset >= entry.encoded_offset]
        return self._source_below

    def entry_point(self, pcm_offset: int) -> pb.EntryPoint:
        """Return the newest mark from which a decoder has settled by `pcm_offset`, or the first that may be taken."""
        settled = bisect_right(self._marks, pcm_offset - _SETTLING_BYTES, key=_heard)
        entry = self._marks[max(0, settled - 1)]
        bounds = [bound for bound in self._bounds if bound.pcm_offset <= pcm_offset]
        return max([entry, *bounds], key=_source)


def _source(mark: pb.EntryPoint) -> int:
    return mark.encoded_offset


def _heard(mark: pb.EntryPoint) -> int:
    return mark.pcm_offset
