"""The transcript log of sessions in JetStream: of two writers exactly one appends."""

from __future__ import annotations

import nats.js.errors
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import bus, telemetry, tracing
from chassis.errors import AppError, Kind
from services.transcriber import metrics
from services.transcriber.logs import PUBLISH_S, newest_of, read_all

_WRONG_LAST_SEQUENCE = 10071


class Fenced(Exception):
    """Another transcriber owns the session now: this one must let it go."""


class Gone(Exception):
    """Somebody has deleted the whole log, of all sessions, and it has begun anew without what was in it."""


class TranscriptLog:
    """Appends entries so that of two writers exactly one wins, and reads them back."""

    def __init__(self, broker: bus.Bus) -> None:
        self._bus = broker

    async def append(self, entry: pb.TranscriptEntry, last_sequence: int) -> int:
        """Append after the message `last_sequence` of the session's subject (0: none); return the new one's sequence.

        Raises Fenced if the log has moved on, Gone if there is another in its place that knows nothing of the session,
        AppError(UNAVAILABLE) if the broker does not answer. To try the same entry again after UNAVAILABLE is safe: if
        the first try did arrive, its sequence is returned.
        """
        subject = f"transcript.{entry.session_id}"
        payload = entry.SerializeToString()
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(last_sequence),
            "x-request-id": telemetry.request_id(),
            **tracing.carried(),
        }
        if not self._bus.client.is_connected:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log="not connected")
        try:
            with tracing.step("append", kind=tracing.SpanKind.PRODUCER, destination="transcript"):
                ack = await self._bus.js.publish(subject, payload, timeout=PUBLISH_S, headers=headers)
        except nats.js.errors.APIError as fault:
            if fault.err_code != _WRONG_LAST_SEQUENCE:
                raise AppError(Kind.UNAVAILABLE, "The broker refuses.", log=repr(fault)) from fault
            newest = await self._last(subject)
            if newest is not None and newest[1] == payload:
                return newest[0]
            if newest is None and last_sequence and await self._begun_after(last_sequence):
                raise Gone(entry.session_id) from fault
            metrics.FENCED.inc()
            raise Fenced(entry.session_id) from fault
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return ack.seq

    async def read(self, session_id: str) -> list[tuple[int, pb.TranscriptEntry]]:
        """Return (sequence, entry) of the whole log of a session; empty if there is none."""
        subject = f"transcript.{session_id}"
        newest = await self._last(subject)
        if newest is None:
            return []
        messages = await read_all(self._bus, "TRANSCRIPT", subject, 0, newest[0])
        return [(sequence, pb.TranscriptEntry.FromString(data)) for sequence, data in messages]

    async def _begun_after(self, sequence: int) -> bool:
        """Tell whether the stream is another than the one that had a message of this sequence: then the session was not
        taken out of it on purpose, with its meeting (`bus.Bus.declare`: a stream's first sequence is its own)."""
        try:
            info = await self._bus.js.stream_info("TRANSCRIPT")
        except nats.js.errors.NotFoundError:
            return True
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return (info.config.first_seq or 0) > sequence or info.state.last_seq < sequence

    async def _last(self, subject: str) -> tuple[int, bytes] | None:
        return await newest_of(self._bus, "TRANSCRIPT", subject)
