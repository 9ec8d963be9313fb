"""Outbox and inbox as a state machine, driven at random on a real database and a real broker.

Transactions commit or not; the relay dies between the broker's acknowledgement and its own commit; a consumer dies
before its commit, or between it and its acknowledgement; somebody deletes the consumer, purges or deletes the stream.
Whatever happens in whatever order: when all of it has settled, each event that was committed has had its effect, once,
and nothing else has. Where the stream was left alone, each aggregate's events are in it in their order.

VERBATIM_MACHINE_EXAMPLES says how many lives are played.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import nats.errors
import nats.js.errors
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, ids, postgres, relay
from chassis.outbox import EVENTS
from chassis.postgres import Database
from chassis.tests import ferry
from chassis.tests.servers import NatsServer, PostgresServer

pytestmark = pytest.mark.req("R-DB-4")

AGGREGATES = st.sampled_from(["a", "b", "c"])
EXAMPLES = int(os.environ.get("VERBATIM_MACHINE_EXAMPLES", "5"))
ACK_WAIT_S = 0.5
SETTLED_WITHIN_S = 120.0


class Died(Exception):
    """A process ends here."""


class MortalRelay(relay.Relay):
    """A relay whose steps are taken one by one, and which may die before its commit."""

    dies = False

    async def step(self) -> None:
        """Publish one batch."""
        with suppress(Died):
            await self._database.run("outbox relay", self._batch)

    async def _batch(self, connection: AsyncConnection) -> int:
        done = await self._publish_batch(connection)
        if self.dies:
            raise Died
        return done


@dataclass
class Place:
    """Where the machine runs."""

    loop: asyncio.AbstractEventLoop
    database: Database
    broker: bus.Bus
    forgetful: bool = False

    def do(self, work: Awaitable[Any]) -> Any:
        """Do something to its end."""
        return self.loop.run_until_complete(_whole(work))


async def _whole(work: Awaitable[Any]) -> Any:
    return await work


class OutboxMachine(RuleBasedStateMachine):
    """The whole way from a transaction to an effect."""

    place: ClassVar[Place]

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.committed: list[ferry.Pair] = []
        self.relay = self._new_relay()
        # A durable name of its own: what the life before left in the stream is not its business.
        self.durable = f"ferry-{ids.new_id()}"
        self.subscription: Any = None
        self.deleted = self.lost = self.unacknowledged = False

    def _new_relay(self) -> MortalRelay:
        place = self.place
        return MortalRelay(place.database, ferry.OUTBOX, ferry.STREAMS, place.broker, reconcile_s=0.0)

    @initialize(aggregates=st.lists(AGGREGATES, min_size=1, max_size=6))
    def begin(self, aggregates: list[str]) -> None:
        async def work() -> None:
            with suppress(nats.js.errors.NotFoundError):
                await self.place.broker.js.purge_stream(EVENTS.name)
            await self.place.database.run("empty", _truncate)
            await self.relay.reconcile()

        self.place.do(work())
        self.put(aggregates, commits=True)

    @rule(aggregates=st.lists(AGGREGATES, min_size=1, max_size=6), commits=st.sampled_from([True, True, True, False]))
    def put(self, aggregates: list[str], commits: bool) -> None:
        pairs = [(aggregate, self.number + n) for n, aggregate in enumerate(aggregates)]
        self.number += len(pairs)

        async def work(connection: AsyncConnection) -> None:
            await ferry.send(connection, pairs)
            if not commits:
                raise Died

        with suppress(Died):
            self.place.do(self.place.database.run("put", work))
            self.committed += pairs

    @rule(dies=st.booleans())
    def relay_a_batch(self, dies: bool) -> None:
        self.relay.dies = dies
        self.place.do(self.relay.step())
        if dies:
            self.relay = self._new_relay()

    @rule()
    def reconcile(self) -> None:
        self.place.do(self.relay.reconcile())
        self.deleted = False

    # With a batch relayed first, half of the time: by itself there is seldom something to consume.
    @rule(many=st.integers(1, 10), ends=st.sampled_from(["well", "before commit", "before ack"]), relays=st.booleans())
    def consume(self, many: int, ends: str, relays: bool) -> None:
        if relays:
            self.relay_a_batch(dies=False)
        self.place.do(self._consume(many, ends))

    @rule()
    def delete_the_consumer(self) -> None:
        async def work() -> None:
            with suppress(nats.js.errors.NotFoundError):
                await self.place.broker.js.delete_consumer(EVENTS.name, self.durable)

        self.place.do(work())
        self.subscription = None

    @precondition(lambda self: not self.deleted)
    @rule(how=st.sampled_from(["purged", "deleted"]))
    def lose_the_stream(self, how: str) -> None:
        self.lost = True
        js = self.place.broker.js
        self.place.do(js.purge_stream(EVENTS.name) if how == "purged" else js.delete_stream(EVENTS.name))
        if how == "deleted":
            self.subscription, self.deleted = None, True

    async def _consume(self, many: int, ends: str) -> int:
        """Take some messages, and handle them as far as `ends` says. Returns how many there were."""
        try:
            if self.subscription is None:
                self.subscription = await self.place.broker.js.pull_subscribe(
                    ferry.SUBJECT, durable=self.durable, stream=EVENTS.name, config=ConsumerConfig(ack_wait=ACK_WAIT_S)
                )
            messages: list[Msg] = await self.subscription.fetch(many, timeout=0.1)
        except TimeoutError:
            return 0
        except (nats.js.errors.APIError, nats.errors.Error):
            self.subscription = None
            return 0
        if ends != "before commit":
            consumer = ferry.Consumer(self.place.database, self.place.broker, forgetful=self.place.forgetful)
            await consumer.handle(messages)
        if ends == "well":
            for message in messages:
                await message.ack()
        elif messages:
            self.unacknowledged = True
        return len(messages)

    async def _settle(self) -> list[ferry.Pair]:
        self.relay.dies = False
        async with asyncio.timeout(SETTLED_WITHIN_S):
            while True:
                await self.relay.reconcile()
                await self.relay.step()
                while await self._consume(50, "well"):
                    pass
                arrived: list[ferry.Pair] = await self.place.database.run(
                    "look", lambda connection: ferry.pairs(connection, ferry.ARRIVED)
                )
                if set(arrived) >= set(self.committed):
                    break
            # What was handled and not acknowledged comes again: only then it is known whether its effect is doubled.
            while self.unacknowledged:
                self.unacknowledged = False
                await asyncio.sleep(1.5 * ACK_WAIT_S)
                while await self._consume(50, "well"):
                    self.unacknowledged = True
        return await self.place.database.run("look", lambda connection: ferry.pairs(connection, ferry.ARRIVED))

    def teardown(self) -> None:
        if not self.number:
            return
        arrived = self.place.do(self._settle())
        assert sorted(arrived) == sorted(self.committed)
        if not self.lost:
            for numbers in self.place.do(ferry.in_stream(self.place.broker)).values():
                assert numbers == sorted(numbers)


async def _truncate(connection: AsyncConnection) -> None:
    for table in (ferry.OUTBOX, ferry.INBOX, ferry.ARRIVED, ferry.PUT, ferry.STREAMS):
        await connection.execute(table.delete())


@asynccontextmanager
async def _opened(server: PostgresServer, broker: NatsServer) -> AsyncIterator[tuple[Database, bus.Bus]]:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(postgres.database(server.create_database()))
        async with database.engine.begin() as connection:
            await connection.run_sync(ferry.METADATA.create_all)
        opened = await stack.enter_async_context(bus.connect(broker.url, name="machine", replicas=1))
        await opened.declare(EVENTS)
        yield database.patient(), opened


def _play(server: PostgresServer, broker: NatsServer, *, examples: int, forgetful: bool) -> None:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        opened = _opened(server, broker)
        database, connected = loop.run_until_complete(_whole(opened.__aenter__()))
        OutboxMachine.place = Place(loop, database, connected, forgetful)
        try:
            run_state_machine_as_test(
                OutboxMachine,
                settings=settings(
                    max_examples=examples, stateful_step_count=15, deadline=None, database=None,
                    phases=(Phase.generate,), suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
                ),
            )  # fmt: skip
        finally:
            loop.run_until_complete(_whole(opened.__aexit__(None, None, None)))


def test_whatever_dies_or_is_deleted_each_event_has_its_effect_once(
    postgres_server: PostgresServer, nats_server: NatsServer
) -> None:
    _play(postgres_server, nats_server, examples=EXAMPLES, forgetful=False)


@pytest.mark.long
def test_through_many_lives_each_event_has_its_effect_once(
    postgres_server: PostgresServer, nats_server: NatsServer
) -> None:
    _play(postgres_server, nats_server, examples=max(EXAMPLES, 60), forgetful=False)


def test_control_without_an_inbox_the_machine_finds_a_doubled_effect(
    postgres_server: PostgresServer, nats_server: NatsServer
) -> None:
    with pytest.raises(AssertionError):
        _play(postgres_server, nats_server, examples=60, forgetful=True)
