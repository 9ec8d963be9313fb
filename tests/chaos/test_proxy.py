"""The fault proxy does what its verbs say, to connections that are open already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.chaos.proxy import HOST, Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"end")
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Proxy, Streams]]:
    server = await asyncio.start_server(_echo, HOST, 0)
    dead_port = 1  # nobody listens there: skipped, as by a load balancer
    async with server, Proxy(0, [(HOST, dead_port), server.sockets[0].getsockname()[:2]]) as proxy:
        streams = await asyncio.open_connection(HOST, proxy.port)
        yield proxy, streams
        streams[1].close()


async def say(streams: Streams, data: bytes, within_s: float = 2.0) -> bytes:
    streams[1].write(data)
    async with asyncio.timeout(within_s):
        return await streams[0].readexactly(len(data))


async def test_honest_wire_carries_everything() -> None:
    async with proxied() as (_, streams):
        data = bytes(range(256)) * 4000
        assert await say(streams, data) == data


@pytest.mark.parametrize(
    "change", [{"slice_bytes": 3}, {"bytes_per_s": 20_000.0}, {"latency_s": 0.05}, {"lost_share": 1.0}]
)
async def test_slow_wire_carries_everything_later(change: dict[str, float]) -> None:
    async with proxied() as (proxy, streams):
        for name, value in change.items():
            setattr(proxy.up, name, value)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await say(streams, b"x" * 4000) == b"x" * 4000
        slow = {"slice_bytes": 0.0, "bytes_per_s": 0.15, "latency_s": 0.05, "lost_share": 0.25}
        assert loop.time() - began >= slow[next(iter(change))]


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_hole_swallows_one_direction_and_healing_resets(direction: str) -> None:
    async with proxied() as (proxy, streams):
        await say(streams, b"hello")
        getattr(proxy, direction).hole = True
        with pytest.raises(TimeoutError):
            await say(streams, b"lost", within_s=0.2)
        proxy.heal()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await say(streams, b"x")
        again = await asyncio.open_connection(HOST, proxy.port)
        assert await say(again, b"back") == b"back"
        again[1].close()


async def test_stalled_bytes_arrive_when_it_is_lifted() -> None:
    async with proxied() as (proxy, streams):
        proxy.down.stall()
        streams[1].write(b"later")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await streams[0].read(1)
        proxy.down.flow()
        async with asyncio.timeout(2):
            assert await streams[0].readexactly(5) == b"later"


async def test_connection_ends_after_so_many_bytes() -> None:
    async with proxied() as (proxy, streams):
        proxy.up.close_after_bytes = 10
        assert await say(streams, b"12345678") == b"12345678"
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await say(streams, b"90abc")


async def test_half_close_ends_one_direction_only() -> None:
    async with proxied() as (proxy, streams):
        await say(streams, b"hello")
        proxy.half_close("up")
        async with asyncio.timeout(2):
            assert await streams[0].read(10) == b"end"


async def test_refusal_is_a_reset() -> None:
    async with proxied() as (proxy, _):
        proxy.refusing = True
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()


async def test_half_open_connection_stays_so_whatever_either_side_does() -> None:
    async with proxied() as (proxy, streams):
        await say(streams, b"hello")
        assert proxy.half_open("up") == 1
        streams[1].write(b"lost")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await streams[0].read(1)
        fresh = await asyncio.open_connection(HOST, proxy.port)
        assert await say(fresh, b"honest") == b"honest"
        fresh[1].close()


async def test_server_of_a_half_open_connection_does_not_learn_that_the_client_is_gone() -> None:
    met: asyncio.Queue[str] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(100):
                writer.write(b"x")
            met.put_nowait("the end")
        except OSError:
            met.put_nowait("a reset")
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server, Proxy(0, [server.sockets[0].getsockname()[:2]]) as proxy:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(b"x")
        await reader.readexactly(1)
        proxy.half_open("up")
        writer.write(b"x")
        writer.transport.abort()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await met.get()
