"""Outbox, relay and inbox against a real database and a real broker."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, lifecycle, outbox, postgres
from chassis.errors import AppError
from chassis.outbox import EVENTS
from chassis.pool import Limits
from chassis.postgres import Database
from chassis.relay import Relay, waves
from chassis.tests import ferry
from chassis.tests.servers import NatsServer

pytestmark = pytest.mark.req("R-DB-4")


@dataclass
class Place:
    """A database with the tables, a broker, and tasks that end with the test."""

    database: Database
    bus: bus.Bus
    tasks: asyncio.TaskGroup

    def relay(self) -> asyncio.Task[None]:
        relay = Relay(self.database, ferry.OUTBOX, ferry.STREAMS, self.bus, reconcile_s=0.5)
        return self.tasks.create_task(relay.run())

    def consumer(self, *, forgetful: bool = False) -> asyncio.Task[None]:
        return self.tasks.create_task(ferry.Consumer(self.database, self.bus, forgetful=forgetful).run())

    async def send(self, *pairs: ferry.Pair) -> None:
        await self.database.run("send", lambda connection: ferry.send(connection, list(pairs)))

    async def arrived(self) -> list[ferry.Pair]:
        return await self.database.run("arrived", lambda connection: ferry.pairs(connection, ferry.ARRIVED))

    async def arrive(self, count: int, within_s: float = 30.0) -> list[ferry.Pair]:
        async def there() -> bool:
            return len(await self.arrived()) >= count

        await eventually(there, within_s)
        return await self.arrived()

    async def waiting(self) -> int:
        async def work(connection: AsyncConnection) -> int:
            query = sa.select(sa.func.count()).where(ferry.OUTBOX.c.published_at.is_(None))
            return int((await connection.execute(query)).scalar_one())

        return await self.database.run("waiting", work)

    async def all_published(self, within_s: float = 30.0) -> None:
        async def none() -> bool:
            return await self.waiting() == 0

        await eventually(none, within_s)


async def eventually(holds: Callable[[], Awaitable[bool]], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not await holds():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def opened(database_url: str, nats_url: str, limits: Limits | None = None) -> AsyncIterator[Place]:
    async with (
        postgres.database(database_url, limits=limits) as database,
        bus.connect(nats_url, name="test", replicas=1) as broker,
    ):
        async with database.engine.begin() as connection:
            await connection.run_sync(ferry.METADATA.create_all)
        await broker.declare(EVENTS)
        with suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as tasks:
                yield Place(database, broker, tasks)
                await lifecycle.end(list(tasks._tasks))


@pytest.fixture
async def place(database_url: str, nats_server: NatsServer) -> AsyncIterator[Place]:
    async with opened(database_url, nats_server.url) as made:
        yield made


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


class SlowToLook(Relay):
    """A relay whose look at what the broker has takes as long as the test."""

    looking = False

    async def reconcile(self) -> None:
        self.looking = True
        await asyncio.Event().wait()


async def test_events_do_not_wait_while_what_the_broker_has_is_looked_at(place: Place) -> None:
    relay = SlowToLook(place.database, ferry.OUTBOX, ferry.STREAMS, place.bus)
    place.tasks.create_task(relay.run())
    await place.send(("a", 1))

    async def looking() -> bool:
        return relay.looking and await place.waiting() == 0

    await eventually(looking)
    await place.send(("a", 2))
    await place.all_published(within_s=10.0)


@given(st.lists(st.sampled_from(["", "a", "b", "c"])))
def test_in_a_wave_no_aggregate_is_twice_and_each_keeps_its_order(aggregates: list[str]) -> None:
    rows = [SimpleNamespace(seq=seq, aggregate=aggregate) for seq, aggregate in enumerate(aggregates)]
    split = waves(rows)
    assert sorted(row.seq for wave in split for row in wave) == list(range(len(rows)))
    order: defaultdict[str, list[int]] = defaultdict(list)
    for wave in split:
        named = [row.aggregate for row in wave if row.aggregate]
        assert len(named) == len(set(named))
        for row in wave:
            order[row.aggregate].append(row.seq)
    assert all(seqs == sorted(seqs) for aggregate, seqs in order.items() if aggregate)


async def test_an_event_leaves_with_its_transaction_or_not_at_all(place: Place) -> None:
    place.relay()
    place.consumer()

    async def half(connection: AsyncConnection) -> None:
        await ferry.send(connection, [("a", 1)])
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await place.database.run("half", half)
    await place.send(("a", 2))
    assert await place.arrive(1) == [("a", 2)]
    await place.all_published()
    assert await ferry.in_stream(place.bus) == {"a": [2]}


async def test_an_event_carries_the_attributes_of_cloudevents(place: Place) -> None:
    place.relay()
    await place.send(("a", 1))
    await place.all_published()
    message = await place.bus.js.get_last_msg(EVENTS.name, EVENTS.subjects[0])
    headers = message.headers or {}
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-type"] == ferry.SUBJECT
    assert headers["ce-source"] == "ferry"
    assert headers["ce-subject"] == "a"
    assert headers["ce-id"] == headers["Nats-Msg-Id"]
    assert headers["ce-time"].endswith("+00:00")


async def test_notify_wakes_the_relay_at_once(place: Place) -> None:
    place.relay()
    place.consumer()
    await place.send(("a", 0))
    await place.arrive(1)
    delays = []
    for number in range(1, 6):
        began = time.monotonic()
        await place.send(("a", number))
        await place.arrive(number + 1)
        delays.append(time.monotonic() - began)
    assert min(delays) < 0.5  # polling alone takes up to two seconds


async def test_of_several_relays_each_event_goes_out_once_and_in_order(place: Place) -> None:
    for _ in range(3):
        place.relay()
    for start in range(0, 300, 20):
        await place.send(*((f"{number % 7}", number) for number in range(start, start + 20)))
    await place.all_published()
    info = await place.bus.js.stream_info(EVENTS.name)
    assert info.state.messages == 300
    for numbers in (await ferry.in_stream(place.bus)).values():
        assert numbers == sorted(numbers)


async def test_a_relay_that_hangs_loses_its_turn(database_url: str, nats_server: NatsServer) -> None:
    """It holds the lock in a transaction; the server ends that when nothing comes."""
    async with (
        opened(database_url, nats_server.url, Limits(idle_in_transaction_s=1.0)) as place,
        place.database.engine.connect() as hung,
    ):
        await hung.execute(sa.text("SELECT pg_advisory_xact_lock(:l)"), {"l": 0x6F75_7462})
        place.relay()
        await place.send(("a", 1))
        await place.all_published(within_s=15.0)
        with suppress(sa.exc.DBAPIError):
            await hung.rollback()


async def test_events_wait_for_a_broker_that_is_away(place: Place, nats_server: NatsServer) -> None:
    place.relay()
    place.consumer()
    await place.send(("a", 1))
    await place.arrive(1)
    nats_server.kill()
    for number in range(2, 40):
        await place.send(("a", number))

    async def told() -> bool:
        return count("outbox_pending") == 38 and count("outbox_oldest_unpublished_seconds") > 0

    await eventually(told)
    nats_server.start()
    assert await place.arrive(39) == [("a", number) for number in range(1, 40)]
    await eventually(lambda: truth(count("outbox_pending") == 0))


async def test_a_stream_deleted_by_hand_is_declared_and_filled_again_and_no_effect_is_doubled(place: Place) -> None:
    """Row 29 of the fault table."""
    place.relay()
    place.consumer()
    await place.send(*(("a", number) for number in range(50)))
    await place.arrive(50)
    before = count("outbox_refilled_total", reason="recreated")
    await place.bus.js.delete_stream(EVENTS.name)
    began = time.monotonic()
    await place.send(("a", 50))
    assert await place.arrive(51, within_s=60.0) == [("a", number) for number in range(51)]
    assert time.monotonic() - began < 60.0
    await eventually(lambda: truth(count("outbox_refilled_total", reason="recreated") == before + 50))
    await place.all_published()
    assert await ferry.in_stream(place.bus) == {"a": list(range(51))}
    assert len(await place.arrived()) == 51


async def test_events_purged_by_hand_come_again_at_once(place: Place) -> None:
    """For two minutes the broker still knows their ids, and would acknowledge them without keeping them."""
    place.relay()
    await place.send(*(("a", number) for number in range(50)))
    await place.all_published()
    before = count("outbox_refilled_total", reason="purged")
    await place.bus.js.purge_stream(EVENTS.name)
    place.consumer()
    assert await place.arrive(50, within_s=30.0) == [("a", number) for number in range(50)]
    assert count("outbox_refilled_total", reason="purged") == before + 50


async def test_control_under_their_old_ids_purged_events_stay_away(place: Place) -> None:
    class OfOldIds(Relay):
        def _headers(self, row: Any) -> dict[str, str]:
            return {**super()._headers(row), "Nats-Msg-Id": row.id}

    relay = OfOldIds(place.database, ferry.OUTBOX, ferry.STREAMS, place.bus, reconcile_s=0.5)
    place.tasks.create_task(relay.run())
    await place.send(("a", 0))
    await place.all_published()
    before = count("outbox_refilled_total", reason="purged")
    await place.bus.js.purge_stream(EVENTS.name)
    await eventually(lambda: truth(count("outbox_refilled_total", reason="purged") > before + 2))
    assert await ferry.in_stream(place.bus) == {}


async def test_control_without_an_inbox_a_refill_doubles(place: Place) -> None:
    place.relay()
    place.consumer(forgetful=True)
    await place.send(*(("a", number) for number in range(10)))
    await place.arrive(10)
    await place.bus.js.delete_stream(EVENTS.name)
    assert len(await place.arrive(20, within_s=60.0)) >= 20


async def test_events_that_the_broker_forgot_although_it_had_acknowledged_them_come_again(
    place: Place, nats_server: NatsServer
) -> None:
    """As when its disk was restored from an older copy: nobody had consumed them."""
    place.relay()
    await place.send(("a", 1))
    await place.all_published()
    nats_server.kill()
    nats_server.save()
    nats_server.start()
    await eventually(lambda: truth(place.bus.client.is_connected))
    await place.send(("a", 2), ("a", 3))
    await place.all_published()
    nats_server.kill()
    nats_server.restore()
    nats_server.start()
    place.consumer()
    assert await place.arrive(3, within_s=60.0) == [("a", 1), ("a", 2), ("a", 3)]


@pytest.mark.parametrize("where", [0.05, 0.5, 0.95])
async def test_events_whose_stored_bytes_were_damaged_are_noticed_and_come_again(
    place: Place, nats_server: NatsServer, where: float
) -> None:
    """Row 43 of the fault table: bits flipped in the broker's files, at their begin, in the middle, at their end."""
    place.relay()
    await place.send(*((f"a{number % 7}", number) for number in range(400)))
    await place.all_published()
    nats_server.kill()
    assert nats_server.damage(EVENTS.name, where) > 0
    nats_server.start()
    place.consumer()
    arrived = await place.arrive(400, within_s=60.0)
    assert sorted(number for _, number in arrived) == list(range(400))


