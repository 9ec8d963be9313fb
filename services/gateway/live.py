"""`WS /transcribe`: a bare ASGI endpoint, because every frame of every session passes here.

One task reads the socket and never waits for a transcriber, one writes it. Everything that matters is in the
transcriber's logs: when this process dies, clients resume through another.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from verbatim.meetings.v1 import meetings_pb2, meetings_pb2_grpc
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import ids, telemetry
from chassis.errors import TABLE, AppError, Kind
from chassis.rpc import Peer
from services.gateway import metrics, wire
from services.gateway.auth import AccessTokens, Principal
from services.gateway.relay import Fleet, Link

log = telemetry.logger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_GREETING_S = 10.0
_QUEUE_MAX = 2000
_RESTARTING = 1012
_INTERNAL = 1011
_SLOW = 4408


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """Seconds and bytes of one connection."""

    start_s: float = 5.0
    meeting_s: float = 3.0
    transcriber_s: float = 3.0
    heartbeat_s: float = 20.0
    in_flight_bytes: int = 1024 * 1024
    hold_pause_s: float = 1.0
    faults_max: int = 100
    sessions_per_account: int = 50
    token_grace_s: float = 30.0


class LiveEndpoint:
    """The ASGI application for `/transcribe`."""

    def __init__(self, fleet: Fleet, meetings: Peer, access_tokens: AccessTokens, limits: LiveLimits) -> None:
        self._fleet = fleet
        self._meetings = meetings
        self._stub = meetings_pb2_grpc.MeetingsServiceStub(meetings.channel)
        self._access_tokens = access_tokens
        self._limits = limits
        self._connections: set[_Connection] = set()
        self._seats: Counter[str] = Counter()
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one socket to its end."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = telemetry.request_id()
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x-request-id", request_id.encode())]})
        connection = _Connection(receive, send, request_id, self._limits)
        self._connections.add(connection)
        self._empty.clear()
        metrics.WS_SESSIONS.inc()
        try:
            await self._serve(connection, headers)
        finally:
            metrics.WS_SESSIONS.dec()
            self._connections.discard(connection)
            if not self._connections:
                self._empty.set()

    async def _serve(self, connection: _Connection, headers: dict[str, str]) -> None:
        writer = asyncio.create_task(connection.write())
        try:
            await self._converse(connection, headers)
        except AppError as error:
            connection.fail(error)
        except Exception:
            log.exception("connection failed")
            connection.fail(AppError(Kind.INTERNAL, "Something went wrong on our side."), close_code=_INTERNAL)
        finally:
            connection.leave()
            connection.finish_writing()
            await writer

    async def _converse(self, connection: _Connection, headers: dict[str, str]) -> None:
        if self._draining:
            raise AppError(Kind.UNAVAILABLE, "The service is restarting.", retry_after_s=0.0)
        start = await connection.read_start()
        if start is None:
            return
        principal = self._authenticate(start, headers)
        session_id = start.resume.session_id if start.resume else ids.new_id()
        link = await self._fleet.choose(session_id, self._limits.transcriber_s)
        if start.resume:
            event = self._resume(start.resume, principal, connection.request_id)
        else:
            event = await self._open(session_id, start, principal, connection.request_id)
        with self._seat(principal), connection.until(principal.expires_at + self._limits.token_grace_s):
            await connection.join(link, session_id, event)
            await connection.read()

    @contextmanager
    def _seat(self, principal: Principal) -> Iterator[None]:
        """Count the account's sessions on this replica. Raises AppError(RATE_LIMIT_EXCEEDED) when it has too many."""
        taken = self._seats[principal.account_id]
        if taken >= self._limits.sessions_per_account:
            raise AppError(Kind.RATE_LIMIT_EXCEEDED, "Too many live sessions of this account.", retry_after_s=10.0)
        self._seats[principal.account_id] += 1
        try:
            yield
        finally:
            self._seats[principal.account_id] -= 1
            if not self._seats[principal.account_id]:
                del self._seats[principal.account_id]

    def _authenticate(self, start: wire.StartMessage, headers: dict[str, str]) -> Principal:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        token = start.token or (bearer if scheme.lower() == "bearer" else "")
        if not token:
            raise AppError(Kind.UNAUTHORIZED, "A token is needed: in the start message or as Authorization header.")
        return self._access_tokens.authenticate(token)

    def _resume(self, resume: wire.ResumeRequest, principal: Principal, request_id: str) -> relay.ClientEvent:
        metrics.WS_RESUMES.inc()
        if not ids.is_id(resume.session_id):
            raise AppError(Kind.NOT_FOUND, "Session expired")
        request = relay.Resume(
            session_id=resume.session_id,
            request_id=request_id,
            owner_id=principal.account_id,
            resume_token=resume.resume_token,
            last_event=resume.last_event,
        )
        return relay.ClientEvent(resume=request)

    async def _open(
        self, session_id: str, start: wire.StartMessage, principal: Principal, request_id: str
    ) -> relay.ClientEvent:
        opened = pb.Opened(
            meeting_id=await self._meeting(start, principal),
            owner_id=principal.account_id,
            title=start.title or "",
            encoding=wire.ENCODINGS[start.encoding],
            sample_rate=start.sample_rate,
            channels=start.channels,
            language=start.language or "",
            prompt=start.prompt or "",
            vocabulary=start.vocabulary,
            speaker=start.speaker or "",
            interim=start.interim,
        )
        return relay.ClientEvent(open=relay.Open(session_id=session_id, request_id=request_id, session=opened))

    async def _meeting(self, start: wire.StartMessage, principal: Principal) -> str:
        """Return the meeting's id: the one named, if it is the caller's, or a new one.

        A new meeting does not need the database: if it is away, the first entry of the log makes the row later.
        """
        if start.meeting_id is not None:
            if not ids.is_id(start.meeting_id):
                raise AppError(Kind.NOT_FOUND, "There is no such meeting.")
            named = meetings_pb2.GetMeetingRequest(owner_id=principal.account_id, meeting_id=start.meeting_id)
            await self._meetings.call(self._stub.GetMeeting, named, timeout_s=self._limits.meeting_s)
            return start.meeting_id
        meeting_id = ids.new_id()
        wanted = meetings_pb2.CreateMeetingRequest(
            owner_id=principal.account_id,
            meeting_id=meeting_id,
            title=start.title or "Live meeting",
            language=start.language or "",
        )
        try:
            await self._meetings.call(self._stub.CreateMeeting, wanted, timeout_s=self._limits.meeting_s)
        except AppError as error:
            if not error.codes.retryable:
                raise
            log.warning("meeting will be made from the log", fault=str(error))
        return meeting_id

    async def drain(self, within_s: float) -> None:
        """Send every client to another replica, and wait until the sockets are closed."""
        self._draining = True
        for connection in list(self._connections):
            connection.tell({"type": "status", "state": "draining", "reason": "restart", "lag_s": 0.0})
            error = AppError(Kind.UNAVAILABLE, "The service is restarting: resume.", retry_after_s=0.0)
            connection.fail(error, close_code=_RESTARTING)
        try:
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        except TimeoutError:
            log.warning("sockets left open at the end of the drain", count=len(self._connections))


