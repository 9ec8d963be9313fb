"""The owner's hand in the transcript log of a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import telemetry
from chassis.errors import AppError
from services.transcriber import metrics
from services.transcriber.line import ClientLine
from services.transcriber.transcript import Ledger, newest
from services.transcriber.transcript_log import Gone, TranscriptLog

log = telemetry.logger(__name__)

_PAUSE_S, _PAUSE_S_MAX = 0.1, 2.0
_SHOWN = frozenset({"segment", "gap"})


class Journal:
    """Numbers entries, appends them behind the last one that it knows, folds them into the ledger.

    Only the session's own task may call it: there are no locks. Every method raises Fenced when the session has
    another owner.
    """

    def __init__(
        self,
        ledger: Ledger,
        last_sequence: int,
        transcripts: TranscriptLog,
        line: ClientLine,
        *,
        writer: str,
        clock: Callable[[], float],
    ) -> None:
        self.appended_at = clock()
        self._ledger = ledger
        self._last_sequence = last_sequence
        self._transcripts = transcripts
        self._line = line
        self._writer = writer
        self._clock = clock
        self._snapshot: pb.TranscriptEntry | None = None

    async def begin(self, opened: pb.Opened) -> pb.TranscriptEntry:
        """Append the first entry. Raises AppError when the broker is away."""
        entry = self._ledger.draft(self._writer, opened=opened)
        self._last_sequence = await self._transcripts.append(entry, 0)
        self._ledger.apply(entry)
        return entry

    async def append(self, **kind: object) -> pb.TranscriptEntry:
        """Append one entry, however long the broker is away, and show it to the client."""
        entry = self._ledger.draft(self._writer, **kind)
        pause_s = _PAUSE_S
        while True:
            try:
                self._last_sequence = await self._append(entry)
                break
            except AppError as fault:
                log.warning("transcript append failed", fault=str(fault))
                self._line.hold("broker")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_S_MAX)
        self._line.release("broker")
        self.appended_at = self._clock()
        self._ledger.apply(entry)
        if entry.WhichOneof("kind") in _SHOWN:
            self._line.say(entry=entry)
        return entry

    async def _append(self, entry: pb.TranscriptEntry) -> int:
        """Append; into a log that knows nothing of the session, behind a snapshot of it."""
        if self._snapshot is None:
            try:
                return await self._transcripts.append(entry, self._last_sequence)
            except Gone:
                log.error("the transcript log was deleted, writing a snapshot")  # noqa: TRY400 - not ours to trace
                metrics.SNAPSHOTS.inc()
                self._snapshot = self._ledger.snapshot(self._writer)
        self._last_sequence = await self._transcripts.append(self._snapshot, 0)
        self._snapshot = None
        return await self._transcripts.append(entry, self._last_sequence)

    async def missed(self, last_event: int) -> list[pb.TranscriptEntry]:
        """Return what a client shows that has seen the events up to `last_event`."""
        rows = self._ledger.since(last_event)
        if rows is not None:
            return newest(rows)
        history = await self._transcripts.read(self._ledger.session_id)
        return newest(entry for _, entry in history if entry.event > last_event)
