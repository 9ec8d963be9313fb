"""A live session: audio in, events out, over as many connections as it takes.

The session keeps every byte that the platform has not acknowledged (`buffer.py`), decides what is said when
(`outbox.py`), and connects again by the rules of the protocol (`backoff.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Self

import httpx2

from verbatim_client.backoff import Backoff
from verbatim_client.buffer import AudioBuffer
from verbatim_client.connection import Ending, converse
from verbatim_client.errors import ApiError, ConnectionGivenUpError, SessionLostError, StreamError
from verbatim_client.events import EventQueue
from verbatim_client.outbox import Outbox
from verbatim_client.settings import Buffering, LiveSettings
from verbatim_client.talk import Talk
from verbatim_client.transcript import Transcript
from verbatim_client.wire import FINAL_CLOSES, FRAME_MAX_BYTES, NOT_FOUND, UNAUTHORIZED, Event

TokenSource = Callable[[bool], Awaitable[str]]


class LiveSession:
    """One session. Use it as a context manager; iterate over it for events while another task sends.

    `send`, `offer`, `finalize`, `pause`, `unpause`, `gap` and `finish` may be called from one task, iteration
    from another. Events are the server's messages as dicts, and one of our own: `disconnected` (`reason`,
    `retry_in_s`) when a connection is lost and the next one will be tried. When iteration is slower than the
    platform, `ack`, `partial`, `status` and `pong` are dropped first. After `finished` the iteration ends; it
    raises StreamError when the session cannot go on.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        settings: LiveSettings,
        *,
        backoff: Backoff | None = None,
        buffering: Buffering | None = None,
    ) -> None:
        """Take the WebSocket address and a source of tokens; `token(True)` asks for a new one, the old was refused."""
        buffering = buffering or Buffering()
        self.session_id: str | None = None
        self.meeting_id: str | None = None
        self.reconnects = 0
        self.last_event = 0
        self.finished: Event | None = None
        self.transcript = Transcript()
        """What was said so far, revisions in place of drafts."""
        self._url, self._token, self._settings = url, token, settings
        self._backoff = backoff or Backoff()
        self._audio = AudioBuffer(buffering)
        paced = buffering.catch_up is not None and settings.encoding == "pcm_s16le"
        rate = settings.bytes_per_second * (buffering.catch_up or 0.0) if paced else None
        self._outbox = Outbox(self._audio, rate)
        self._finishing = False
        self._greeted = False
        self._resume_token = ""
        self._changed = asyncio.Condition()
        self._events = EventQueue()
        self._fault: StreamError | None = None
        self._started = asyncio.Event()
        self._over = asyncio.Event()
        self._run: asyncio.Task[None] | None = None

    @property
    def acked_offset(self) -> int:
        """Every byte below is durable at the platform."""
        return self._audio.acked_offset

    @property
    def stored_offset(self) -> int:
        """The segments of every byte below are in the platform's database too."""
        return self._outbox.stored_offset

    @property
    def written_offset(self) -> int:
        """Bytes that were handed over, gaps included."""
        return self._audio.written_offset

    @property
    def dropped_bytes(self) -> int:
        """Bytes that became declared gaps."""
        return self._audio.dropped_bytes

    async def __aenter__(self) -> Self:
        """Connect and wait for `started`. Raises StreamError if the platform refuses or cannot be reached."""
        self._run = asyncio.create_task(self._keep_connected())
        first = [asyncio.create_task(event.wait()) for event in (self._started, self._over)]
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._run.cancel()
            await asyncio.wait([self._run])
            raise
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
        """Drop the connection now and do not come back; iteration ends."""
        assert self._run is not None
        self._run.cancel()

    async def send(self, audio: bytes) -> None:
        """Hand over the next bytes of audio. Waits while the window or the memory is full. Raises StreamError."""
        for start in range(0, len(audio), FRAME_MAX_BYTES):
            piece = audio[start : start + FRAME_MAX_BYTES]
            async with self._changed:
                await self._changed.wait_for(partial(self._has_room, len(piece)))
            await self.offer(piece)

    async def offer(self, audio: bytes) -> int:
        """Hand over the next bytes of a source that cannot wait, such as a microphone.

        What cannot be sent yet is kept in memory, then on disk; what fits nowhere is declared as a gap. Gives how
        many bytes of these were dropped. Raises StreamError.
        """
        self._must_be_open()
        pieces = [audio[start : start + FRAME_MAX_BYTES] for start in range(0, len(audio), FRAME_MAX_BYTES)]
        dropped = sum(self._audio.write(piece) for piece in pieces)
        await self._tell_changed()
        return dropped

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
        self._must_be_open()
        self._audio.drop(dropped_bytes)
        await self._tell_changed()

    async def finish(self, within_s: float = 60.0) -> Event:
        """Say that this was all, and wait for the accounts (the `finished` event).

        Events keep coming to whoever iterates. Raises StreamError, or TimeoutError after `within_s`.
        """
        self._finishing = True
        self._outbox.finish()
        await self._tell_changed()
        async with asyncio.timeout(within_s):
            await self._over.wait()
        if self.finished is None:
            self._raise_if_over()
        assert self.finished is not None
        return self.finished

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give the server's events in order until `finished`. Raises StreamError."""
        async for event in self._events:
            yield event
        assert self._run is not None
        await asyncio.wait([self._run])
        self._raise_fault()

    # The connection, again and again.

    async def _keep_connected(self) -> None:
        try:
            renew_token = False
            while self.finished is None:
                ending = await self._one_connection(renew_token=renew_token)
                if self.finished is not None:
                    break
                if ending.refused_token and renew_token and not self._greeted:
                    raise StreamError(ending.reason, ending.close_code, ending.error)
                # Until a renewed token was accepted, it is the next one to be tried.
                renew_token = ending.refused_token
                await self._wait_before_next(ending)
        except StreamError as fault:
            self._fault = fault
        finally:
            self._audio.close()
            self._over.set()
            self._events.end()
            await self._tell_changed()

    async def _one_connection(self, *, renew_token: bool) -> Ending:
        self._greeted = False
        try:
            token = await self._token(renew_token)
        except ApiError as refusal:
            code = UNAUTHORIZED if refusal.status == httpx2.codes.UNAUTHORIZED else None
            if code is not None or not refusal.retryable:
                raise StreamError(refusal.message, code, refusal.body) from refusal
            return Ending(None, refusal.body | {"retryable": True, "retry_after": refusal.retry_after_s})
        except httpx2.TransportError as failure:
            return Ending(None, {"message": f"{type(failure).__name__}: {failure}", "retryable": True})
        try:
            return await converse(self._url, self._start(token), self._join)
        finally:
            self._outbox.end()

    def _start(self, token: str) -> Event:
        if self.session_id is None:
            return {"type": "start", "token": token} | self._settings.message()
        resume = {"session_id": self.session_id, "resume_token": self._resume_token, "last_event": self.last_event}
        return {"type": "start", "token": token, "resume": resume}

    async def _join(self, greeting: Event) -> Talk:
        """Put the session on a connection that the platform has accepted."""
        talk = Talk(greeting, self._outbox, self._changed, self._hear)
        if greeting["type"] == "started":
            self.session_id, self.meeting_id = greeting["session_id"], greeting["meeting_id"]
        else:
            self.reconnects += 1
        self._resume_token = greeting["resume_token"]
        self._greeted = True
        self._backoff.connected()
        self._emit(greeting)
        for kind, missed in (("segment", greeting.get("segments", ())), ("gap", greeting.get("gaps", ()))):
            for event in missed:
                self._emit({"type": kind} | event)
        self._started.set()
        await self._tell_changed()
        return talk

    def _hear(self, event: Event) -> bool:
        if event["type"] == "finished":
            self.finished = event
            self._over.set()
        self._emit(event)
        return self.finished is None

    def _emit(self, event: Event) -> None:
        self.last_event = max(self.last_event, int(event.get("event", 0)))
        self.transcript.apply(event)
        if not self._events.put(event):
            raise StreamError("nobody reads the session's events", None)

    async def _wait_before_next(self, ending: Ending) -> None:
        error, code = ending.error, ending.close_code
        if error.get("type") == "session_not_found" or (code == NOT_FOUND and self.session_id is not None):
            raise SessionLostError("the session is expired", code, error)
        refused = error.get("fatal") and not error.get("retryable") and not ending.refused_token
        if code in FINAL_CLOSES or refused:
            raise StreamError(ending.reason, code, error)
        # A platform that asks for no wait at all gets the usual jitter: a thousand clients may have heard it.
        retry_after = error.get("retry_after")
        wait_s = self._backoff.lost(float(retry_after) if retry_after else None)
        if wait_s is None:
            raise ConnectionGivenUpError(f"the connection failed too often in a row: {ending.reason}", code, error)
        self._emit({"type": "disconnected", "reason": ending.reason, "retry_in_s": round(wait_s, 3)})
        await asyncio.sleep(wait_s)

    def _has_room(self, size: int) -> bool:
        return self._over.is_set() or self._audio.has_room(size, self._outbox.window_bytes)

    async def _say(self, message: Event) -> None:
        self._must_be_open()
        if not self._outbox.say(message):
            raise StreamError("too many messages wait for a connection", None)
        await self._tell_changed()

    async def _tell_changed(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _must_be_open(self) -> None:
        self._raise_if_over()
        if self._finishing:
            raise StreamError("the session is finishing", None)

    def _raise_if_over(self) -> None:
        if self._over.is_set():
            self._raise_fault()
            raise StreamError("the session is over", None)

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault
        if self._run is not None and self._run.done() and not self._run.cancelled():
            self._run.result()
