"""An account that is deleted takes with it what belonged to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
import sqlalchemy as sa
from verbatim.meetings.v1.events_pb2 import MeetingDeleted

from chassis import bus, ids, outbox
from chassis.bus import Bus
from chassis.dead_letters import DLQ
from chassis.postgres import Database
from chassis.relay import Relay
from chassis.tests.servers import NatsServer
from services.meetings import store
from services.meetings.accounts_store import DELETED, AccountsStore
from services.meetings.departures import DepartureConsumer
from services.meetings.meetings import new_meeting
from services.meetings.meetings_store import MeetingsStore
from services.meetings.tasks import new_task
from services.meetings.tasks_store import TasksStore
from services.meetings.tests.conftest import Calendar
from services.meetings.tests.logbook import meeting_log, numbered
from services.meetings.transcript_store import TranscriptStore

STREAMS = (outbox.EVENTS, DLQ)


@pytest.fixture
async def broker(nats_server: NatsServer) -> AsyncIterator[Bus]:
    async with bus.connect(nats_server.url, name="test", replicas=1) as opened:
        await opened.declare(outbox.EVENTS)
        await opened.declare(DLQ)
        yield opened


async def count(database: Database, table: sa.Table, owner: str) -> int:
    async with database.engine.begin() as connection:
        query = sa.select(sa.func.count()).select_from(table).where(table.c.owner_id == owner)
        return int((await connection.execute(query)).scalar_one())


async def until_empty(database: Database, owner: str) -> None:
    async with asyncio.timeout(30):
        while await count(database, store.meetings, owner) or await count(database, store.tasks, owner):
            await asyncio.sleep(0.05)


@pytest.mark.req("R-AUTH-1", "R-API-1")
async def test_meetings_and_tasks_go_with_their_account_and_each_is_told(
    accounts: AccountsStore, meetings: MeetingsStore, tasks: TasksStore, transcripts: TranscriptStore,
    database: Database, broker: Bus, calendar: Calendar,
) -> None:  # fmt: skip
    ann = await accounts.add(ids.new_id(), "ann@example.com", "ann", "hash")
    ben = await accounts.add(ids.new_id(), "ben@example.com", "ben", "hash")
    for owner in (ann, ben):
        for number in range(45):
            wish = new_meeting(ids.new_id(), owner.id, title=f"Plan {number}", language="", participants=())
            await meetings.create(wish)
        task = new_task(
            ids.new_id(), owner.id, title="Send", meeting_id="", assignee="", due="", source_segment_id=""
        )  # fmt: skip
        await tasks.create(task)
    log = meeting_log(ann.id)
    await transcripts.apply(numbered(log.entries))
    await accounts.delete(ann.id, calendar.now)

    consumer = DepartureConsumer(meetings, tasks, broker)
    running = [
        asyncio.create_task(consumer.run()),
        asyncio.create_task(Relay(database, store.outbox_rows, store.streams_seen, broker, STREAMS).run()),
    ]
    try:
        await until_empty(database, ann.id)
        told = await broker.js.pull_subscribe("events.meeting.deleted", stream=outbox.EVENTS.name)
        async with asyncio.timeout(30):
            facts: list[MeetingDeleted] = []
            while len(facts) < 46:
                facts += [MeetingDeleted.FromString(one.data) for one in await told.fetch(50, timeout=10)]
        assert {fact.owner_id for fact in facts} == {ann.id}
        assert [list(fact.session_ids) for fact in facts if fact.meeting_id == log.meeting_id] == [[log.session_id]]
        assert await count(database, store.meetings, ben.id) == 45
        assert await count(database, store.tasks, ben.id) == 1
    finally:
        for task_ in running:
            task_.cancel()
        await asyncio.wait(running)


@pytest.mark.req("R-AUTH-1")
async def test_what_is_still_said_in_sessions_of_a_deleted_account_is_not_kept(
    accounts: AccountsStore, meetings: MeetingsStore, transcripts: TranscriptStore, database: Database,
    calendar: Calendar,
) -> None:  # fmt: skip
    ann = await accounts.add(ids.new_id(), "ann@example.com", "ann", "hash")
    await accounts.delete(ann.id, calendar.now)
    await transcripts.apply(numbered(meeting_log(ann.id).entries))
    assert await count(database, store.meetings, ann.id) == 0


@pytest.mark.req("R-DB-4")
async def test_deletion_that_cannot_be_read_goes_to_the_dead_letters(
    meetings: MeetingsStore, tasks: TasksStore, broker: Bus
) -> None:
    await broker.publish(DELETED, b"\xff")
    running = asyncio.create_task(DepartureConsumer(meetings, tasks, broker).run())
    letters = await broker.js.pull_subscribe("dlq.account-deleted", stream=DLQ.name)
    [letter] = await letters.fetch(1, timeout=20)
    assert orjson.loads(letter.data)["payload"] == b"\xff".hex()
    running.cancel()
    await asyncio.wait([running])
