"""Limits: exact with Redis, never open without it, and the counts are right again afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis.asyncio as redis

from chassis.cache import Cache, Pace, State
from chassis.limits import Charge, Limiter, Quota
from chassis.redis_lane import Away
from chassis.tests.servers import RedisServer

pytestmark = [pytest.mark.req("R-RL-1"), pytest.mark.req("R-RL-2")]

MINUTE = Quota("minute", 100, 60.0)
HOUR = Quota("hour", 1000, 3600.0)


class Replica:
    """One process's cache and limiter."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        replicas_min: int = 1,
        pace: Pace | None = None,
    ) -> None:
        self.cache = Cache(url, service="test", replica=name, replicas_min=replicas_min, pace=pace)
        self.limiter = Limiter(self.cache, clock=clock)

    async def burst(self, charges: int, subject: str = "1.2.3.4", quota: Quota = MINUTE) -> int:
        """Charge so often at once, and return how many were allowed."""
        verdicts = await asyncio.gather(*(self.limiter.take(Charge(quota, subject)) for _ in range(charges)))
        return sum(verdict.allowed for verdict in verdicts)


@asynccontextmanager
async def replicas(
    url: str, count: int = 1, *, replicas_min: int = 1, pace: Pace | None = None
) -> AsyncIterator[list[Replica]]:
    """Run replicas, connected and aware of each other."""
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        those = [Replica(url, f"replica-{i}", replicas_min=replicas_min, pace=pace) for i in range(count)]
        tasks = [group.create_task(one.cache.run()) for one in those]
        stack.callback(lambda: [task.cancel() for task in tasks])
        for one in those:
            await until(one, State.CONNECTED)
        yield those


async def until(replica: Replica, state: State) -> None:
    async with asyncio.timeout(20):
        while replica.cache.state is not state or replica.limiter.pending():
            await asyncio.sleep(0.005)


async def counted(url: str, quota: Quota = MINUTE, subject: str = "1.2.3.4") -> int:
    """Read the count that Redis has."""
    async with redis.Redis.from_url(url) as client:
        stored = await client.get(Charge(quota, subject).key)
    return int(stored.split()[2]) if stored else 0


async def test_burst_meets_the_limit_exactly_across_replicas(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url, 3) as those:
        allowed = sum(await asyncio.gather(*(one.burst(400) for one in those)))
        if all(one.cache.statistics().fallback == 0 for one in those):
            assert allowed == 100
        assert 99 <= allowed <= 120, "the machine stood still so long that memory answered"


async def test_a_denied_call_charges_no_quota(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url) as [one]:
        assert await one.burst(100) == 100
        verdict = await one.limiter.take(Charge(HOUR, "1.2.3.4"), Charge(MINUTE, "1.2.3.4"))
        assert not verdict.allowed
        assert verdict.denied_by == MINUTE
        assert 30 < verdict.retry_after_s <= 61
        assert await counted(redis_server.url, HOUR) == 0


