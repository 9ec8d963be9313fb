"""The bundled meeting, and a bare socket for tests that must say what the client never would."""

from __future__ import annotations

import asyncio
import json
import re
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from verbatim_client import LiveSettings, VerbatimClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.asyncapi import faults

ASSETS = Path(__file__).parents[2] / "dev/assets"
# Where the bundled meeting comes to its last decision and the tasks, in seconds and in lines of the script.
_CLOSING_S, _CLOSING_LINE = 55.4, 10
Message = dict[str, Any]


def recording(seconds: float | None = None) -> bytes:
    """Return the bundled meeting, or its first seconds, as 16 kHz mono s16le."""
    with wave.open(str(ASSETS / "meeting.wav")) as file:
        frames = file.getnframes() if seconds is None else int(seconds * file.getframerate())
        return bytes(file.readframes(frames))


def closing() -> bytes:
    """Return the end of the bundled meeting: 29 seconds with a decision and three tasks."""
    return recording()[int(_CLOSING_S * 16_000) * 2 :]


def script() -> str:
    """Return what is said in the bundled meeting."""
    return " ".join(_lines())


def closing_script() -> str:
    """Return what is said at its end."""
    return " ".join(_lines()[_CLOSING_LINE:])


def _lines() -> list[str]:
    return [line.partition(":")[2] for line in (ASSETS / "meeting.txt").read_text().splitlines()]


def plain(text: str) -> str:
    """Return text as an error rate is computed on: lower case, no punctuation."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


async def speak(client: VerbatimClient, pcm: bytes, *, speed: float = 8.0, **settings: Any) -> list[Message]:
    """Stream audio through the client and return every event; the last one is `finished`."""
    return [event async for event in client.stream(pcm, LiveSettings(**settings), speed=speed, finish_within_s=90)]


class Socket:
    """A bare connection to `/transcribe`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def say(self, **message: Any) -> None:
        """Send a text message."""
        await self._connection.send(json.dumps(message))

    async def say_raw(self, frame: str | bytes) -> None:
        """Send a frame as it is."""
        await self._connection.send(frame)

    async def audio(self, offset: int, data: bytes) -> None:
        """Send an audio frame."""
        await self._connection.send(offset.to_bytes(8, "big") + data)

    async def hear(self, *types: str, within_s: float = 15.0) -> Message:
        """Return the next message of one of the types, skipping others. Raises ConnectionClosed, TimeoutError.

        Raises AssertionError for a message that is another than documented.
        """
        async with asyncio.timeout(within_s):
            while True:
                message: Message = json.loads(await self._connection.recv())
                assert faults("fromServer", message) == []
                if message["type"] in types:
                    return message

    async def closed(self, within_s: float = 15.0) -> int:
        """Read to the end and return the close code."""
        async with asyncio.timeout(within_s):
            try:
                while True:
                    await self._connection.recv()
            except ConnectionClosed as end:
                return end.rcvd.code if end.rcvd else 1006


@asynccontextmanager
async def socket(url: str) -> AsyncIterator[Socket]:
    """Open a bare connection."""
    async with connect(url, max_size=None, open_timeout=10, close_timeout=2) as connection:
        yield Socket(connection)


@asynccontextmanager
async def started(url: str, client: VerbatimClient, **fields: Any) -> AsyncIterator[tuple[Socket, Message]]:
    """Open a bare connection and start a session on it."""
    async with socket(url) as bare:
        await bare.say(type="start", token=client.access_token, **fields)
        yield bare, await bare.hear("started")
