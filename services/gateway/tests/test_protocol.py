"""Slow, broken and too many connections, as raw bytes (row 33 of the fault matrix in small)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import orjson
import pytest
from prometheus_client import REGISTRY
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chassis.lifecycle import HttpServer
from services.gateway.tests.conftest import Gateway, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hear(self, within_s: float = 10.0) -> bytes:
        """Return all until the server hangs up."""
        async with asyncio.timeout(within_s):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(fields.get("content-length", 0)))
        return int(status.split()[1]), fields, body


@asynccontextmanager
async def wire(port: int, source: str = "127.0.0.1") -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def dripping(it: Wire, first: bytes, piece: bytes) -> AsyncIterator[None]:
    """Send pieces, five a second, until the server has had enough."""

    async def drip() -> None:
        with suppress(OSError):
            await it.say(first)
            while True:
                await asyncio.sleep(0.2)
                await it.say(piece)

    task = asyncio.create_task(drip())
    try:
        yield
    finally:
        task.cancel()


def problem(status: int, fields: dict[str, str], body: bytes) -> str:
    """Return the message of an error that has our shape."""
    said = orjson.loads(body)
    assert set(said) <= {"error", "message", "request_id", "retry_after"}
    assert said["request_id"] == fields["x-request-id"]
    assert fields["content-type"] == "application/json"
    assert fields["x-content-type-options"] == "nosniff"
    return str(said["message"])


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: here\r\n\r\n",
        b"NONSENSE / HTTP/1.1\r\n\r\n",
        b"POST /api/meetings HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/meetings HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /api/meetings HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\nhello",
        b"POST /api/meetings HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnot a length\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n",
    ],
)
async def test_what_cannot_be_read_is_answered_in_our_shape(gateway: Gateway, nonsense: bytes) -> None:
    async with wire(gateway.port) as it:
        await it.say(nonsense)
        status, fields, body = await it.answer()
        assert status == 400
        problem(status, fields, body)
        assert await it.hear() == b""


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize("missing", ["Sec-WebSocket-Key", "Sec-WebSocket-Version"])
async def test_failed_handshake_is_answered_in_our_shape(gateway: Gateway, missing: str) -> None:
    fields = {
        "Host": "here",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    del fields[missing]
    async with wire(gateway.port) as it:
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await it.say(f"GET /transcribe HTTP/1.1\r\n{head}\r\n".encode())
        status, answered, body = await it.answer()
        assert status == 400
        problem(status, answered, body)


@pytest.mark.req("R-RES-4")
@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nX: "])
async def test_head_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    async with (
        running(head_timeout_s=0.3) as gateway,
        wire(gateway.port) as it,
        dripping(it, sent, b"x" if sent else b""),
    ):
        heard = await it.hear()
        assert b"did not come in time" in heard if sent else heard == b""


@pytest.mark.req("R-RES-4")
async def test_second_request_of_a_connection_has_to_come_in_time_as_well() -> None:
    async with running(head_timeout_s=0.3) as gateway, wire(gateway.port) as it:
        await it.say(HELLO)
        assert (await it.answer())[0] == 200
        await it.say(HELLO)
        assert (await it.answer())[0] == 200
        await it.say(HELLO[:20])
        assert b"did not come in time" in await it.hear()


@pytest.mark.req("R-RES-4")
async def test_requests_ahead_of_their_answers_are_few() -> None:
    async with running() as gateway:
        async with wire(gateway.port) as it:
            await it.say(HELLO * 9)
            assert [(await it.answer())[0] for _ in range(9)] == [200] * 9
        before = _refused("pipeline")
        async with wire(gateway.port) as it:
            await it.say(HELLO * 10)
            assert await it.hear() == b""
        assert _refused("pipeline") - before == 1


def _refused(reason: str) -> float:
    return REGISTRY.get_sample_value("http_server_connections_refused_total", {"reason": reason}) or 0.0


@pytest.mark.req("R-RES-4")
async def test_connection_that_did_its_work_may_rest() -> None:
    async with running(head_timeout_s=0.2) as gateway, wire(gateway.port) as it:
        await it.say(HELLO)
        assert (await it.answer())[0] == 200
        await asyncio.sleep(0.6)
        await it.say(HELLO)
        assert (await it.answer())[0] == 200


@pytest.mark.req("R-RES-4")
async def test_body_that_drips_is_cut_off_and_one_that_flows_is_not() -> None:
    head = (
        b"POST /api/auth/logout HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    )

    async with (
        running(look_s=1.0) as gateway,
        wire(gateway.port) as slow,
        wire(gateway.port) as quick,
        dripping(slow, head, b"x"),
        dripping(quick, head, b" " * 500),
    ):
        assert b"too slowly" in await slow.hear()
        with pytest.raises(TimeoutError):
            await quick.hear(within_s=2.0)


@pytest.mark.req("R-RES-4")
async def test_one_address_gets_so_many_connections_and_leaves_the_rest_to_others() -> None:
    async with running(connections_per_ip_max=3) as gateway, wire(gateway.port, "127.0.0.2") as one:
        async with wire(gateway.port, "127.0.0.2") as two, wire(gateway.port, "127.0.0.2") as three:
            for it in (one, two, three):
                await it.say(HELLO)
                assert (await it.answer())[0] == 200
            async with wire(gateway.port, "127.0.0.2") as four:
                status, fields, body = await four.answer()
                assert status == 503
                assert "retry-after" in fields
                problem(status, fields, body)
            async with wire(gateway.port, "127.0.0.3") as other:
                await other.say(HELLO)
                assert (await other.answer())[0] == 200
        await asyncio.sleep(0.1)
        async with wire(gateway.port, "127.0.0.2") as again:
            await again.say(HELLO)
            assert (await again.answer())[0] == 200


@pytest.mark.req("R-RES-4")
async def test_sockets_count_as_connections_until_they_are_closed() -> None:
    handshake = (
        b"GET /transcribe HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )

    async def until_open(connections: int) -> None:
        async with asyncio.timeout(5):
            while REGISTRY.get_sample_value("http_server_connections") != connections:
                await asyncio.sleep(0.01)

    async with running(connections_per_ip_max=1) as gateway:
        for _ in range(3):
            async with wire(gateway.port) as it:
                await it.say(handshake)
                assert b"101 Switching" in await it.reader.readuntil(b"\r\n\r\n")
                await until_open(1)
            await until_open(0)


@pytest.mark.req("R-RES-4")
async def test_without_the_defence_a_half_sent_head_stays_for_ever() -> None:
    """Negative control: uvicorn's own protocol."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    server = HttpServer(app, "127.0.0.1", 0, http=HttpToolsProtocol, timeout_keep_alive=1)
    serving = asyncio.create_task(server.run_until_exit())
    async with wire(server.port) as it:
        await it.say(HELLO[:20])
        with pytest.raises(TimeoutError):
            await it.hear(within_s=2.0)
    server.should_exit = True
    await serving
