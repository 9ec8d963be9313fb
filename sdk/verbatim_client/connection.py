"""One socket, from the handshake to the close. Knows how to talk; what to say is the session's business."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import websockets
from websockets.asyncio.client import ClientConnection, connect

from verbatim_client.errors import RETRYABLE_STATUS
from verbatim_client.talk import Talk
from verbatim_client.wire import MESSAGE_MAX_BYTES, UNAUTHORIZED, Event, parsed

CONNECT_WITHIN_S = 10.0
GREETING_WITHIN_S = 15.0
CLOSE_WITHIN_S = 2.0
MISSED_HEARTBEATS = 3
UNAUTHORIZED_STATUS = 401


@dataclass(frozen=True)
class Ending:
    """How a connection ended: its close code (None: never made, or broken off) and its last fatal error."""

    close_code: int | None
    error: Event = field(default_factory=dict)

    @property
    def refused_token(self) -> bool:
        """Whether a new token may help."""
        return self.close_code == UNAUTHORIZED

    @property
    def reason(self) -> str:
        """What to tell the person."""
        return str(self.error.get("message") or self.error.get("error") or f"closed with {self.close_code}")


Join = Callable[[Event], Awaitable[Talk]]


async def converse(url: str, start: Event, join: Join) -> Ending:
    """Connect, start or resume, then talk until the socket ends, whoever ends it.

    `join` gets `started` or `session_restored` and gives our side of the talk. Raises StreamError if the platform
    does not speak the protocol, or contradicts what it said before.
    """
    try:
        async with connect(
            url,
            open_timeout=CONNECT_WITHIN_S,
            close_timeout=CLOSE_WITHIN_S,
            ping_interval=None,  # the protocol has its own heartbeat
            max_size=MESSAGE_MAX_BYTES,
            compression=None,
        ) as socket:
            return await _converse(socket, start, join)
    except websockets.InvalidStatus as refusal:
        return _refused_handshake(refusal)
    except (OSError, TimeoutError, websockets.WebSocketException) as failure:
        return Ending(None, {"message": f"{type(failure).__name__}: {failure}"})


async def _converse(socket: ClientConnection, start: Event, join: Join) -> Ending:
    error = None
    try:
        await socket.send(json.dumps(start))
        greeting = await _greeting(socket)
        if greeting["type"] in ("started", "session_restored"):
            error = await _talk(socket, await join(greeting))
        else:
            error = greeting
    except websockets.ConnectionClosed:
        pass  # the close code tells
    except TimeoutError:
        socket.transport.abort()
        return Ending(None, {"message": "the platform fell silent"})
    return Ending(await _close_code(socket), error or {})


async def _greeting(socket: ClientConnection) -> Event:
    async with asyncio.timeout(GREETING_WITHIN_S):
        while True:
            event = parsed(await socket.recv())
            if event["type"] in ("started", "session_restored", "error", "session_not_found"):
                return event


async def _talk(socket: ClientConnection, talk: Talk) -> Event | None:
    """Send and receive until the socket closes; give the last fatal error. Raises TimeoutError after silence."""
    receiving = asyncio.create_task(_receive(socket, talk))
    tasks = {receiving, asyncio.create_task(_send(socket, talk)), asyncio.create_task(_beat(socket, talk))}
    running = tasks
    try:
        while receiving in running:
            ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # a fault of ours ends the session
        return receiving.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _receive(socket: ClientConnection, talk: Talk) -> Event | None:
    error: Event | None = None
    while True:
        try:
            async with asyncio.timeout(talk.heartbeat_s * MISSED_HEARTBEATS):
                event = parsed(await socket.recv())
        except websockets.ConnectionClosed:
            return error
        if event["type"] == "error" and event.get("fatal"):
            error = event
        if not await talk.hear(event) or error:
            return error


async def _send(socket: ClientConnection, talk: Talk) -> None:
    with contextlib.suppress(websockets.ConnectionClosed):  # the receiver learns of it, after the last events
        while (message := await talk.next_message()) is not None:
            await socket.send(message)


async def _beat(socket: ClientConnection, talk: Talk) -> None:
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            await asyncio.sleep(talk.heartbeat_s)
            await socket.send('{"type": "ping"}')


async def _close_code(socket: ClientConnection) -> int | None:
    """Give the code with which the platform closes; close ourselves if it does not."""
    with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
        async with asyncio.timeout(CLOSE_WITHIN_S):
            while True:
                await socket.recv()  # a full receive buffer would hide the close frame behind it
    await socket.close()
    return socket.close_code


def _refused_handshake(refusal: websockets.InvalidStatus) -> Ending:
    """Read an HTTP answer in place of a socket (from the platform, or a proxy before it) as its error event."""
    status = refusal.response.status_code
    error: Event = {"message": f"HTTP {status}"}
    with contextlib.suppress(ValueError):
        body = json.loads(refusal.response.body)
        error |= body if isinstance(body, dict) else {}
    error |= {"fatal": True, "retryable": status in RETRYABLE_STATUS}
    return Ending(UNAUTHORIZED if status == UNAUTHORIZED_STATUS else None, error)