class _Connection:
    """One socket and its session's channel."""

    def __init__(self, receive: Receive, send: Send, request_id: str, limits: LiveLimits) -> None:
        self.request_id = request_id
        self.session_id = ""
        self._receive = receive
        self._send = send
        self._limits = limits
        self._link: Link | None = None
        self._channel = 0
        self._event = 0
        self._resuming = False
        self._faults = 0
        self._sent_offset = 0
        self._acked_offset = 0
        self._holding = False
        self._flowing = asyncio.Event()
        self._greeted = asyncio.Event()
        self._queue: deque[dict[str, Any] | tuple[int, str]] = deque()
        self._queued = asyncio.Event()
        self._closing = False
        self._gone = False

    # -- reading -------------------------------------------------------------------------------------------------

    async def read_start(self) -> wire.StartMessage | None:
        """Return the first message; None if the client left. Raises AppError if it is anything else, or too late."""
        try:
            async with asyncio.timeout(self._limits.start_s):
                message = await self._receive()
        except TimeoutError:
            raise AppError(Kind.BAD_REQUEST, "The start message did not come in time.") from None
        if message["type"] == "websocket.disconnect":
            self._gone = True
            return None
        text = message.get("text")
        if text is None:
            raise AppError(Kind.BAD_REQUEST, "Audio came before the start message.")
        parsed = wire.parse_json(text)
        if parsed["type"] != "start":
            raise AppError(Kind.BAD_REQUEST, "The first message must be start.")
        return wire.parse_start(parsed)

    async def join(self, link: Link, session_id: str, event: relay.ClientEvent) -> None:
        """Put the session on a transcriber's stream and wait for its greeting."""
        self.session_id = session_id
        self._resuming = event.WhichOneof("kind") == "resume"
        self._link = link
        self._channel = link.join(self)
        event.channel = self._channel
        link.send(event)
        try:
            async with asyncio.timeout(_GREETING_S):
                await self._greeted.wait()
        except TimeoutError:
            raise AppError(Kind.UNAVAILABLE, "The transcription service does not answer.") from None

    @contextmanager
    def until(self, expires_at: float) -> Iterator[None]:
        """Close the connection at a Unix time: the token is over, the session is not; the client resumes."""
        error = AppError(Kind.UNAUTHORIZED, "The access token has expired: resume with a new one.")
        timer = asyncio.get_running_loop().call_later(max(0.0, expires_at - time.time()), self.fail, error)
        try:
            yield
        finally:
            timer.cancel()

    async def read(self) -> None:
        """Pass on what the client says until it leaves or the connection is to be closed."""
        while not self._closing:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._gone = True
                return
            if self._closing:
                return
            try:
                frame = message.get("bytes")
                if frame is not None:
                    await self._audio(frame)
                else:
                    self._control(message.get("text") or "")
            except AppError as error:
                self._faults += 1
                if error.kind is Kind.PAYLOAD_TOO_LARGE or self._faults >= self._limits.faults_max:
                    raise
                self.tell(self._error(error, fatal=False))

    async def _audio(self, frame: bytes) -> None:
        offset, data = wire.parse_audio(frame)
        assert self._link is not None
        self._link.send(relay.ClientEvent(channel=self._channel, audio=relay.Audio(offset=offset, data=data)))
        self._sent_offset = max(self._sent_offset, offset + len(data))
        if self._holding or self._sent_offset - self._acked_offset > self._limits.in_flight_bytes:
            # Push back: the next frame is read when the transcriber has caught up, or after a moment (so that a
            # client that does not heed `hold` is slowed down, and pings are still answered).
            self._flowing.clear()
            try:
                async with asyncio.timeout(self._limits.hold_pause_s):
                    await self._flowing.wait()
            except TimeoutError:
                metrics.WS_PUSHED_BACK.inc()

    def _control(self, text: str) -> None:
        message = wire.parse_json(text)
        if message["type"] == "ping":
            self.tell({"type": "pong", "t": message.get("t")})
            return
        event = wire.parse_control(message, self._channel)
        assert self._link is not None
        self._link.send(event)

    # -- what the transcriber says -------------------------------------------------------------------------------

    def on_event(self, event: relay.ServerEvent) -> None:
        """Pass an event on to the client."""
        kind = event.WhichOneof("kind")
        if kind == "problem":
            self._on_problem(event.problem)
            return
        if kind == "ack":
            self._acked_offset = max(self._acked_offset, event.ack.offset)
            self._flow()
        elif kind == "status":
            self._holding = event.status.state == relay.STATE_HOLD
            self._flow()
        elif kind in {"started", "restored"}:
            self._sent_offset = self._acked_offset = event.restored.offset
            self._greeted.set()
        message = wire.render(event, self.session_id)
        self._event = message.get("event", self._event)
        if kind in {"started", "restored"}:
            message["heartbeat_s"] = self._limits.heartbeat_s
            message["request_id"] = self.request_id
        self.tell(message)
        if kind == "finished":
            self.close(1000, "done")

    def _flow(self) -> None:
        if not self._holding and self._sent_offset - self._acked_offset <= self._limits.in_flight_bytes:
            self._flowing.set()

    def _on_problem(self, problem: relay.Problem) -> None:
        self._greeted.set()
        message: dict[str, Any] = {
            "type": "error",
            "event": problem.event or self._event,
            "error": problem.code,
            "message": problem.message,
            "request_id": self.request_id,
            "fatal": problem.close_code != 0,
            "retryable": problem.retryable,
        }
        if problem.retry_after_s:
            message["retry_after"] = problem.retry_after_s
        if problem.HasField("expected_offset"):
            message["expected"] = problem.expected_offset
        if self._resuming and problem.close_code == TABLE[Kind.NOT_FOUND].close:
            message |= {"type": "session_not_found", "error": "Session expired"}
        self.tell(message)
        if problem.close_code:
            self.close(problem.close_code, problem.code)

    def on_lost(self) -> None:
        """The transcriber is gone: the client resumes, and another adopts the session."""
        self._link = None
        error = AppError(Kind.UNAVAILABLE, "The session moves to another server: resume.", retry_after_s=0.0)
        self.fail(error, close_code=_RESTARTING)

    # -- writing -------------------------------------------------------------------------------------------------

    def tell(self, message: dict[str, Any]) -> None:
        """Queue a message. A client that reads slowly loses partials and stale acks first, then the connection."""
        if self._closing:
            return
        if len(self._queue) >= _QUEUE_MAX:
            self._queue = deque(
                kept for kept in self._queue if isinstance(kept, tuple) or kept["type"] not in {"partial", "ack"}
            )
            if len(self._queue) >= _QUEUE_MAX:
                self._queue.clear()
                self.fail(AppError(Kind.UNAVAILABLE, "The connection is too slow: resume."), close_code=_SLOW)
                return
        self._queue.append(message)
        self._queued.set()

    def fail(self, error: AppError, *, close_code: int | None = None) -> None:
        """Tell the error and close."""
        if self._closing:
            return
        code = error.codes.close if close_code is None else close_code
        if error.kind is Kind.NOT_FOUND and error.message == "Session expired":
            message = self._error(error, fatal=True) | {"type": "session_not_found", "error": "Session expired"}
        else:
            message = self._error(error, fatal=True)
        self.tell(message)
        self.close(code, error.kind.value)

    def _error(self, error: AppError, *, fatal: bool) -> dict[str, Any]:
        retryable = error.codes.retryable
        body = error.body(self.request_id)
        return {"type": "error", "event": self._event, **body, "fatal": fatal, "retryable": retryable}

    def close(self, code: int, reason: str) -> None:
        """Close the socket after what is queued."""
        if not self._closing:
            self._closing = True
            self._queue.append((code, reason))
            self._queued.set()
            self._greeted.set()
            self._flowing.set()
            metrics.WS_CLOSED.labels(str(code)).inc()

    def finish_writing(self) -> None:
        """Let `write` return once everything queued is sent."""
        self.close(1000, "")

    def leave(self) -> None:
        """Give the channel back."""
        if self._link is not None:
            self._link.leave(self._channel)
            self._link = None

    async def write(self) -> None:
        """Send what is queued, in order, until the close."""
        while True:
            await self._queued.wait()
            self._queued.clear()
            while self._queue:
                item = self._queue.popleft()
                try:
                    if isinstance(item, tuple):
                        if not self._gone:
                            await self._send({"type": "websocket.close", "code": item[0], "reason": item[1]})
                        return
                    if not self._gone:
                        await self._send({"type": "websocket.send", "text": wire.dumps(item)})
                except (OSError, RuntimeError):
                    # The client went away while we wrote: what it missed is in the log, it resumes.
                    self._gone = True