@pytest.mark.long
async def test_control_without_reconciling_damaged_events_are_lost(place: Place, nats_server: NatsServer) -> None:
    class Credulous(Relay):
        async def reconcile(self) -> None:
            """Believe that what the broker acknowledged it has."""

    relay = Credulous(place.database, ferry.OUTBOX, ferry.STREAMS, place.bus, reconcile_s=0.5)
    place.tasks.create_task(relay.run())
    await place.send(*((f"a{number % 7}", number) for number in range(400)))
    await place.all_published()
    nats_server.kill()
    assert nats_server.damage(EVENTS.name, 0.5) > 0
    nats_server.start()
    await eventually(lambda: truth(place.bus.client.is_connected))
    place.consumer()

    async def all_delivered() -> bool:
        with suppress(*bus.FAULTS):
            for info in await place.bus.js.consumers_info(EVENTS.name):
                if info.delivered and info.delivered.stream_seq:
                    return not info.num_pending and not info.num_ack_pending
        return False

    await eventually(all_delivered, within_s=60.0)
    assert len(await place.arrived()) < 400


async def test_a_consumer_deleted_by_hand_is_made_again_and_no_effect_is_doubled(place: Place) -> None:
    place.relay()
    place.consumer()
    await place.send(*(("a", number) for number in range(20)))
    await place.arrive(20)
    await place.bus.js.delete_consumer(EVENTS.name, ferry.CONSUMER)
    await place.send(("a", 20))
    assert await place.arrive(21, within_s=60.0) == [("a", number) for number in range(21)]


