"""Objects on a real broker: written piece by piece by whoever goes on, each byte once."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chassis import bus, ids
from chassis.errors import AppError, Kind
from chassis.objects import Held, Objects, Overtaken
from chassis.tests.servers import NatsServer

MIB = 1024**2


@asynccontextmanager
async def bucket(server: NatsServer, *, bytes_max: int = 64 * MIB) -> AsyncIterator[Objects]:
    async with bus.connect(server.url, name="test", replicas=1) as broker:
        objects = Objects(lambda: broker, "TEST")
        await broker.declare(objects.stream(bytes_max))
        yield objects


async def read(objects: Objects, name: str, size: int) -> bytes:
    return b"".join([piece async for piece in objects.read(name, size)])


async def put(objects: Objects, name: str, *pieces: bytes) -> Held:
    held = Held()
    for piece in pieces:
        held = await objects.append(name, held, piece)
    return held


@pytest.mark.req("R-UP-1")
async def test_what_is_written_in_pieces_is_read_as_one_also_by_other_clients(nats_server: NatsServer) -> None:
    async with bucket(nats_server) as objects:
        name, pieces = ids.new_id(), [b"one" * 1000, b"two" * 100_000, b"three"]
        whole = b"".join(pieces)
        assert (await put(objects, name, *pieces)).offset == len(whole)
        await objects.seal(name, len(whole))
        assert await read(objects, name, len(whole)) == whole
        assert await objects.names() == [name]
        store = await objects._connection().js.object_store("TEST")
        into = io.BytesIO()
        info = (await store.get(name, writeinto=into)).info
        assert into.getvalue() == whole
        assert (info.name, info.size) == (name, len(whole))


@pytest.mark.req("R-UP-3")
async def test_of_two_writers_one_wins_and_the_other_sees_where_it_stands(nats_server: NatsServer) -> None:
    async with bucket(nats_server) as mine, bucket(nats_server) as theirs:
        name = ids.new_id()
        start = await put(mine, name, b"beginning")
        await theirs.append(name, await theirs.held(name), b" theirs")
        with pytest.raises(Overtaken):
            await mine.append(name, start, b" mine")
        held = await mine.held(name)
        assert held.offset == len(b"beginning theirs")
        await mine.append(name, held, b" mine")
        assert await read(mine, name, 21) == b"beginning theirs mine"


@pytest.mark.req("R-UP-3")
async def test_a_piece_whose_acknowledgement_was_lost_is_not_stored_twice(nats_server: NatsServer) -> None:
    async with bucket(nats_server) as objects:
        name = ids.new_id()
        first = await objects.append(name, Held(), b"once")
        again = await objects.append(name, Held(), b"once")
        assert again == first
        assert await read(objects, name, 4) == b"once"


@pytest.mark.req("R-UP-3")
async def test_what_was_acknowledged_survives_the_broker(nats_server: NatsServer) -> None:
    async with bucket(nats_server) as objects:
        name = ids.new_id()
        held = await put(objects, name, b"a" * (MIB // 2))
        nats_server.kill()
        with pytest.raises(AppError) as failure:
            await objects.append(name, held, b"b")
        assert failure.value.kind is Kind.UNAVAILABLE
        nats_server.start()
        async with asyncio.timeout(20):
            while True:
                try:
                    held = await objects.append(name, held, b"b")
                    break
                except AppError:
                    await asyncio.sleep(0.05)
        digest = hashlib.sha256(await read(objects, name, held.offset)).digest()
        assert digest == hashlib.sha256(b"a" * (MIB // 2) + b"b").digest()


@pytest.mark.req("R-RES-3")
async def test_a_full_bucket_says_so_and_has_room_again_after_a_removal(nats_server: NatsServer) -> None:
    async with bucket(nats_server, bytes_max=MIB) as objects:
        first, second = ids.new_id(), ids.new_id()
        await put(objects, first, bytes(600_000))
        with pytest.raises(AppError) as failure:
            await put(objects, second, bytes(600_000))
        assert failure.value.kind is Kind.INSUFFICIENT_STORAGE
        await objects.remove(first)
        await put(objects, second, bytes(600_000))
        assert await objects.names() == [second]
        with pytest.raises(AppError) as gone:
            await read(objects, first, 600_000)
        assert gone.value.kind is Kind.NOT_FOUND


async def test_an_object_that_is_cut_short_is_not_read_as_if_it_were_whole(nats_server: NatsServer) -> None:
    async with bucket(nats_server) as objects:
        name = ids.new_id()
        await put(objects, name, b"half")
        with pytest.raises(AppError):
            await read(objects, name, 8)
