"""One live socket: what its client says on its way to the transcriber, and what it is told in return."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from verbatim.transcriber.v1 import transcriber_pb2 as relay

from chassis.errors import TABLE, AppError, Kind
from services.gateway import metrics, wire
from services.gateway.admission import Meter
from services.gateway.bucket import Bucket
from services.gateway.relay import Link

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_GREETING_S = 10.0
_QUEUE_MAX = 2000
_SLOW = 4408
RESTARTING = 1012


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
    controls_per_s: float = 20.0
    controls_at_once: float = 100.0
    token_grace_s: float = 30.0


class Connection:
    """One socket and its session's channel."""

    def __init__(self, receive: Receive, send: Send, request_id: str, limits: LiveLimits) -> None:
        self.request_id = request_id
        self.session_id = ""
        self.meter = Meter()
        self.resuming = False
        """Whether the client came to resume a session, and it is not said yet how that ended."""
        self._receive = receive
        self._send = send
        self._limits = limits
        self._link: Link | None = None
        self._channel = 0
        self._event = 0
        self._faults = 0
        self._controls = Bucket(limits.controls_per_s, limits.controls_at_once, asyncio.get_running_loop().time)
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
                    # What is too much is read later: nothing that a client says is lost, and its pings are answered.
                    await asyncio.sleep(self._controls.take())
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
        self.meter.on_event(event)
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
            self.note_resume("restored")
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
        if self.resuming and problem.close_code == TABLE[Kind.NOT_FOUND].close:
            self.note_resume("not_found")
            message |= {"type": "session_not_found", "error": "Session expired"}
        self.tell(message)
        if problem.close_code:
            self.close(problem.close_code, problem.code)

    def on_lost(self) -> None:
        """The transcriber is gone: the client resumes, and another adopts the session."""
        self._link = None
        error = AppError(Kind.UNAVAILABLE, "The session moves to another server: resume.", retry_after_s=0.0)
        self.fail(error, close_code=RESTARTING)

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
            self.note_resume("not_found")
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

    def note_resume(self, result: str) -> None:
        """Count how the client's wish to resume ended, once."""
        if self.resuming:
            self.resuming = False
            metrics.WS_RESUMES.labels(result).inc()

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
