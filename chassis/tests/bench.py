"""A workbench for jobs: tables, an effect that can be counted, and a worker to be killed (run as a program)."""

from __future__ import annotations

import asyncio
import sys

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, outbox, postgres, relay
from chassis.errors import AppError, Kind
from chassis.jobs import Queue, jobs_table
from chassis.worker import Effect, Policy, Run, Worker

METADATA = sa.MetaData()
OUTBOX = outbox.outbox_table(METADATA)
STREAMS = relay.streams_table(METADATA)
JOBS_TABLE = jobs_table(METADATA)
EFFECTS = sa.Table("effects", METADATA, sa.Column("seq", sa.Integer, sa.Identity()), sa.Column("key", sa.Text))
QUEUE = Queue(JOBS_TABLE, OUTBOX, source="bench")


def effect(key: str) -> Effect:
    """Return an effect that writes the key."""

    async def commit(connection: AsyncConnection) -> None:
        await connection.execute(EFFECTS.insert().values(key=key))

    return commit


async def effects(connection: AsyncConnection) -> list[str]:
    """Return the keys written, in order."""
    return list((await connection.execute(sa.select(EFFECTS.c.key).order_by(EFFECTS.c.seq))).scalars())


async def _handle(run: Run) -> Effect:
    key = run.job.key
    await asyncio.sleep(60.0 if key == "slow" else 1.0 if key.startswith("nap") else 0.05)
    if run.job.key.startswith("bad") or (run.job.key.startswith("flaky") and run.job.attempts < 2):
        raise AppError(Kind.UNAVAILABLE, "Not now.", retry_after_s=0.0)
    return effect(run.job.key)


async def _main(database_url: str, nats_url: str) -> None:
    policy = Policy(delays_s=(0.1, 0.2), concurrency=4, ack_wait_s=1.5)
    async with (
        postgres.database(database_url, production=False) as database,
        bus.connect(nats_url, name="bench", replicas=1) as broker,
    ):
        await Worker("sum", _handle, database=database, queue=QUEUE, broker=broker, policy=policy).run()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
