"""Frames that carry nothing are bounded; those that clients need are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from chassis.lifecycle import HttpServer
from services.gateway.bucket import Bucket
from services.gateway.frames import BoundedWebSocket
from tests.chaos.rawsocket import BINARY, CONT, PING, PONG, TEXT, frame, read_frame, shake_hands


class Listener:
    """An application that takes every message, or none while it is `busy`."""

    def __init__(self) -> None:
        self.messages: list[bytes | str] = []
        self.idle = asyncio.Event()
        self.idle.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one socket."""
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await self.idle.wait()
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            self.messages.append(message.get("bytes") or message.get("text") or "")


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest_asyncio.fixture
async def socket(listener: Listener) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    server = HttpServer(listener, "127.0.0.1", 0, ws=BoundedWebSocket, ws_max_size=1024 * 1024)
    serving = asyncio.create_task(server.run_until_exit())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await shake_hands(reader, writer, "/")
    yield reader, writer
    writer.transport.abort()
    server.should_exit = True
    await serving


async def closed_with(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(10):
        while True:
            opcode, payload = await read_frame(reader)
            if opcode == 0x8:
                return int.from_bytes(payload[:2], "big")


Socket = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.mark.req("R-WS-2", "R-RES-4")
@pytest.mark.parametrize(
    "flood",
    [
        frame(PING) * 2000,
        frame(PONG) * 2000,
        frame(BINARY, b"", fin=False) + frame(CONT, b"", fin=False) * 2000,
        frame(TEXT, b"x") * 20_000,
    ],
    ids=["pings", "pongs", "fragments", "tiny messages"],
)
async def test_what_no_client_needs_to_send_ends_the_socket(socket: Socket, listener: Listener, flood: bytes) -> None:
    reader, writer = socket
    writer.write(flood)
    assert await closed_with(reader) == 1008
    assert len(listener.messages) <= 1024


@pytest.mark.req("R-WS-2")
async def test_pings_whose_answers_are_not_read_end_the_socket(socket: Socket) -> None:
    _, writer = socket
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        try:
            while True:
                writer.write(frame(PING, bytes(125)))
                await writer.drain()
        except OSError:
            return


@pytest.mark.req("R-WS-1")
async def test_a_message_in_fragments_and_a_few_pings_are_fine(socket: Socket, listener: Listener) -> None:
    reader, writer = socket
    audio = bytes(range(256)) * 250
    parts = [audio[start : start + 1000] for start in range(0, len(audio), 1000)]
    writer.write(frame(BINARY, parts[0], fin=False))
    for part in parts[1:-1]:
        writer.write(frame(CONT, part, fin=False))
    writer.write(frame(PING, b"beat"))  # may come between fragments
    writer.write(frame(CONT, parts[-1]))
    async with asyncio.timeout(5):
        assert await read_frame(reader) == (0xA, b"beat")
        while not listener.messages:
            await asyncio.sleep(0.01)
    assert listener.messages == [audio]


@pytest.mark.req("R-WS-2")
async def test_many_frames_at_once_are_fine_while_they_are_read(socket: Socket, listener: Listener) -> None:
    """As a client sends them that comes back after a while: 20 ms of audio each."""
    _, writer = socket
    frames = [frame(BINARY, number.to_bytes(8, "big") + bytes(640)) for number in range(2000)]
    writer.write(b"".join(frames))
    async with asyncio.timeout(10):
        while len(listener.messages) < 2000:
            await asyncio.sleep(0.01)


@pytest.mark.req("R-WS-2")
async def test_messages_wait_in_the_network_while_nobody_reads_them(socket: Socket, listener: Listener) -> None:
    _, writer = socket
    listener.idle.clear()
    sending = asyncio.create_task(_send_for_ever(writer, frame(BINARY, bytes(8 + 640))))
    await asyncio.sleep(0.5)
    assert not sending.done()
    assert writer.transport.get_write_buffer_size() > 0, "nothing pushes back"
    listener.idle.set()
    async with asyncio.timeout(10):
        while len(listener.messages) < 1000:
            await asyncio.sleep(0.01)
    sending.cancel()


async def _send_for_ever(writer: asyncio.StreamWriter, message: bytes) -> None:
    while True:
        writer.write(message)
        await writer.drain()


def test_a_bucket_gives_what_is_in_it_at_once_and_the_rest_in_its_time() -> None:
    now = 0.0
    bucket = Bucket(10.0, 5.0, lambda: now)
    assert [bucket.take() for _ in range(5)] == [0.0] * 5
    assert bucket.take() == pytest.approx(0.1)
    assert bucket.take() == pytest.approx(0.2)
    now = 0.2
    assert bucket.take() == pytest.approx(0.1)
    now = 100.0
    assert [bucket.take() for _ in range(5)] == [0.0] * 5
    assert bucket.take() > 0.0
