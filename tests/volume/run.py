"""A volume run: events and jobs in by the thousand while everything under them breaks, judged by exact accounts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, postgres
from chassis.dead_letters import DLQ
from chassis.errors import AppError
from chassis.jobs import JOBS
from chassis.outbox import EVENTS
from chassis.postgres import Database
from chassis.tests import bench, ferry
from chassis.tests.servers import NatsServer, PostgresServer
from tests.volume.accounts import Accounts, settle, under_way
from tests.volume.nemesis import Cast, Nemesis
from tests.volume.programs import KIND, make_tables

ROLES = ("relay", "relay", "consumer", "consumer", "worker", "worker", "worker")
# What each transaction of a writer puts.
EVENTS_EACH, JOBS_EACH = 25, 5
_WRITERS = 4
_AGGREGATES = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `in_stream`: dead letters at the broker; `restarted`: processes that ended by themselves."""

    accounts: Accounts
    faults: Counter[str]
    restarted: int
    in_stream: int
    seconds: float
    seed: int

    @property
    def exact(self) -> bool:
        return self.accounts.exact and self.in_stream == self.accounts.dead


def key_of(number: int) -> str:
    """Return the key of a job: two of a hundred never succeed, five at the second attempt."""
    kind = "bad" if number % 50 == 7 else "flaky" if number % 20 == 3 else "good"
    return f"{kind}-{number}"


async def write(database: Database, first: int, last: int) -> None:
    """Put the events and jobs of some transactions; each is tried until it is known to be there."""

    async def work(connection: AsyncConnection, number: int) -> None:
        base = number * EVENTS_EACH
        pairs = [(f"a{(base + n) % _AGGREGATES}", base + n) for n in range(EVENTS_EACH)]
        await ferry.send(connection, pairs)
        for n in range(JOBS_EACH):
            await bench.QUEUE.put(
                connection, KIND, key_of(number * JOBS_EACH + n), owner_id="o", payload=b"{}", attempts_max=3
            )

    for number in range(first, last):
        while True:
            try:
                await database.once("volume", partial(work, number=number))
            except AppError as fault:
                if not fault.codes.retryable:
                    raise
                # Nobody knows whether it happened; the rows do.
                if await _is_there(database, number):
                    break
            else:
                break


async def _is_there(database: Database, number: int) -> bool:
    query = ferry.PUT.select().where(ferry.PUT.c.number == number * EVENTS_EACH).limit(1)

    async def work(connection: AsyncConnection) -> bool:
        return (await connection.execute(query)).first() is not None

    while True:
        try:
            return await database.run("volume look", work)
        except AppError as fault:
            if not fault.codes.retryable:
                raise


async def run(
    postgres_server: PostgresServer,
    nats_server: NatsServer,
    *,
    transactions: int,
    seed: int = 1,
    roles: Sequence[str] = ROLES,
    faults: Sequence[str] | None = None,
    pause_s: tuple[float, float] = (1.0, 4.0),
    least_faults: int = 0,
    settle_s: float = 600.0,
) -> Outcome:
    """Put everything in while faults are played, at least so many; then let it settle and read the accounts.

    Raises TimeoutError if something is still under way `settle_s` after the last fault.
    """
    began = time.monotonic()
    url = postgres_server.create_database()
    async with postgres.database(url) as database:
        await make_tables(database)
        async with bus.connect(nats_server.url, name="volume", replicas=1) as broker:
            for stream in (EVENTS, JOBS, DLQ):
                await broker.declare(stream)
            cast = Cast(roles, url, nats_server.url)
            cast.start()
            nemesis = Nemesis(seed, cast, postgres_server, nats_server)
            playing = asyncio.create_task(nemesis.run(faults, pause_s))
            try:
                share = -(-transactions // _WRITERS)
                patient = database.patient()
                async with asyncio.TaskGroup() as writers:
                    for at in range(0, transactions, share):
                        writers.create_task(write(patient, at, min(at + share, transactions)))
                while sum(nemesis.played.values()) < least_faults:
                    await asyncio.sleep(0.2)
                    if playing.done():
                        await playing
                nemesis.stop.set()
                await playing
                await _settled(patient, cast, settle_s)
                accounts = await patient.run("volume accounts", settle)
                letters = (await _letters(broker)) if accounts.dead else 0
            finally:
                nemesis.stop.set()
                await playing
                cast.stop()
    return Outcome(accounts, nemesis.played, nemesis.ended, letters, time.monotonic() - began, seed)


async def _settled(database: Database, cast: Cast, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while True:
            with suppress(AppError):
                if not await database.run("volume look", under_way):
                    return
            cast.look()
            await asyncio.sleep(0.5)


async def _letters(broker: bus.Bus) -> int:
    async with asyncio.timeout(60.0):
        while True:
            with suppress(*bus.FAULTS):
                return int((await broker.js.stream_info(DLQ.name)).state.messages)
            await asyncio.sleep(0.5)
