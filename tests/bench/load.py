"""Sessions in real time on bare sockets: when each frame was sent, and when its acknowledgement and its segment came.

The generator shares two processors with everything that it measures, so it does as little as it can: one task sends
the frames of all sessions, which were made before, and a protocol of a few lines reads what comes back.
"""

from __future__ import annotations

import asyncio
import math
import os
import wave
from array import array
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

from dev.settings import ROOT

RECORDING = ROOT / "dev/assets/meeting.wav"
BYTES_PER_SECOND = 32_000
FRAME_S = 0.1
FRAME_BYTES = int(FRAME_S * BYTES_PER_SECOND)
# The transcriber's defaults: an utterance ends with 0.2 s of the silence that ends it, and that is found out when
# 17 frames of 30 ms are silent.
END_KNOWN_BYTES = int((17 * 0.03 - 0.2) * BYTES_PER_SECOND)
STARTED_WITHIN_S = 60.0
# A client masks what it sends. A key of zero leaves it as it is, which saves the generator the work and nobody else.
_NO_MASK = bytes(4)
_SHORTEST_SLEEP_S = 0.001
_AT_ONCE = 8
_APART_FRAMES = 37


@dataclass
class Load:
    """What a load came to, in seconds: `acks_s` from a frame's sending to its acknowledgement, `segments_s` from the
    sending of the frame that completes the silence after an utterance to its segment.

    `dropped` connections were closed by the platform. `late_s_max` is how late the load itself was: above some
    milliseconds the machine is too small for the load, and the figures are its own.
    """

    sessions: int
    acks_s: list[float] = field(default_factory=list)
    segments_s: list[float] = field(default_factory=list)
    frames: int = 0
    dropped: int = 0
    late_s_max: float = 0.0


def quantile_ms(values_s: list[float], share: float) -> float:
    """Return a quantile in milliseconds; not a number if there is nothing."""
    ordered = sorted(values_s)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


