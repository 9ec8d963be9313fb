from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import orjson
import pytest
import sqlalchemy as sa
from nats.aio.msg import Msg
from verbatim.insights.v1.insights_pb2 import ActionItem, InsightsReady
from verbatim.meetings.v1.events_pb2 import MeetingCompleted, SegmentsStored
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import bus, ids, outbox
from chassis.bus import Bus, Stream
from chassis.dead_letters import DLQ
from chassis.errors import AppError, Kind
from chassis.postgres import Database
from chassis.relay import Relay
from chassis.tests.servers import NatsServer
from services.meetings import store
from services.meetings.events import TRANSCRIPT_LOCK, InsightsConsumer, TranscriptConsumer
from services.meetings.leadership import Leadership
from services.meetings.meetings_store import MeetingsStore
from services.meetings.tasks_store import TasksStore
from services.meetings.tests.logbook import Logbook, meeting_log, numbered
from services.meetings.tests.test_transcript_store import completed, letters, rows
from services.meetings.transcript_store import Applied, TranscriptStore

STREAM = Stream("TRANSCRIPT", ("transcript.*",), max_bytes=64 * 1024**2)
WITHIN_S = 20.0


@pytest.fixture
async def broker(nats_server: NatsServer) -> AsyncIterator[Bus]:
    async with bus.connect(nats_server.url, name="test", replicas=1) as opened:
        await opened.declare(outbox.EVENTS)
        await opened.declare(DLQ)
        yield opened


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(*consumers: TranscriptConsumer | InsightsConsumer | Relay) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(consumer.run()) for consumer in consumers]
    try:
        yield
        assert not any(task.done() for task in tasks), "a consumer ended"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def publish(broker: Bus, entries: list[pb.TranscriptEntry]) -> None:
    for entry in entries:
        await broker.publish(f"transcript.{entry.session_id}", entry.SerializeToString())


async def arrives(broker: Bus, entry: pb.TranscriptEntry) -> bool:
    """Try to publish; whether a try that failed arrived is unknown, so it may come twice."""
    try:
        await broker.publish(f"transcript.{entry.session_id}", entry.SerializeToString(), timeout_s=1.0)
    except AppError as error:
        assert error.kind == Kind.UNAVAILABLE
        return False
    return True


@pytest.fixture
def consumer(transcripts: TranscriptStore, broker: Bus, database: Database) -> TranscriptConsumer:
    return TranscriptConsumer(transcripts, broker, Leadership(database, TRANSCRIPT_LOCK))


def status(meetings: MeetingsStore, owner: str, meeting_id: str, wanted: str) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        try:
            return (await meetings.get(owner, meeting_id)).status == wanted
        except AppError as error:
            assert error.kind == Kind.NOT_FOUND
            return False

    return holds


@pytest.mark.req("R-WS-4")
async def test_stream_that_appears_later_is_stored_and_told(
    consumer: TranscriptConsumer, broker: Bus, database: Database, meetings: MeetingsStore, owner: str
) -> None:
    told: list[SegmentsStored] = []
    finished: list[MeetingCompleted] = []

    async def hear(message: Msg) -> None:
        told.append(SegmentsStored.FromString(message.data))

    async def hear_event(message: Msg) -> None:
        finished.append(MeetingCompleted.FromString(message.data))

    await broker.client.subscribe("stored.*", cb=hear)
    await broker.client.subscribe("events.meeting.completed", cb=hear_event)
    log = meeting_log(owner)
    async with running(consumer, Relay(database, store.outbox_rows, store.streams_seen, broker)):
        await asyncio.sleep(0)
        await broker.declare(STREAM)
        await publish(broker, log.entries)
        await until(status(meetings, owner, log.meeting_id, "completed"))

        async def everything_told() -> bool:
            return bool(finished) and bool(told) and told[-1].closed

        await until(everything_told)
    last = SegmentsStored(session_id=log.session_id, end_offset=log.end_offset, event=7, closed=True)
    assert told[-1] == last
    assert [mark.end_offset for mark in told] == sorted(mark.end_offset for mark in told)
    assert [fact.meeting_id for fact in finished] == [log.meeting_id]


@pytest.mark.req("R-WS-4")
@pytest.mark.req("R-DB-4")
async def test_consumer_that_dies_with_a_batch_in_hand_loses_and_reorders_nothing(
    transcripts: TranscriptStore,
    broker: Bus,
    database: Database,
    meetings: MeetingsStore,
    owner: str,
) -> None:
    """The broker hands an unacknowledged batch out again after half a minute, behind what is newer. Without the start
    from our own progress the close of the session was applied first, and the meeting completed without its words."""
    await broker.declare(STREAM)
    log = meeting_log(owner)
    dying = TranscriptConsumer(Dying(database), broker, Leadership(database, TRANSCRIPT_LOCK))
    task = asyncio.ensure_future(dying.run())
    await publish(broker, log.entries[:4])
    async with asyncio.timeout(WITHIN_S):
        await asyncio.wait([task])
    assert isinstance(task.exception(), ZeroDivisionError)
    await publish(broker, log.entries[4:])
    heir = TranscriptConsumer(transcripts, broker, Leadership(database, TRANSCRIPT_LOCK))
    started = time.monotonic()
    async with running(heir):
        await until(status(meetings, owner, log.meeting_id, "completed"))
    assert time.monotonic() - started < 10
    assert len((await rows(database))["segments"]) == 4
    assert len(await completed(database)) == 1
    assert await letters(database) == []


class Dying(TranscriptStore):
    """Dies, as a killed process would, before the first batch is committed."""

    async def apply(self, messages: object) -> Applied:
        raise ZeroDivisionError


