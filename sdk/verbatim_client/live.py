"""A live session: audio in, events out, over as many connections as it takes.

The session keeps every byte that the platform has not acknowledged, and sends it again where the platform
says after a connection was lost. What it keeps is in two rows: `sent` on this connection but not
acknowledged, and `due` to be sent. Together they reach from the last acknowledged offset to the last one
written, and never exceed the platform's window.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import websockets
from websockets.asyncio.client import ClientConnection, connect

from verbatim_client.backoff import Backoff
from verbatim_client.errors import ConnectionGivenUpError, SessionLostError, StreamError

Event = dict[str, Any]
TokenSource = Callable[[bool], Awaitable[str]]

FRAME_MAX_BYTES = 64 * 1024
OFFSET = struct.Struct(">Q")
CONNECT_WITHIN_S = 10.0
GREETING_WITHIN_S = 15.0
CLOSE_WITHIN_S = 2.0
MISSED_HEARTBEATS = 3
SAME_HOLE_S = 1.0
EVENTS_MAX = 1000
LOSSY = frozenset({"ack", "partial", "status", "pong"})
TAKEN_OVER, UNAUTHORIZED, NOT_FOUND = 4409, 4401, 4404
UNAUTHORIZED_STATUS = 401
RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
FINAL_CLOSES = frozenset({1009, 4400, 4403, TAKEN_OVER, NOT_FOUND})


@dataclass(frozen=True)
class Piece:
    """A stretch of the stream: audio, or a hole (`data` None) that the caller had to leave."""

    start: int
    end: int
    data: bytes | None

    def message(self) -> str | bytes:
        """Give the frame that carries it."""
        if self.data is None:
            return json.dumps({"type": "gap", "from": self.start, "to": self.end})
        return OFFSET.pack(self.start) + self.data

    def split(self, offset: int) -> tuple[Piece, Piece]:
        """Cut in two at an offset inside."""
        at = offset - self.start
        first, second = (None, None) if self.data is None else (self.data[:at], self.data[at:])
        return Piece(self.start, offset, first), Piece(offset, self.end, second)


@dataclass(frozen=True)
class LiveSettings:
    """What a session is started with. Exactly one of `meeting_id` and `title` is usual."""

    meeting_id: str | None = None
    title: str | None = None
    encoding: str = "pcm_s16le"
    sample_rate: int = 16_000
    channels: int = 1
    language: str | None = None
    prompt: str | None = None
    vocabulary: list[str] | None = None
    speaker: str | None = None
    interim: bool = True

    @property
    def bytes_per_second(self) -> int:
        """Rate of the audio; only PCM has a fixed one. Raises ValueError for other encodings."""
        if self.encoding != "pcm_s16le":
            raise ValueError(f"{self.encoding} has no fixed rate")
        return self.sample_rate * self.channels * 2

    def message(self) -> Event:
        """Give the fields of the `start` message."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class LiveSession:
    """One session. Use it as a context manager; iterate over it for events while another task sends.

    `send`, `finalize`, `pause`, `unpause`, `gap` and `finish` may be called from one task, iteration from
    another. Events are the server's messages as dicts. When iteration is slower than the platform, `ack`,
    `partial`, `status` and `pong` are dropped first. After `finished` the iteration ends; it raises
    StreamError when the session cannot go on.
    """

    def __init__(self, url: str, token: TokenSource, settings: LiveSettings, *, backoff: Backoff | None = None) -> None:
        """Take the WebSocket address and a source of tokens; `token(True)` asks for a new one, the old was refused."""
        self.session_id: str | None = None
        self.meeting_id: str | None = None
        self.acked_offset = 0
        self.stored_offset = 0
        self.written_offset = 0
        self.reconnects = 0
        self.last_event = 0
        self.finished: Event | None = None
        self._url, self._token, self._settings = url, token, settings
        self._backoff = backoff or Backoff()
        self._resume_token = ""
        self._window_bytes = FRAME_MAX_BYTES
        self._heartbeat_s = 20.0
        self._sent: deque[Piece] = deque()
        self._due: deque[Piece] = deque()
        self._holding = False
        self._controls: deque[tuple[int, Event]] = deque()
        self._finish_at: int | None = None
        self._finish_said = False
        self._hole_at = -1
        self._hole_seen_at = 0.0
        self._changed = asyncio.Condition()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._fault: StreamError | None = None
        self._started = asyncio.Event()
        self._over = asyncio.Event()
        self._run: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect and wait for `started`. Raises StreamError if the platform refuses or cannot be reached."""
        self._run = asyncio.create_task(self._keep_connected())
        first = [asyncio.create_task(event.wait()) for event in (self._started, self._over)]
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in first:
                task.cancel()
        if not self._started.is_set():
            await asyncio.wait([self._run])
            self._raise_fault()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the session. Without `finish` the platform keeps it open for its resume window."""
        self.leave()
        assert self._run is not None
        await asyncio.wait([self._run])

    def leave(self) -> None:
        """Drop the connection now; iteration ends."""
        assert self._run is not None
        self._run.cancel()

    async def send(self, audio: bytes) -> None:
        """Hand over the next bytes of audio. Waits while the window is full. Raises StreamError."""
        for start in range(0, len(audio), FRAME_MAX_BYTES):
            piece = audio[start : start + FRAME_MAX_BYTES]
            await self._write(piece, len(piece))

    async def finalize(self) -> None:
        """Ask for the current utterance now; the session stays open."""
        await self._say({"type": "finalize"})

    async def pause(self) -> None:
        """Say that no audio will come for a while, on purpose."""
        await self._say({"type": "pause"})

    async def unpause(self) -> None:
        """End a pause."""
        await self._say({"type": "unpause"})

    async def gap(self, dropped_bytes: int) -> None:
        """Say that the next bytes of the stream were dropped before they could be handed over."""
        await self._write(None, dropped_bytes)

    async def finish(self, within_s: float = 60.0) -> Event:
        """Say that this was all, and wait for the accounts (the `finished` event).

        Events keep coming to whoever iterates. Raises StreamError, or TimeoutError after `within_s`.
        """
        async with self._changed:
            self._finish_at = self.written_offset
            self._changed.notify_all()
        async with asyncio.timeout(within_s):
            await self._over.wait()
        if self.finished is None:
            self._raise_if_over()
        assert self.finished is not None
        return self.finished

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give the server's events in order until `finished`. Raises StreamError."""
        while (event := await self._events.get()) is not None:
            yield event
        assert self._run is not None
        await asyncio.wait([self._run])
        self._raise_fault()

    # The connection, again and again.

    async def _keep_connected(self) -> None:
        try:
            renew_token = False
            while self.finished is None:
                close_code, error = await self._one_connection(renew_token=renew_token)
                if self.finished is not None:
                    break
                renew_token = close_code == UNAUTHORIZED
                await self._wait_before_next(close_code, error or {}, may_renew=renew_token)
        except StreamError as fault:
            self._fault = fault
        finally:
            self._over.set()
            self._events.put_nowait(None)
            async with self._changed:
                self._changed.notify_all()

    async def _one_connection(self, *, renew_token: bool) -> tuple[int | None, Event | None]:
        """Live through one connection; give its close code (None: never made, or broken) and last error event."""
        token = await self._token(renew_token)
        error: Event | None = None
        try:
            async with connect(
                self._url,
                open_timeout=CONNECT_WITHIN_S,
                close_timeout=CLOSE_WITHIN_S,
                ping_interval=None,  # the protocol has its own heartbeat
                max_size=None,
                compression=None,
            ) as socket:
                error = await self._greet(socket, token)
                if error is None:
                    error = await self._converse(socket)
                return await _close_code(socket), error
        except websockets.InvalidStatus as refusal:
            return _refused_handshake(refusal)
        except (OSError, TimeoutError, websockets.WebSocketException) as failure:
            return None, error or {"message": f"{type(failure).__name__}: {failure}"}

    async def _greet(self, socket: ClientConnection, token: str) -> Event | None:
        """Start or resume; give the error event if the platform refuses."""
        start: Event = {"type": "start", "token": token}
        if self.session_id is None:
            start |= self._settings.message()
        else:
            start["resume"] = {
                "session_id": self.session_id,
                "resume_token": self._resume_token,
                "last_event": self.last_event,
            }
        await socket.send(json.dumps(start))
        async with asyncio.timeout(GREETING_WITHIN_S):
            while True:
                event = _parsed(await socket.recv())
                if event["type"] == "started":
                    self.session_id, self.meeting_id = event["session_id"], event["meeting_id"]
                    break
                if event["type"] == "session_restored":
                    self.reconnects += 1
                    break
                if event["type"] in ("error", "session_not_found"):
                    return event
        self._resume_token = event["resume_token"]
        self._window_bytes = int(event.get("window_bytes", self._window_bytes))
        self._heartbeat_s = float(event.get("heartbeat_s", self._heartbeat_s))
        self._backoff.connected()
        await self._send_from(int(event["offset"]))
        self._emit(event)
        for segment in event.get("segments", ()):
            self._emit({"type": "segment"} | segment)
        self._started.set()
        return None

    async def _send_from(self, offset: int) -> None:
        async with self._changed:
            rows = deque([*self._sent, *self._due])
            if rows and offset < rows[0].start:
                raise StreamError(f"the platform asks for audio from {offset}, which it had acknowledged", None)
            self._sent.clear()
            while rows and rows[0].start < offset:
                piece = rows.popleft()
                if piece.end > offset:
                    piece, rest = piece.split(offset)
                    rows.appendleft(rest)
                self._sent.append(piece)
            self._due, self._holding, self._finish_said = rows, False, False
            self._changed.notify_all()

    async def _converse(self, socket: ClientConnection) -> Event | None:
        """Send and receive until the socket closes; give the last fatal error event."""
        receiving = asyncio.create_task(self._receive(socket))
        sending = [asyncio.create_task(self._send_what_is_due(socket)), asyncio.create_task(self._beat(socket))]
        running = {receiving, *sending}
        try:
            while receiving in running:
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()  # a fault of ours ends the session
            return receiving.result()
        finally:
            for task in (receiving, *sending):
                task.cancel()
            await asyncio.gather(receiving, *sending, return_exceptions=True)

    async def _receive(self, socket: ClientConnection) -> Event | None:
        error: Event | None = None
        while self.finished is None:
            try:
                async with asyncio.timeout(self._heartbeat_s * MISSED_HEARTBEATS):
                    event = _parsed(await socket.recv())
            except (websockets.ConnectionClosed, TimeoutError):
                return error
            if event["type"] == "error" and event.get("fatal"):
                error = event
            await self._take(event)
        return error

    async def _send_what_is_due(self, socket: ClientConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):  # the receiver learns of it, after the last events
            while True:
                async with self._changed:
                    await self._changed.wait_for(self._has_something_due)
                    message = self._next_message()
                await socket.send(message)

    def _has_something_due(self) -> bool:
        if self._control_is_due():
            return True
        if self._due:
            return not self._holding
        return self._finish_at is not None and not self._finish_said

    def _next_message(self) -> str | bytes:
        if self._control_is_due():
            return json.dumps(self._controls.popleft()[1])
        if self._due:
            self._sent.append(self._due.popleft())
            return self._sent[-1].message()
        self._finish_said = True
        return json.dumps({"type": "finish", "offset": self._finish_at})

    def _control_is_due(self) -> bool:
        return bool(self._controls) and (not self._due or self._controls[0][0] <= self._due[0].start)

    async def _beat(self, socket: ClientConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await asyncio.sleep(self._heartbeat_s)
                await socket.send('{"type": "ping"}')

    async def _take(self, event: Event) -> None:
        match event["type"]:
            case "ack":
                await self._forget_below(int(event["offset"]), int(event.get("stored_offset", 0)))
            case "status":
                async with self._changed:
                    self._holding = event["state"] == "hold"
                    self._changed.notify_all()
            case "error" if event.get("error") == "offset_gap" and "expected" in event:
                await self._fill_hole(int(event["expected"]))
            case "finished":
                self.finished = event
                self._over.set()
        self._emit(event)

    async def _fill_hole(self, expected: int) -> None:
        now = asyncio.get_running_loop().time()
        # Every frame that was under way behind the hole earns the same error: one answer to all of them.
        if expected != self._hole_at or now - self._hole_seen_at > SAME_HOLE_S:
            self._hole_at, self._hole_seen_at = expected, now
            await self._send_from(expected)

    async def _forget_below(self, offset: int, stored_offset: int) -> None:
        async with self._changed:
            self.acked_offset = max(self.acked_offset, offset)
            self.stored_offset = max(self.stored_offset, stored_offset)
            for row in (self._sent, self._due):
                while row and row[0].end <= self.acked_offset:
                    row.popleft()
            self._changed.notify_all()

    def _emit(self, event: Event) -> None:
        self.last_event = max(self.last_event, int(event.get("event", 0)))
        if event["type"] not in LOSSY or self._events.qsize() < EVENTS_MAX:
            self._events.put_nowait(event)

    async def _wait_before_next(self, close_code: int | None, error: Event, *, may_renew: bool) -> None:
        if error.get("type") == "session_not_found" or (close_code == NOT_FOUND and self.session_id is not None):
            raise SessionLostError("the session is expired", close_code, error)
        refused = error.get("fatal") and not error.get("retryable") and not may_renew
        if close_code in FINAL_CLOSES or refused:
            raise StreamError(error.get("message") or f"the platform closed with {close_code}", close_code, error)
        retry_after = error.get("retry_after")
        wait_s = self._backoff.lost(float(retry_after) if retry_after else None)
        if wait_s is None:
            last = error.get("message") or f"closed with {close_code}"
            raise ConnectionGivenUpError(f"the connection failed too often in a row: {last}", close_code, error)
        await asyncio.sleep(wait_s)

    async def _write(self, data: bytes | None, size: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._over.is_set() or self._has_room(size))
            self._raise_if_over()
            self._due.append(Piece(self.written_offset, self.written_offset + size, data))
            self.written_offset += size
            self._changed.notify_all()

    async def _say(self, message: Event) -> None:
        async with self._changed:
            self._raise_if_over()
            self._controls.append((self.written_offset, message))
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        unacknowledged = self.written_offset - self.acked_offset
        return unacknowledged == 0 or unacknowledged + size <= self._window_bytes

    def _raise_if_over(self) -> None:
        if self._over.is_set():
            self._raise_fault()
            raise StreamError("the session is over", None)

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault
        if self._run is not None and self._run.done() and not self._run.cancelled():
            self._run.result()


async def _close_code(socket: ClientConnection) -> int | None:
    """Give the code with which the platform closes; close ourselves if it does not."""
    with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
        async with asyncio.timeout(CLOSE_WITHIN_S):
            while True:
                await socket.recv()  # a full receive buffer would hide the close frame behind it
    await socket.close()
    return socket.close_code


def _refused_handshake(refusal: websockets.InvalidStatus) -> tuple[int | None, Event]:
    """Read an HTTP answer in place of a socket (from the platform, or a proxy before it) as its error event."""
    status = refusal.response.status_code
    error: Event = {"message": f"HTTP {status}"}
    with contextlib.suppress(ValueError):
        body = json.loads(refusal.response.body)
        error |= body if isinstance(body, dict) else {}
    error |= {"fatal": True, "retryable": status in RETRYABLE_STATUS}
    return UNAUTHORIZED if status == UNAUTHORIZED_STATUS else None, error


def _parsed(message: str | bytes) -> Event:
    event = json.loads(message)
    assert isinstance(event, dict), "the platform's messages are JSON objects"
    return event
