"""The processes of the volume run, to be killed and frozen: `python -m tests.volume.programs <role> <database> <nats>`.

`forgetful` and `unfenced` are consumer and worker without what keeps them from doing things twice.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial

import sqlalchemy as sa
from nats.aio.msg import Msg
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, postgres, relay
from chassis.dead_letters import DLQ
from chassis.errors import AppError, Kind
from chassis.jobs import JOBS
from chassis.outbox import EVENTS
from chassis.postgres import Database
from chassis.tests import bench, ferry
from chassis.worker import Effect, Policy, Run, Worker

KIND = "volume"
ACK_WAIT_S = 3.0
_POLICY = Policy(delays_s=(0.1, 0.2), concurrency=8, ack_wait_s=ACK_WAIT_S, undecided_delay_s=0.5)
# Longer than others wait for a worker that does not answer: whatever is in its hands then is begun by one of them.
_UNFENCED_S = 4.0
# Between what a consumer commits and what it acknowledges, so that kills fall into it, and all is not over before them.
_FORGETFUL_S = 8.0


async def handle(run: Run) -> Effect:
    """Do a job whose key says how it goes: `bad` ones never, `flaky` ones at the second attempt."""
    key = run.job.key
    if key.startswith("bad") or (key.startswith("flaky") and run.job.attempts < 2):
        raise AppError(Kind.UNAVAILABLE, "Not now.", retry_after_s=0.0)
    return bench.effect(key)


async def handle_unfenced(database: Database, run: Run) -> Effect:
    """Do the same, but commit the effect on its own, before the job's end."""
    effect = await handle(run)
    await database.run("effect", effect)
    await asyncio.sleep(_UNFENCED_S)
    return _nothing


class ForgetfulConsumer(ferry.Consumer):
    """Keeps no inbox, and takes its time to acknowledge what it has committed."""

    def __init__(self, database: Database, broker: bus.Bus) -> None:
        super().__init__(database, broker, forgetful=True)

    async def handle(self, messages: list[Msg]) -> None:
        """Note messages, whether or not they were noted before."""
        await super().handle(messages)
        await asyncio.sleep(_FORGETFUL_S)


async def _nothing(_: AsyncConnection) -> None:
    """Leave nothing to be committed with the job's end."""


async def make_tables(database: Database) -> None:
    """Make every table that the programs use; outbox and streams are one for both kinds of traffic."""
    async with database.engine.begin() as connection:
        await connection.run_sync(ferry.METADATA.create_all)
        await connection.run_sync(bench.METADATA.create_all)
        await connection.execute(sa.text("CREATE INDEX ON arrived (aggregate, number)"))
        await connection.execute(sa.text("CREATE INDEX ON effects (key)"))


async def play(role: str, database_url: str, nats_url: str) -> None:
    """Be one of the processes, for ever."""
    async with (
        postgres.database(database_url) as database,
        bus.connect(nats_url, name=role, replicas=1) as broker,
    ):
        patient = database.patient()
        match role:
            case "relay":
                streams = (EVENTS, JOBS, DLQ)
                await relay.Relay(patient, ferry.OUTBOX, ferry.STREAMS, broker, streams, reconcile_s=2.0).run()
            case "consumer":
                await ferry.Consumer(patient, broker).run()
            case "forgetful":
                await ForgetfulConsumer(patient, broker).run()
            case "worker" | "unfenced":
                handler = handle if role == "worker" else partial(handle_unfenced, patient)
                await Worker(KIND, handler, database=patient, queue=bench.QUEUE, broker=broker, policy=_POLICY).run()
            case _:
                raise SystemExit(f"no such role: {role}")


if __name__ == "__main__":
    asyncio.run(play(*sys.argv[1:]))
