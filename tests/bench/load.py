"""Sessions in real time on bare sockets: when each frame was sent, and when the acknowledgement that covers it came."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.chaos.numbered import CHUNK_BYTES, CHUNKS_PER_SECOND, Rhythm, speech

FRAME_S = 1.0 / CHUNKS_PER_SECOND
# People: six seconds of talk, one of pause; prepared once, because making audio is not what is measured.
LOOP_CHUNKS = 700
STARTED_WITHIN_S = 30.0


@dataclass
class Load:
    """What a load came to: seconds from a frame's sending to its acknowledgement, and what came besides.

    `dropped` connections were closed by the platform. `late_s_max` is how late the load itself was: above some
    milliseconds the machine is too small for the load, and the figures are its own.
    """

    sessions: int
    latencies_s: list[float] = field(default_factory=list)
    frames: int = 0
    segments: int = 0
    dropped: int = 0
    late_s_max: float = 0.0

    def latency_ms(self, quantile: float) -> float:
        """Return a quantile of the latencies, in milliseconds."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else float("nan")


class Crowd:
    """`sessions` people who speak at once, spread evenly over the tenth of a second."""

    def __init__(self, url: str, token: str | None, sessions: int) -> None:
        self.load = Load(sessions)
        self._url, self._token, self._sessions = url, token, sessions
        self._measuring = False
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._started = 0
        self._stream = [audio for audio, _ in first(LOOP_CHUNKS)]

    async def start(self) -> None:
        """Connect everybody and wait until all are speaking."""
        self._tasks = [asyncio.create_task(self._speak(number)) for number in range(self._sessions)]
        async with asyncio.timeout(STARTED_WITHIN_S + self._sessions / 20):
            while self._started < self._sessions:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.05)

    async def measure(self, seconds: float) -> Load:
        """Count what happens in the next seconds."""
        self._measuring = True
        await asyncio.sleep(seconds)
        self._measuring = False
        return self.load

    async def stop(self) -> None:
        """Leave."""
        self._over.set()
        await asyncio.gather(*self._tasks)

    async def _speak(self, number: int) -> None:
        async with connect(self._url, max_size=None, compression=None, ping_interval=None, open_timeout=30) as socket:
            start = {"type": "start", "token": self._token, "title": f"Bench {number}", "interim": False}
            await socket.send(json.dumps(start))
            while json.loads(await socket.recv())["type"] != "started":
                pass
            self._started += 1
            waiting: deque[tuple[int, float]] = deque()
            reading = asyncio.create_task(self._read(socket, waiting))
            try:
                await self._send(socket, waiting, number)
            except ConnectionClosed:
                self.load.dropped += 1  # overloaded: what the others get is still measured
            finally:
                reading.cancel()

    async def _send(self, socket: ClientConnection, waiting: deque[tuple[int, float]], number: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time() + FRAME_S * number / self._sessions
        frame = 0
        while not self._over.is_set():
            late_s = loop.time() - (began + frame * FRAME_S)
            if late_s < 0:
                await asyncio.sleep(-late_s)
            elif self._measuring:
                self.load.late_s_max = max(self.load.late_s_max, late_s)
            offset = frame * CHUNK_BYTES
            waiting.append((offset + CHUNK_BYTES, time.perf_counter()))
            # Everybody starts at another place of the stream, so that not all pause at once.
            await socket.send(offset.to_bytes(8, "big") + self._stream[(frame + number * 37) % LOOP_CHUNKS])
            self.load.frames += self._measuring
            frame += 1

    async def _read(self, socket: ClientConnection, waiting: deque[tuple[int, float]]) -> None:
        with contextlib.suppress(ConnectionClosed):  # the sender tells of it
            async for message in socket:
                self._take(json.loads(message), waiting)

    def _take(self, event: dict[str, Any], waiting: deque[tuple[int, float]]) -> None:
        if event["type"] == "ack":
            now = time.perf_counter()
            while waiting and waiting[0][0] <= event["offset"]:
                _, sent = waiting.popleft()
                if self._measuring:
                    self.load.latencies_s.append(now - sent)
        elif event["type"] == "segment":
            self.load.segments += self._measuring


def first(chunks: int) -> list[tuple[bytes, bool]]:
    """Return the first chunks of a stream of talk."""
    stream = speech(1, Rhythm(talk=(40, 60), pause=(9, 12)), seed=1)
    return [next(stream) for _ in range(chunks)]
