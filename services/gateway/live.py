"""`WS /transcribe`: a bare ASGI endpoint, because every frame of every session passes here.

One task reads the socket and never waits for a transcriber, one writes it. Everything that matters is in the
transcriber's logs: when this process dies, clients resume through another.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from verbatim.meetings.v1 import meetings_pb2, meetings_pb2_grpc
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import ids, telemetry, tracing
from chassis.errors import AppError, Kind
from services.gateway import metrics, wire
from services.gateway.admission import Admission, Overloaded
from services.gateway.auth import STREAM, Principal
from services.gateway.connection import RESTARTING, Connection, LiveLimits, Message, Receive, Send
from services.gateway.entrance import Entrance
from services.gateway.relay import Fleet

log = telemetry.logger(__name__)

_INTERNAL = 1011
_OVERLOADED = 1013


class LiveEndpoint:
    """The ASGI application for `/transcribe`."""

    def __init__(self, fleet: Fleet, entrance: Entrance, admission: Admission, limits: LiveLimits) -> None:
        self._fleet = fleet
        self._meetings = entrance.meetings
        self._stub = meetings_pb2_grpc.MeetingsServiceStub(entrance.meetings.channel)
        self._entrance = entrance
        self._admission = admission
        self._limits = limits
        self._connections: set[Connection] = set()
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one socket to its end."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = telemetry.request_id()
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x-request-id", request_id.encode())]})
        connection = Connection(receive, send, request_id, self._limits)
        self._connections.add(connection)
        self._empty.clear()
        metrics.WS_SESSIONS.inc()
        try:
            await self._serve(connection, scope, headers)
        finally:
            metrics.WS_SESSIONS.dec()
            self._connections.discard(connection)
            if not self._connections:
                self._empty.set()

    async def _serve(self, connection: Connection, scope: Message, headers: dict[str, str]) -> None:
        writer = asyncio.create_task(connection.write())
        try:
            await self._converse(connection, scope, headers)
        except Overloaded as error:
            connection.fail(error, close_code=_OVERLOADED)
        except AppError as error:
            connection.fail(error)
        except Exception:
            log.exception("connection failed")
            connection.fail(AppError(Kind.INTERNAL, "Something went wrong on our side."), close_code=_INTERNAL)
        finally:
            connection.leave()
            connection.finish_writing()
            connection.note_resume("failed")
            await writer

    async def _converse(self, connection: Connection, scope: Message, headers: dict[str, str]) -> None:
        if self._draining:
            raise AppError(Kind.UNAVAILABLE, "The service is restarting.", retry_after_s=0.0)
        start = await connection.read_start()
        if start is None:
            return
        async with AsyncExitStack() as held:
            # Ends with the greeting: what is said after that has traces of its own, one for each utterance.
            traced = tracing.serve(
                "WS /transcribe",
                None,
                route="/transcribe",
                request_id=connection.request_id,
                resumes=start.resume is not None,
            )
            with traced as span:
                await self._join(connection, start, scope, headers, held, span)
            await connection.read()

    async def _join(
        self,
        connection: Connection,
        start: wire.StartMessage,
        scope: Message,
        headers: dict[str, str],
        held: AsyncExitStack,
        span: tracing.Span,
    ) -> None:
        """Let a client in and put its session on a transcriber's stream; `held` ends with the socket."""
        connection.resuming = start.resume is not None
        principal = await self._authenticate(start, scope, headers)
        session_id = start.resume.session_id if start.resume else ids.new_id()
        tracing.tell(span, session_id=session_id)
        admitted = self._admission.session(
            principal.account_id,
            session_id,
            connection.meter,
            address=scope["client"][0],
            resumed=start.resume is not None,
        )
        await held.enter_async_context(admitted)
        link = await self._fleet.choose(session_id, self._limits.transcriber_s)
        if start.resume:
            event = self._resume(start.resume, principal, connection.request_id)
        else:
            event = await self._open(session_id, start, principal, connection.request_id)
        held.enter_context(connection.until(principal.expires_at + self._limits.token_grace_s))
        held.enter_context(self._entrance.revocations.watched(principal, connection.fail))
        await connection.join(link, session_id, event)

    async def _authenticate(self, start: wire.StartMessage, scope: Message, headers: dict[str, str]) -> Principal:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        token = start.token or (bearer if scheme.lower() == "bearer" else "")
        if ticket := wire.ticket_of(scope.get("query_string", b"")):
            principal = await self._entrance.tickets.redeem(ticket)
            self._entrance.revocations.check(principal)
        elif token:
            principal = await self._entrance.credentials.authenticate(token)
        else:
            raise AppError(
                Kind.UNAUTHORIZED, "A token is needed: in the start message, as Authorization header, or a ticket."
            )
        principal.require(STREAM)
        return principal

    def _resume(self, resume: wire.ResumeRequest, principal: Principal, request_id: str) -> relay.ClientEvent:
        if not ids.is_id(resume.session_id):
            raise AppError(Kind.NOT_FOUND, "Session expired")
        request = relay.Resume(
            session_id=resume.session_id,
            request_id=request_id,
            owner_id=principal.account_id,
            resume_token=resume.resume_token,
            last_event=resume.last_event,
            traceparent=tracing.carried().get(tracing.HEADER, ""),
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
        traceparent = tracing.carried().get(tracing.HEADER, "")
        wanted = relay.Open(session_id=session_id, request_id=request_id, session=opened, traceparent=traceparent)
        return relay.ClientEvent(open=wanted)

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
            connection.fail(error, close_code=RESTARTING)
        try:
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        except TimeoutError:
            log.warning("sockets left open at the end of the drain", count=len(self._connections))
