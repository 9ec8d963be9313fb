"""How fast it goes without faults: outbox to broker, row to consumer, jobs.

python -m tests.volume.rates prints it; the page of `tests.bench.library` holds it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import orjson
import psutil
import sqlalchemy as sa
from nats.aio.msg import Msg
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, outbox, postgres
from chassis.dead_letters import DLQ
from chassis.jobs import JOBS
from chassis.outbox import EVENTS
from chassis.postgres import Database
from chassis.tests import bench, ferry
from chassis.tests.servers import NatsServer, PostgresServer, nats_broker, postgres_cluster
from tests.bench.load import quantile_ms
from tests.volume.nemesis import Cast
from tests.volume.programs import KIND, make_tables

_BATCH = 1000
_PER_S = 200


@dataclass(frozen=True, slots=True)
class Rates:
    """Events per second from outbox to broker, and per second of the relay's CPU; latency; jobs per second."""

    events: int
    drain_per_s: float
    drain_per_cpu_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    jobs: int
    jobs_per_s: float
    jobs_per_cpu_s: float


@asynccontextmanager
async def _place(
    postgres_server: PostgresServer, nats_server: NatsServer
) -> AsyncIterator[tuple[str, Database, bus.Bus]]:
    url = postgres_server.create_database()
    async with (
        postgres.database(url) as database,
        bus.connect(nats_server.url, name="rates", replicas=1) as broker,
    ):
        await make_tables(database)
        for stream in (EVENTS, JOBS, DLQ):
            await broker.declare(stream)
        yield url, database, broker


async def measure(
    postgres_server: PostgresServer, nats_server: NatsServer, *, events: int, jobs: int, latency_s: float
) -> Rates:
    """Measure one after the other. A relay is a process of its own, and so is the one worker."""
    async with _place(postgres_server, nats_server) as (url, database, broker):
        for at in range(0, events, _BATCH):
            pairs = [(f"a{n % 500}", n) for n in range(at, min(at + _BATCH, events))]
            await database.run("fill", partial(ferry.send, pairs=pairs))
        drained_s, cpu_s = await _worked(database, Cast(["relay"], url, nats_server.url), _waiting)
        relay = Cast(["relay"], url, nats_server.url)
        relay.start()
        try:
            latencies_s = await _latencies(database, broker, latency_s)
            for at in range(0, jobs, _BATCH):
                keys = [f"good-{n}" for n in range(at, min(at + _BATCH, jobs))]
                await database.run("fill", partial(_ask, keys=keys))
            done_s, worker_cpu_s = await _worked(database, Cast(["worker"], url, nats_server.url), _unfinished)
        finally:
            relay.stop()
    return Rates(
        events, events / drained_s, events / cpu_s, quantile_ms(latencies_s, 0.5), quantile_ms(latencies_s, 0.99),
        jobs, jobs / done_s, jobs / worker_cpu_s,
    )  # fmt: skip


async def _worked(database: Database, cast: Cast, left: sa.TextClause) -> tuple[float, float]:
    """Let processes work until nothing is left; return the seconds, from the first effect on, and their CPU's."""

    async def count(connection: AsyncConnection) -> int:
        return int((await connection.execute(left)).scalar_one())

    begin = await database.run("rates look", count)
    cast.start()
    try:
        # Starting Python is not what is measured.
        while (now := await database.run("rates look", count)) == begin:
            await asyncio.sleep(0.01)
        began, done = time.monotonic(), begin - now
        cpu = sum(sum(psutil.Process(process.pid).cpu_times()[:2]) for process in cast.processes)
        while await database.run("rates look", count):
            await asyncio.sleep(0.05)
        seconds = time.monotonic() - began
        cpu = sum(sum(psutil.Process(process.pid).cpu_times()[:2]) for process in cast.processes) - cpu
    finally:
        cast.stop()
    share = begin / (begin - done)
    return seconds * share, cpu * share


_waiting = sa.text("SELECT count(*) FROM outbox WHERE published_at IS NULL")
_unfinished = sa.text("SELECT count(*) FROM jobs WHERE status <> 'completed'")


async def _ask(connection: AsyncConnection, keys: list[str]) -> None:
    for key in keys:
        await bench.QUEUE.put(connection, KIND, key, owner_id="o", payload=b"{}", attempts_max=3)


async def _latencies(database: Database, broker: bus.Bus, seconds: float) -> list[float]:
    """Put 200 rows a second, one a transaction; return the time from before the insert to the consumer for each."""
    found: list[float] = []

    async def handle(messages: list[Msg]) -> None:
        now = time.perf_counter()
        found.extend(now - orjson.loads(message.data) for message in messages)

    consuming = asyncio.create_task(
        broker.consume(stream=EVENTS.name, durable="latency", subject="events.latency.put", handle=handle)
    )

    async def put() -> None:
        async def work(connection: AsyncConnection) -> None:
            event = outbox.event("events.latency.put", orjson.dumps(time.perf_counter()))
            await outbox.put(connection, ferry.OUTBOX, [event], source="rates")

        await database.patient().run("latency", work)

    try:
        for _ in range(20):  # until everybody is awake
            await put()
        async with asyncio.timeout(60.0):
            while len(found) < 20:
                await asyncio.sleep(0.05)
        found.clear()
        began, count = time.monotonic(), int(seconds * _PER_S)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(max(0.0, began + number / _PER_S - time.monotonic()))
                group.create_task(put())
        async with asyncio.timeout(60.0):
            while len(found) < count:
                await asyncio.sleep(0.05)
    finally:
        consuming.cancel()
    return found


async def rates() -> Rates:
    """Measure on servers of its own."""
    with postgres_cluster() as server, nats_broker() as nats:
        return await measure(server, nats, events=50_000, jobs=3_000, latency_s=10.0)


def table(speed: Rates) -> str:
    """Return what was measured as a part of a page."""
    return "\n".join((
        "## Events and jobs, without faults", "", "| | measured | target |", "|---|---|---|",
        f"| outbox to broker, {speed.events:,} rows, one relay | {speed.drain_per_s:,.0f} events/s | |",
        f"| the same per second of the relay's CPU | {speed.drain_per_cpu_s:,.0f} events/s | 10,000 |",
        f"| before the insert to the consumer, 200 a second | p50 {speed.latency_p50_ms:.1f} ms, "
        f"p99 {speed.latency_p99_ms:.1f} ms | p99 10 ms |",
        f"| {speed.jobs:,} jobs that do nothing, one worker process of eight hands | {speed.jobs_per_s:,.0f} jobs/s, "
        f"{speed.jobs_per_cpu_s:,.0f} per second of its CPU | |", "",
        f"Load of the machine: {os.getloadavg()[1]:.0f} on {os.cpu_count()} cores.", "",
    ))  # fmt: skip


if __name__ == "__main__":
    print(table(asyncio.run(rates())))