async def test_purged_events_are_published_again(place: Place) -> None:
    place.relay()
    await place.send(*(("a", number) for number in range(20)))
    await place.all_published()
    before = count("outbox_refilled_total", reason="purged")
    await place.bus.js.purge_stream(EVENTS.name)
    await eventually(lambda: truth(count("outbox_refilled_total", reason="purged") >= before + 20))


async def test_an_event_that_no_broker_would_take_is_refused_before_its_commit(place: Place) -> None:
    async def work(connection: AsyncConnection) -> None:
        large = outbox.event(ferry.SUBJECT, b"x" * (outbox.PAYLOAD_BYTES_MAX + 1))
        await outbox.put(connection, ferry.OUTBOX, [large], source="ferry")

    with pytest.raises(ValueError, match="too large"):
        await place.database.run("large", work)
    largest = outbox.event("events.ferry.large", b"x" * outbox.PAYLOAD_BYTES_MAX)
    place.relay()
    await place.database.run(
        "largest", lambda connection: outbox.put(connection, ferry.OUTBOX, [largest], source="ferry")
    )  # fmt: skip
    await place.all_published()


async def test_an_event_that_the_broker_refuses_holds_up_its_aggregate_only(place: Place) -> None:
    """Its subject belongs to no stream: the ones behind it for the same aggregate wait, others do not."""

    async def work(connection: AsyncConnection) -> None:
        lost = outbox.Event("nowhere.at.all", b"{}", "lost", aggregate="a")
        await outbox.put(connection, ferry.OUTBOX, [lost], source="ferry")
        await ferry.send(connection, [("a", 1), ("b", 1)])

    place.relay()
    place.consumer()
    await place.database.run("work", work)
    assert await place.arrive(1) == [("b", 1)]
    assert await place.waiting() == 2


async def test_rows_go_a_day_after_every_consumer_has_done_with_them(place: Place) -> None:
    place.relay()
    await place.send(("a", 1))
    await place.all_published()

    async def age(connection: AsyncConnection) -> None:
        then = sa.func.now() - sa.text("interval '25 hours'")
        await connection.execute(ferry.OUTBOX.update().values(published_at=then))

    async def rows() -> int:
        async def work(connection: AsyncConnection) -> int:
            return int((await connection.execute(sa.select(sa.func.count()).select_from(ferry.OUTBOX))).scalar_one())

        return await place.database.run("rows", work)

    await place.database.run("age", age)
    relay = Relay(place.database, ferry.OUTBOX, ferry.STREAMS, place.bus)
    await relay.reconcile()
    assert await rows() == 1  # nobody has read it
    place.consumer()
    await place.arrive(1)

    async def gone() -> bool:
        await relay.reconcile()
        return await rows() == 0

    await eventually(gone)


async def test_reconciling_without_a_broker_says_so(place: Place, nats_server: NatsServer) -> None:
    nats_server.kill()
    with pytest.raises(AppError):
        await Relay(place.database, ferry.OUTBOX, ferry.STREAMS, place.bus).reconcile()


async def truth(value: bool) -> bool:
    return value
