"""A small real WebSocket server that can be told to misbehave, and a way to speak to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import websockets
from verbatim_client import Backoff, Buffering, LiveSession, LiveSettings
from websockets.asyncio.server import ServerConnection, serve

Json = dict[str, Any]
Misbehaviour = Callable[["ScriptedPlatform", ServerConnection], Any]

SPEECH = random.Random(1).randbytes(320_000)  # ten seconds
SETTINGS = LiveSettings(title="Planning")


class ScriptedPlatform:
    """Holds one session. `on_frame` and `on_start` may be set to break things."""

    def __init__(self) -> None:
        self.url = ""
        self.audio = bytearray()
        self.starts: list[Json] = []
        self.messages: list[Json] = []
        self.frames: list[tuple[float, int, int]] = []
        self.started_at: list[float] = []
        self.sockets: list[ServerConnection] = []
        self.missed: Json = {"segments": []}
        self.received_bytes = 0
        self.window_bytes = 1_000_000
        self.token_wanted: str | None = None
        self.acknowledges = True
        self.finishes = True
        self.on_start: Misbehaviour | None = None
        self.on_frame: Misbehaviour | None = None
        self._event = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[ScriptedPlatform]:
        """Serve on a free port."""
        async with serve(self._serve, "127.0.0.1", 0, max_queue=None, close_timeout=0.2) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            self.url = f"ws://127.0.0.1:{port}/transcribe"
            yield self

    async def tell(self, socket: ServerConnection, type_: str, **fields: Any) -> None:
        """Send a message; numbered unless it is one of those that are not."""
        if type_ not in ("ack", "partial", "status", "pong"):
            self._event += 1
            fields["event"] = self._event
        await socket.send(json.dumps({"type": type_} | fields))

    async def refuse(
        self, socket: ServerConnection, close_code: int, error: str, *, retryable: bool, **more: Any
    ) -> None:
        """Send a fatal error and close."""
        await self.tell(socket, "error", error=error, message=error, fatal=True, retryable=retryable, **more)
        await socket.close(close_code)

    async def _serve(self, socket: ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            start = json.loads(await socket.recv())
            self.starts.append(start)
            self.started_at.append(asyncio.get_running_loop().time())
            self.sockets.append(socket)
            if self.token_wanted not in (None, start.get("token")):
                await self.refuse(socket, 4401, "unauthorized", retryable=False)
                return
            if self.on_start is not None and await self.on_start(self, socket):
                return
            await self._greet(socket, start)
            async for message in socket:
                if isinstance(message, bytes):
                    await self._take(socket, message)
                else:
                    await self._obey(socket, json.loads(message))

    async def _greet(self, socket: ServerConnection, start: Json) -> None:
        token = f"resume-{len(self.starts)}"
        common = {"window_bytes": self.window_bytes, "heartbeat_s": 0.2, "resume_token": token, "session_id": "s1"}
        if "resume" in start:
            await self.tell(
                socket,
                "session_restored",
                offset=len(self.audio),
                status="resumed",
                **{"segments": []} | self.missed | common,
            )
        else:
            await self.tell(socket, "started", offset=0, meeting_id="m1", **common)

    async def _take(self, socket: ServerConnection, frame: bytes) -> None:
        (offset,) = struct.unpack(">Q", frame[:8])
        data = frame[8:]
        self.received_bytes += len(data)
        self.frames.append((asyncio.get_running_loop().time(), offset, offset + len(data)))
        if self.on_frame is not None and await self.on_frame(self, socket):
            return
        if offset > len(self.audio):
            await self.tell(
                socket, "error", error="offset_gap", expected=len(self.audio), fatal=False, retryable=True, message=""
            )
            return
        self.audio += data[len(self.audio) - offset :]
        if self.acknowledges:
            await self.tell(socket, "ack", offset=len(self.audio), stored_offset=0)

    async def _obey(self, socket: ServerConnection, message: Json) -> None:
        self.messages.append(message | {"held": len(self.audio)})
        match message["type"]:
            case "ping":
                await self.tell(socket, "pong")
            case "gap":
                self.audio += bytes(message["to"] - message["from"])
                await self.tell(socket, "ack", offset=len(self.audio), stored_offset=0)
            case "finish" if self.finishes and message["offset"] == len(self.audio):
                await self.tell(socket, "segment", text="all of it", index=0, start=0.0, end=1.0)
                await self.tell(socket, "finished", meeting_id="m1", audio_seconds=len(self.audio) / 32_000)
                await socket.close(1000)


async def token(renew: bool) -> str:
    """Give a token that does not live long, or its successor."""
    return "new" if renew else "old"


def session(platform: ScriptedPlatform, *, wait_s: float = 0.01, buffering: Buffering | None = None) -> LiveSession:
    """Prepare a session that comes back quickly."""
    return LiveSession(
        platform.url, token, SETTINGS, backoff=Backoff(draw=lambda _low, _high: wait_s), buffering=buffering
    )


async def spoken(live: LiveSession, audio: bytes, step: int = 3200) -> list[dict[str, Any]]:
    """Speak it all as fast as it is taken, finish, and give the events."""

    async def speak() -> None:
        for start in range(0, len(audio), step):
            await live.send(audio[start : start + step])
        await live.finish(10)

    async with asyncio.timeout(20), live:
        speaking = asyncio.create_task(speak())
        try:
            return [event async for event in live]
        finally:
            if not speaking.done():
                speaking.cancel()
            await asyncio.wait([speaking])