class Socket(asyncio.Protocol):
    """The client's end of a WebSocket: text out, ready-made frames out, text in."""

    def __init__(self, path: str, host: str, on_text: Callable[[dict[str, Any]], None]) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self._on_text = on_text
        self._open = asyncio.Event()
        self._rest = b""
        key = b64encode(os.urandom(16)).decode()
        self._request = (
            f"GET {path or '/'} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask to talk WebSocket."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not of that class
        self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nothing more comes."""
        del exc
        if not self.closed.done():
            self.closed.set_result(None)
        self._open.set()

    async def until_open(self) -> None:
        """Wait for the server's consent. Raises ConnectionError."""
        await self._open.wait()
        if self.closed.done():
            raise ConnectionError("refused")

    def say(self, message: dict[str, Any]) -> None:
        """Send a text frame of up to 64 KiB."""
        body = orjson.dumps(message)
        self.transport.write(b"\x81\xfe" + len(body).to_bytes(2, "big") + _NO_MASK + body)

    def send_audio(self, offset: int, audio: bytes) -> None:
        """Send a binary frame of up to 64 KiB, and at least 126 bytes."""
        size = (8 + len(audio)).to_bytes(2, "big")
        self.transport.write(b"".join((b"\x82\xfe", size, _NO_MASK, offset.to_bytes(8, "big"), audio)))

    def data_received(self, data: bytes) -> None:
        """Read whole frames; a server does not mask."""
        data = self._rest + data if self._rest else data
        at = 0
        if not self._open.is_set():
            at = data.find(b"\r\n\r\n") + 4
            if at < 4:
                self._rest = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self.transport.abort()
                return
            self._open.set()
        while len(data) >= at + 2:
            size, body = data[at + 1], at + 2
            if size == 126:
                size, body = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, body = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if len(data) < body + size:
                break
            self._take(data[at] & 0x0F, data[body : body + size])
            at = body + size
        self._rest = data[at:]

    def _take(self, opcode: int, body: bytes) -> None:
        if opcode == 1:
            self._on_text(orjson.loads(body))
        elif opcode == 9:
            self.transport.write(bytes((0x8A, 0x80 | len(body))) + _NO_MASK + body)
        elif opcode == 8:
            self.transport.close()


async def connect(url: str, on_text: Callable[[dict[str, Any]], None]) -> Socket:
    """Open a socket. Raises OSError."""
    parts = urlsplit(url)
    _, socket = await asyncio.get_running_loop().create_connection(
        lambda: Socket(parts.path, parts.netloc, on_text), parts.hostname or "", parts.port or 0
    )
    await socket.until_open()
    return socket


class _Speaker:
    """One session. `sent` has the time at which each of its frames went out."""

    def __init__(self, load: Load, number: int) -> None:
        self.number = number
        self.started = asyncio.Event()
        self.sent = array("d")
        self.counting = False
        self._load = load
        self._acked_frames = 0

    def on_text(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "ack":
            now, frames = perf_counter(), event["offset"] // FRAME_BYTES
            if self.counting:
                self._load.acks_s += [now - sent for sent in self.sent[self._acked_frames : frames]]
            self._acked_frames = max(self._acked_frames, frames)
        elif kind == "segment":
            frame = (event["end_offset"] + END_KNOWN_BYTES - 1) // FRAME_BYTES
            if self.counting and frame < len(self.sent):
                self._load.segments_s.append(perf_counter() - self.sent[frame])
        elif kind == "started":
            self.started.set()


class Crowd:
    """`sessions` people who speak at once, spread evenly over the tenth of a second.

    They read from one recording, each from another place, so that not all pause at once.
    """

    def __init__(self, url: str, token: str | None, sessions: int) -> None:
        self.load = Load(sessions)
        self._url, self._token = url, token
        self._speakers = [_Speaker(self.load, number) for number in range(sessions)]
        self._sockets: list[Socket] = []
        self._recording = _frames()
        self._speaking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect everybody, a few at a time, and have all of them speak."""
        async with asyncio.timeout(STARTED_WITHIN_S + len(self._speakers) / 10):
            for first in range(0, len(self._speakers), _AT_ONCE):
                few = self._speakers[first : first + _AT_ONCE]
                self._sockets += await asyncio.gather(*(self._connect(speaker) for speaker in few))
        self._speaking = asyncio.create_task(self._speak())

    async def _connect(self, speaker: _Speaker) -> Socket:
        socket = await connect(self._url, speaker.on_text)
        title = f"Bench {speaker.number}"
        socket.say({"type": "start", "token": self._token, "title": title, "interim": False})
        await speaker.started.wait()
        return socket

    async def measure(self, seconds: float) -> Load:
        """Count what happens in the next seconds."""
        load = self.load
        load.frames = -sum(len(speaker.sent) for speaker in self._speakers)
        load.late_s_max = 0.0
        for speaker in self._speakers:
            speaker.counting = True
        await asyncio.sleep(seconds)
        for speaker in self._speakers:
            speaker.counting = False
        load.frames += sum(len(speaker.sent) for speaker in self._speakers)
        load.dropped = sum(socket.closed.done() for socket in self._sockets)
        return load

    async def stop(self) -> None:
        """Leave."""
        if self._speaking is not None:
            self._speaking.cancel()
        for socket in self._sockets:
            socket.transport.close()
        if self._sockets:
            await asyncio.wait([socket.closed for socket in self._sockets], timeout=5.0)

    async def _speak(self) -> None:
        count = len(self._speakers)
        began = perf_counter()
        turn = 0
        while True:
            # Whose turn it is by now, counted over all: `count` turns are one frame of everybody.
            now = perf_counter()
            due = int((now - began) / FRAME_S * count)
            self.load.late_s_max = max(self.load.late_s_max, now - began - turn * FRAME_S / count)
            while turn <= due:
                self._send(turn % count, turn // count, now)
                turn += 1
            wait_s = began + turn * FRAME_S / count - perf_counter()
            await asyncio.sleep(max(_SHORTEST_SLEEP_S, wait_s))

    def _send(self, number: int, frame: int, now: float) -> None:
        socket = self._sockets[number]
        if not socket.closed.done():
            audio = self._recording[(frame + number * _APART_FRAMES) % len(self._recording)]
            socket.send_audio(frame * FRAME_BYTES, audio)
            self._speakers[number].sent.append(now)


def _frames() -> list[bytes]:
    """Return the bundled meeting, frame by frame."""
    with wave.open(str(RECORDING)) as file:
        audio = file.readframes(file.getnframes())
    whole = len(audio) - len(audio) % FRAME_BYTES
    return [audio[at : at + FRAME_BYTES] for at in range(0, whole, FRAME_BYTES)]
