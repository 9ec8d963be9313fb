"""The doors to the sessions' logs at the broker, and to the transcribers that can finish what was left."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

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
_AUDIO = "AUDIO"
_STORED_BY = "meetings"
_SUBJECT = "transcript."
_CALL_S = 10.0


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

    async def is_closed(self, session_id: str) -> bool:
        """Tell whether a session has a log, and is over. Raises AppError(UNAVAILABLE)."""
        subject = f"{_SUBJECT}{session_id}"
        try:
            newest = await self._broker.bus.js.get_last_msg(_STREAM, subject)
        except nats.js.errors.NotFoundError:
            return False
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return _state(subject, newest).closed

    async def stored_sequence(self) -> int:
        """Return up to where the database has the transcript logs; 0 if nobody has read them yet."""
        try:
            consumer = await self._broker.bus.js.consumer_info(_STREAM, _STORED_BY)
        except nats.js.errors.NotFoundError:
            return 0
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return consumer.ack_floor.stream_seq if consumer.ack_floor else 0

    async def audio_share(self) -> float:
        """Return how full the audio log is, 0 to 1; 0 if there is none yet."""
        try:
            info = await self._broker.bus.js.stream_info(_AUDIO)
        except nats.js.errors.NotFoundError:
            return 0.0
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        bytes_max = info.config.max_bytes or 0
        return info.state.bytes / bytes_max if bytes_max > 0 else 0.0

    async def purge(self, session_id: str) -> None:
        """Remove both logs of a session, the audio first: a transcript log without audio can still be read."""
        await self.purge_audio(session_id)
        await self._purge(_STREAM, f"{_SUBJECT}{session_id}")

    async def purge_audio(self, session_id: str) -> None:
        """Remove the audio of a session: it is closed, so nothing but its drafts could need it."""
        await self._purge(_AUDIO, f"audio.{session_id}")

    async def _purge(self, stream: str, subject: str) -> None:
        try:
            await self._broker.bus.js.purge_stream(stream, subject=subject)
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
        closed=entry.HasField("closed") or entry.HasField("after_close"),
        drafts_left=entry.closed.draft_segments or entry.after_close.drafts_left,
    )


class Transcribers:
    """The transcribers, any of which can do what a session without an owner needs."""

    def __init__(self, peers: list[Peer]) -> None:
        self._peers = peers

    async def finish(self, session_id: str) -> None:
        """Have a session closed that nobody owns. Raises the last transcriber's AppError if none could."""
        await self._ask(lambda stub: stub.FinishSession, transcriber_pb2.FinishSessionRequest(session_id=session_id))

    async def heal(self, session_id: str) -> None:
        """Have the drafts of a closed session heard again, if there is an engine for that. Raises as `finish`."""
        await self._ask(lambda stub: stub.HealSession, transcriber_pb2.HealSessionRequest(session_id=session_id))

    async def give_up(self, session_id: str, reason: transcript_pb2.GivenUpReason.ValueType) -> int:
        """Have the drafts of a closed session let be, and return how many they were. Raises as `finish`."""
        request = transcriber_pb2.GiveUpDraftsRequest(session_id=session_id, reason=reason)
        return int((await self._ask(lambda stub: stub.GiveUpDrafts, request)).given_up)

    async def _ask(self, method: Callable[[Any], Any], request: Any) -> Any:
        failure = AppError(Kind.UNAVAILABLE, "No transcriber is known.")
        for peer in self._peers:
            stub = transcriber_pb2_grpc.TranscriberServiceStub(peer.channel)
            try:
                return await peer.call(method(stub), request, timeout_s=_CALL_S)
            except AppError as fault:
                failure = fault
        raise failure
