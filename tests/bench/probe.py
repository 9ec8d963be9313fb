"""The way from the gateway to the transcriber and back, without the logs: what a frame meets that leaves a hole."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

from tests.bench.load import Socket, connect

EVERY_S = 0.1
# The platform ends a connection that makes a hundred faults.
FAULTS_MAX = 80
ANSWERED_WITHIN_S = 10.0
# Within what may be under way: the gateway pushes back beyond that.
_BEHIND_A_HOLE = 6400
_AUDIO = bytes(3200)


class Probe:
    """A session that says what cannot be right, again and again, and notes when it is told so."""

    def __init__(self, url: str, token: str) -> None:
        self.answers_s: list[float] = []
        self._url, self._token = url, token
        self._told: asyncio.Queue[str] = asyncio.Queue()

    async def run(self, seconds: float) -> None:
        """Measure for some seconds."""
        until = perf_counter() + seconds
        while perf_counter() < until:
            socket = await self._connect()
            for _ in range(FAULTS_MAX):
                if perf_counter() >= until:
                    break
                began = perf_counter()
                socket.send_audio(_BEHIND_A_HOLE, _AUDIO)
                await self._hear("error")
                self.answers_s.append(perf_counter() - began)
                await asyncio.sleep(EVERY_S)
            socket.transport.close()
            await socket.closed

    async def _connect(self) -> Socket:
        socket = await connect(self._url, self._on_text)
        socket.say({"type": "start", "token": self._token, "title": "Probe", "interim": False})
        await self._hear("started")
        return socket

    async def _hear(self, kind: str) -> None:
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            while await self._told.get() != kind:
                pass

    def _on_text(self, event: dict[str, Any]) -> None:
        self._told.put_nowait(event["type"])
