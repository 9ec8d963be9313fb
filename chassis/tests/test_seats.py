"""Seats: so many at once over all replicas, with Redis and without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis

from chassis.cache import Cache, State
from chassis.seats import Seats
from chassis.tests.servers import RedisServer

pytestmark = [pytest.mark.req("R-RL-1"), pytest.mark.req("R-RL-2")]


@asynccontextmanager
async def replicas(url: str, count: int) -> AsyncIterator[list[tuple[Cache, Seats]]]:
    caches = [Cache(url, service="test", replica=f"replica-{i}", replicas_min=count) for i in range(count)]
    those = [(cache, Seats(cache, "sessions")) for cache in caches]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(cache.run()) for cache in caches]
        for cache in caches:
            await until(cache, State.CONNECTED)
        yield those
        for task in tasks:
            task.cancel()


async def until(cache: Cache, state: State) -> None:
    async with asyncio.timeout(20):
        while cache.state is not state:
            await asyncio.sleep(0.005)


async def taken(url: str) -> int:
    async with redis.Redis.from_url(url) as client:
        keys = await client.keys("seats:*")
        return sum([int(await client.zcard(key)) for key in keys])


async def test_account_has_so_many_seats_on_all_replicas_together(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url, 2) as [(_, one), (_, two)]:
        got = await asyncio.gather(*(seats.take("ada", f"{n}", 5) for n, seats in enumerate([one, two] * 10)))
        assert sum(got) == 5
        assert await one.take("grace", "0", 5)
        holder = str(got.index(True))
        assert await two.take("ada", holder, 5), "who has one keeps it, also at another replica"
        assert await two.take("ada", "resumed", None), "and what is under way is let in"
        await (one if int(holder) % 2 == 0 else two).leave("ada", holder)
        assert await taken(redis_server.url) == 6


async def test_seats_of_a_killed_process_become_free(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url, 1) as [(cache, seats)], redis.Redis.from_url(redis_server.url) as client:
        assert await seats.take("ada", "1", 1)
        assert not await seats.take("ada", "2", 1)
        [key] = await client.keys("seats:*")
        await client.zadd(key, {"1": 1})  # a minute later
        assert await seats.take("ada", "2", 1)
        seats.renew()
        async with asyncio.timeout(10):
            while seats.pending():
                await asyncio.sleep(0.005)
        assert cache.state is State.CONNECTED
        assert await taken(redis_server.url) == 2, "the first was alive after all, and says so"


async def test_without_redis_each_replica_gives_out_its_share_of_the_rest(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url, 2) as those:
        (first, one), (second, two) = those
        for n in range(4):
            assert await one.take("ada", f"before {n}", 10)
            assert await two.take("ada", f"before {n}", 10)
        redis_server.kill()
        for cache in (first, second):
            await until(cache, State.FALLBACK)
        got = [await seats.take("ada", f"{n} {i}", 10) for i, seats in enumerate((one, two)) for n in range(20)]
        assert sum(got) == 6
        redis_server.start()
        for cache, seats in those:
            await until(cache, State.CONNECTED)
            assert not seats.pending()
        assert await taken(redis_server.url) == 10
