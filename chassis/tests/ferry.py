"""Events from one table to another by way of outbox, relay, broker and inbox; relay and consumer to be killed (run as
programs)."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict

import orjson
import sqlalchemy as sa
from nats.aio.msg import Msg
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, outbox, postgres, relay
from chassis.outbox import EVENTS
from chassis.postgres import Database

METADATA = sa.MetaData()
OUTBOX = outbox.outbox_table(METADATA)
INBOX = outbox.inbox_table(METADATA)
STREAMS = relay.streams_table(METADATA)
# No key would refuse a second row: what comes twice is to be seen.
ARRIVED = sa.Table(
    "arrived", METADATA, sa.Column("seq", sa.Integer, sa.Identity()),
    sa.Column("aggregate", sa.Text), sa.Column("number", sa.Integer),
)  # fmt: skip
# What was put, in the transaction of the event: the other end of the comparison.
PUT = sa.Table("put", METADATA, sa.Column("aggregate", sa.Text), sa.Column("number", sa.Integer))
CONSUMER = "ferry"
SUBJECT = "events.ferry.sent"

Pair = tuple[str, int]


async def send(connection: AsyncConnection, pairs: list[Pair]) -> None:
    """Note pairs as put, and tell of each."""
    await connection.execute(PUT.insert(), [{"aggregate": aggregate, "number": number} for aggregate, number in pairs])
    events = [outbox.event(SUBJECT, orjson.dumps(pair), pair[0]) for pair in pairs]
    await outbox.put(connection, OUTBOX, events, source="ferry")


async def pairs(connection: AsyncConnection, table: sa.Table) -> list[Pair]:
    """Return what was put, or what arrived, in order."""
    order = table.c.seq if "seq" in table.c else table.c.number
    rows = await connection.execute(sa.select(table.c.aggregate, table.c.number).order_by(order))
    return [(row.aggregate, row.number) for row in rows]


class Consumer:
    """Notes what arrives, once; `forgetful` leaves the inbox out."""

    def __init__(self, database: Database, broker: bus.Bus, *, forgetful: bool = False) -> None:
        self._database = database
        self._bus = broker
        self._forgetful = forgetful

    async def run(self) -> None:
        """Consume for ever."""
        await self._bus.consume(
            stream=EVENTS.name, durable=CONSUMER, subject=SUBJECT, handle=self.handle, ack_wait_s=3.0
        )  # fmt: skip

    async def handle(self, messages: list[Msg]) -> None:
        """Note messages in one transaction."""

        async def work(connection: AsyncConnection) -> None:
            for message in messages:
                event_id = outbox.event_id(message)
                if self._forgetful or await outbox.first_time(connection, INBOX, CONSUMER, event_id):
                    aggregate, number = orjson.loads(message.data)
                    await connection.execute(ARRIVED.insert().values(aggregate=aggregate, number=number))

        await self._database.run("arrive", work)


async def in_stream(broker: bus.Bus) -> dict[str, list[int]]:
    """Return the numbers of each aggregate as they stand in the stream, repeats left out."""
    subscription = await broker.js.pull_subscribe(SUBJECT, stream=EVENTS.name)
    seen: set[str] = set()
    found: defaultdict[str, list[int]] = defaultdict(list)
    pending = (await subscription.consumer_info()).num_pending
    while pending:
        for message in await subscription.fetch(min(pending, 1000), timeout=5.0):
            pending -= 1
            await message.ack()
            event_id = outbox.event_id(message)
            if event_id not in seen:
                seen.add(event_id)
                aggregate, number = orjson.loads(message.data)
                found[aggregate].append(number)
    await subscription.unsubscribe()
    return found


async def _main(role: str, database_url: str, nats_url: str) -> None:
    async with (
        postgres.database(database_url) as database,
        bus.connect(nats_url, name=role, replicas=1) as broker,
    ):
        if role == "relay":
            await relay.Relay(database.patient(), OUTBOX, STREAMS, broker, reconcile_s=1.0).run()
        else:
            await Consumer(database.patient(), broker).run()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