@pytest.mark.req("R-SVC-7")
async def test_second_replica_waits_and_takes_over(
    transcripts: TranscriptStore,
    broker: Bus,
    database: Database,
    meetings: MeetingsStore,
    owner: str,
) -> None:
    await broker.declare(STREAM)
    first, second = (TranscriptConsumer(transcripts, broker, Leadership(database, TRANSCRIPT_LOCK)) for _ in range(2))
    one, two = meeting_log(owner), meeting_log(owner)
    async with running(second):
        async with running(first):
            await publish(broker, one.entries)
            await until(status(meetings, owner, one.meeting_id, "completed"))
        await publish(broker, two.entries)
        await until(status(meetings, owner, two.meeting_id, "completed"))
    assert len(await completed(database)) == 2


async def test_lost_lock_connection_moves_the_lead_and_loses_nothing(
    consumer: TranscriptConsumer, broker: Bus, database: Database, meetings: MeetingsStore, owner: str
) -> None:
    await broker.declare(STREAM)
    one, two = meeting_log(owner), meeting_log(owner)
    async with running(consumer):
        await publish(broker, one.entries)
        await until(status(meetings, owner, one.meeting_id, "completed"))
        async with database.engine.begin() as connection:
            holders = sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = :k"
            )
            await connection.execute(holders, {"k": TRANSCRIPT_LOCK})
        await publish(broker, two.entries)
        await until(status(meetings, owner, two.meeting_id, "completed"))
    assert len((await rows(database))["segments"]) == 8


@pytest.mark.req("R-WS-4")
async def test_broker_that_is_killed_and_comes_back_loses_nothing(
    consumer: TranscriptConsumer, nats_server: NatsServer, broker: Bus, database: Database, meetings: MeetingsStore,
    owner: str,
) -> None:  # fmt: skip
    await broker.declare(STREAM)
    log = meeting_log(owner)
    async with running(consumer):
        await publish(broker, log.entries[:5])
        await until(status(meetings, owner, log.meeting_id, "live"))
        nats_server.kill()
        nats_server.start()

        for entry in log.entries[5:]:
            await until(partial(arrives, broker, entry))
        await until(status(meetings, owner, log.meeting_id, "completed"))
    assert len((await rows(database))["segments"]) == 4


async def test_bad_entries_reach_the_dead_letters_with_their_reason_and_block_nothing(
    consumer: TranscriptConsumer, broker: Bus, database: Database, meetings: MeetingsStore, owner: str
) -> None:
    await broker.declare(STREAM)
    log = meeting_log(owner)
    async with running(consumer, Relay(database, store.outbox_rows, store.streams_seen, broker)):
        await broker.publish(f"transcript.{log.session_id}", b"\xff nonsense")
        orphan = Logbook(owner)
        orphan.say("nobody opened this")
        await publish(broker, [*log.entries, *orphan.entries[1:]])
        await until(status(meetings, owner, log.meeting_id, "completed"))
        dead = await broker.js.pull_subscribe("dlq.transcript", durable="look", stream="DLQ")
        found: list[Msg] = []
        async with asyncio.timeout(WITHIN_S):
            while len(found) < 2:
                found += await dead.fetch(2, timeout=WITHIN_S)
    first, second = (orjson.loads(message.data) for message in found)
    assert first["payload"] == b"\xff nonsense".hex()
    assert first["error"] == "unreadable: not a transcript entry"
    assert (second["error"], second["subject"]) == ("orphan", f"transcript.{orphan.session_id}")


async def test_stream_that_was_lost_and_begins_anew_is_read_from_its_beginning(
    consumer: TranscriptConsumer, broker: Bus, transcripts: TranscriptStore, meetings: MeetingsStore, owner: str
) -> None:
    old = meeting_log(owner)
    await transcripts.apply(numbered(old.entries, first=5000))
    await broker.declare(STREAM)
    log = meeting_log(owner)
    await publish(broker, log.entries)
    async with running(consumer):
        await until(status(meetings, owner, log.meeting_id, "completed"))


async def test_batch_that_the_database_refuses_is_applied_without_the_one_it_refuses(
    consumer: TranscriptConsumer, broker: Bus, database: Database, meetings: MeetingsStore, owner: str
) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE segments ADD CHECK (text <> 'Ben writes the report')"))
    await broker.declare(STREAM)
    log = meeting_log(owner)
    async with running(consumer):
        await publish(broker, log.entries)
        await until(status(meetings, owner, log.meeting_id, "completed"))
    assert len((await rows(database))["segments"]) == 3
    ((error, _, _),) = await letters(database)
    assert error == "refused: 23514"


@pytest.mark.req("R-API-2")
async def test_insights_become_tasks_once_and_bad_ones_dead_letters(
    broker: Bus, tasks: TasksStore, transcripts: TranscriptStore, owner: str
) -> None:
    log = meeting_log(owner)
    await transcripts.apply(numbered(log.entries))
    item = ActionItem(text="Ben writes the report", assignee="Ben", due="2026-11-27", segment_ids=["s-1"])
    fact = InsightsReady(meeting_id=log.meeting_id, owner_id=owner, action_items=[item]).SerializeToString()
    for payload in (b"\xff", fact, fact):
        await broker.js.publish("events.insights.ready", payload, headers={"ce-id": ids.new_id()})

    async def stored() -> bool:
        return len((await tasks.list(owner, log.meeting_id, "", 50, "")).items) == 1

    async with running(InsightsConsumer(tasks, broker)):
        await until(stored)
        dead = await broker.js.pull_subscribe("dlq.insights-ready", durable="look", stream="DLQ")
        (letter,) = await dead.fetch(1, timeout=WITHIN_S)
        assert orjson.loads(letter.data)["payload"] == b"\xff".hex()
