"""A transcriber whose appends to the transcript log name whatever sequence is the last, not the one it knows."""

from __future__ import annotations

from functools import partial

from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import lifecycle
from chassis.settings import load
from services.transcriber.__main__ import start
from services.transcriber.settings import Settings
from services.transcriber.transcript_log import TranscriptLog


class UnfencedTranscriptLog(TranscriptLog):
    """Lets everybody write."""

    async def append(self, entry: pb.TranscriptEntry, last_sequence: int) -> int:
        """Append after whatever there is."""
        newest = await self._last(f"transcript.{entry.session_id}")
        return await super().append(entry, newest[0] if newest else 0)


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("transcriber", settings, partial(start, settings, transcript_log=UnfencedTranscriptLog))
