"""A transcriber that takes a transcript log that somebody has deleted for one that another transcriber writes to."""

from __future__ import annotations

from functools import partial

from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import lifecycle
from chassis.settings import load
from services.transcriber.__main__ import start
from services.transcriber.settings import Settings
from services.transcriber.transcript_log import Fenced, Gone, TranscriptLog


class BegunAnewTranscriptLog(TranscriptLog):
    """Never tells that the log has begun anew: nothing of the session is written again."""

    async def append(self, entry: pb.TranscriptEntry, last_sequence: int) -> int:
        """Append, or give the session up."""
        try:
            return await super().append(entry, last_sequence)
        except Gone as fault:
            raise Fenced(entry.session_id) from fault


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("transcriber", settings, partial(start, settings, transcript_log=BegunAnewTranscriptLog))
