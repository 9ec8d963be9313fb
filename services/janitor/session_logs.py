"""The doors to the sessions' logs at the broker, and to the transcribers that can finish what was left."""

from __future__ import annotations

from datetime import UTC, datetime

import nats.js.errors
from nats.js.api import RawStreamMsg
from verbatim.transcriber.v1 import transcriber_pb2, transcriber_pb2_grpc
from verbatim.transcript.v1 import transcript_pb2

from chassis import bus
from chassis.broker import Broker
from chassis.errors import AppError, Kind
from chassis.rpc import Peer
from services.janitor.upkeep import SessionLog

_STREAM = "TRANSCRIPT"
_STORED_BY = "meetings"
_SUBJECT = "transcript."


class SessionLogs:
    """The logs of all sessions."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def survey(self) -> list[SessionLog]:
        """Return the state of every session that has a log. Raises AppError(UNAVAILABLE)."""
        js = self._broker.bus.js
        try:
            info = await js.stream_info(_STREAM, subjects_filter=f"{_SUBJECT}*")
            rows = []
            for subject in info.state.subjects or {}:
                newest = await js.get_last_msg(_STREAM, subject)
                rows.append(_state(subject, newest))
        except nats.js.errors.NotFoundError:
            return []
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return rows

    async def stored_sequence(self) -> int:
        """Return up to where the database has the transcript logs; 0 if nobody has read them yet."""
        try:
            consumer = await self._broker.bus.js.consumer_info(_STREAM, _STORED_BY)
        except nats.js.errors.NotFoundError:
            return 0
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return consumer.ack_floor.stream_seq if consumer.ack_floor else 0

    async def purge(self, session_id: str) -> None:
        """Remove both logs of a session, the audio first: a transcript log without audio can still be read."""
        js = self._broker.bus.js
        try:
            await js.purge_stream("AUDIO", subject=f"audio.{session_id}")
            await js.purge_stream(_STREAM, subject=f"{_SUBJECT}{session_id}")
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault


def _state(subject: str, newest: RawStreamMsg) -> SessionLog:
    entry = transcript_pb2.TranscriptEntry.FromString(newest.data or b"")
    written = newest.time or entry.recorded_at.ToDatetime(tzinfo=UTC)
    if isinstance(written, str):
        written = datetime.fromisoformat(written)
    return SessionLog(
        session_id=subject.removeprefix(_SUBJECT),
        sequence=newest.seq or 0,
        written_s=written.timestamp(),
        closed=entry.HasField("closed"),
        draft_segments=entry.closed.draft_segments,
    )


class Finishers:
    """The transcribers, any of which can finish any session."""

    def __init__(self, peers: list[Peer]) -> None:
        self._peers = peers

    async def finish(self, session_id: str, timeout_s: float) -> None:
        """Have a session closed that nobody owns. Raises the last transcriber's AppError if none could."""
        failure = AppError(Kind.UNAVAILABLE, "No transcriber is known.")
        request = transcriber_pb2.FinishSessionRequest(session_id=session_id)
        for peer in self._peers:
            stub = transcriber_pb2_grpc.TranscriberServiceStub(peer.channel)
            try:
                await peer.call(stub.FinishSession, request, timeout_s=timeout_s)
            except AppError as fault:
                failure = fault
            else:
                return
        raise failure