async def test_several_quotas_take_one_round_trip(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url) as [one], redis.Redis.from_url(redis_server.url) as client:
        before = (await client.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
        verdict = await one.limiter.take(Charge(MINUTE, "a"), Charge(HOUR, "a"), Charge(MINUTE, "b"), Charge(HOUR, "b"))
        after = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        assert after - before == 1
        assert [standing.remaining for standing in verdict.standings] == [99, 999, 99, 999]


async def test_look_charges_nothing_and_charge_always_does(redis_server: RedisServer) -> None:
    few = Quota("few", 2, 60.0)
    async with replicas(redis_server.url) as [one]:
        assert (await one.limiter.look(Charge(few, "x"))).allowed
        verdicts = [await one.limiter.charge(Charge(few, "x")) for _ in range(4)]
        assert [verdict.allowed for verdict in verdicts] == [True, True, False, False]
        assert await counted(redis_server.url, few, "x") == 4
        assert not (await one.limiter.look(Charge(few, "x"))).allowed
        await one.limiter.forgive(Charge(few, "x"))
        assert (await one.limiter.look(Charge(few, "x"))).allowed


async def test_window_slides_and_tells_when_to_come_back(redis_server: RedisServer) -> None:
    quick = Quota("quick", 10, 0.5)
    async with replicas(redis_server.url) as [one]:
        assert await one.burst(30, quota=quick) == 10
        verdict = await one.limiter.take(Charge(quick, "1.2.3.4"))
        assert not verdict.allowed
        await asyncio.sleep(verdict.retry_after_s + 0.01)
        assert (await one.limiter.take(Charge(quick, "1.2.3.4"))).allowed
        # Had the window before been forgotten, there were ten.
        assert await one.burst(30, quota=quick) < 9


async def test_without_redis_replicas_share_the_limit(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url, 2, pace=Pace(health_s=0.1)) as those:
        async with asyncio.timeout(10):
            while any(one.cache.replicas != 2 for one in those):
                await asyncio.sleep(0.005)
        redis_server.kill()
        allowed = sum(await asyncio.gather(*(one.burst(400) for one in those)))
        assert 100 <= allowed <= 120


async def test_login_limit_is_never_open(redis_server: RedisServer) -> None:
    logins = Quota("logins", 5, 900.0)
    async with replicas(redis_server.url) as [one]:
        assert await one.burst(3, quota=logins) == 3
        redis_server.kill()
        assert await one.burst(100, quota=logins) == 2, "what Redis had counted is remembered"
        redis_server.start()
        await until(one, State.CONNECTED)
        assert await one.burst(100, quota=logins) == 0


@pytest.mark.parametrize("fault", ["kill", "freeze", "data lost"])
async def test_counts_are_equal_after_an_outage(redis_server: RedisServer, fault: str) -> None:
    async with replicas(redis_server.url) as [one]:
        assert await one.burst(20) == 20
        redis_server.freeze() if fault == "freeze" else redis_server.kill()
        assert await one.burst(30) == 30
        await until_away(one)
        assert await one.burst(10) == 10
        assert one.limiter.pending() == 1
        if fault == "freeze":
            redis_server.thaw()
        else:
            if fault == "data lost":
                redis_server.lose_data()
            redis_server.start()
        await until(one, State.CONNECTED)
        assert await counted(redis_server.url) == 60
        assert await one.burst(100) == 40


async def test_counts_of_all_replicas_add_up_after_an_outage(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url, 2, replicas_min=2) as those:
        redis_server.kill()
        for one in those:
            assert await one.burst(30) == 30
        redis_server.start()
        for one in those:
            await until(one, State.CONNECTED)
        assert await counted(redis_server.url) == 60


async def test_memory_alone_keeps_the_limit() -> None:
    alone = Replica("", "alone")
    assert await alone.burst(1000) == 100
    assert alone.cache.state is State.DISCONNECTED


async def test_memory_slides_the_window_as_redis_does() -> None:
    now = [1000.0]
    alone = Replica("", "alone", clock=lambda: now[0])
    assert await alone.burst(1000) == 100
    now[0] += 60 + 15
    assert await alone.burst(1000) == 25
    verdict = await alone.limiter.take(Charge(MINUTE, "1.2.3.4"))
    now[0] += verdict.retry_after_s + 0.001
    assert await alone.burst(1) == 1
    now[0] += 200
    assert await alone.burst(1000) == 100


async def test_memory_is_bounded_and_drops_the_least_used() -> None:
    cache = Cache("", service="test", replica="small")
    limiter = Limiter(cache, counts_max=100)
    for number in range(1000):
        await limiter.take(Charge(MINUTE, str(number)))
        await limiter.take(Charge(MINUTE, "busy"))
    assert limiter.pending() == 100
    assert (await limiter.look(Charge(MINUTE, "busy"))).standings[0].remaining == 0


async def test_a_batch_that_is_sent_again_counts_once(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url) as [one]:
        async with redis.Redis.from_url(redis_server.url) as client:
            given: list[tuple[object, ...]] = []

            async def ask(script: str, keys: tuple[str, ...], arguments: tuple[Any, ...]) -> Any:
                given.append(keys)
                reply = await client.eval(one.limiter.scripts[script], len(keys), *keys, *arguments)
                if len(given) == 1:
                    raise Away("the reply was lost", sent=True)
                return reply

            away = Replica("", "away")
            assert await away.burst(30) == 30
            with pytest.raises(Exception, match="lost"):
                await away.limiter.give_back(ask)
            await away.limiter.give_back(ask)
            assert given[0] == given[1]
            assert away.limiter.pending() == 0
        assert await counted(redis_server.url) == 30


async def until_away(replica: Replica) -> None:
    async with asyncio.timeout(10):
        while replica.cache.state is State.CONNECTED:
            await asyncio.sleep(0.005)
