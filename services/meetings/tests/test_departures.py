"""An account that is deleted takes with it what belonged to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
import sqlalchemy as sa
from verbatim.meetings.v1.events_pb2 import MeetingDeleted

from chassis import bus, dead_letters, ids, outbox
from chassis.bus import Bus
from chassis.dead_letters import DLQ, DeadLetters
from chassis.idempotency import Claim, IdempotencyKeys
from chassis.jobs import Queue
from chassis.postgres import Database
from chassis.relay import Relay
from chassis.tests.servers import NatsServer
from services.meetings import store
from services.meetings.accounts_store import DELETED, AccountsStore
from services.meetings.api_keys import new_api_key
from services.meetings.api_keys_store import ApiKeysStore
from services.meetings.deliveries_store import DeliveriesStore, Fact
from services.meetings.departures import DepartureConsumer
from services.meetings.meetings import new_meeting
from services.meetings.meetings_store import MeetingsStore, creation
from services.meetings.paging import Cursors
from services.meetings.remains_store import RemainsStore
from services.meetings.tasks import new_task
from services.meetings.tasks_store import TasksStore
from services.meetings.tests.conftest import Calendar
from services.meetings.tests.logbook import meeting_log, numbered
from services.meetings.transcript_store import TranscriptStore
from services.meetings.upload_tables import job_rows
from services.meetings.uploads import NewUpload, UploadLimits
from services.meetings.uploads_store import UploadsStore
from services.meetings.webhooks import WebhookRules, new_webhook
from services.meetings.webhooks_store import WebhooksStore

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

    consumer = DepartureConsumer(meetings, tasks, RemainsStore(database), broker)
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


@pytest.mark.req("R-AUTH-1", "R-API-7")
async def test_no_row_and_no_letter_is_left_of_an_account(
    accounts: AccountsStore, meetings: MeetingsStore, tasks: TasksStore, transcripts: TranscriptStore,
    *, api_keys: ApiKeysStore, keys: IdempotencyKeys, database: Database, broker: Bus, calendar: Calendar,
    cursors: Cursors,
) -> None:  # fmt: skip
    ann = (await accounts.add(ids.new_id(), "ann@example.com", "ann", "hash")).id
    ben = (await accounts.add(ids.new_id(), "ben@example.com", "ben", "hash")).id
    queue, rules = Queue(job_rows, store.outbox_rows, source=store.SOURCE), WebhookRules()
    for owner in (ann, ben):
        await transcripts.apply(numbered(meeting_log(owner).entries))
        hook = new_webhook(ids.new_id(), owner, url="https://example.com/", events=(), description="", rules=rules)
        await database.run("test", WebhooksStore(database, cursors, rules).creation(hook))
        fact = Fact("insights.ready", owner, ids.new_id(), calendar.now, {})
        assert await DeliveriesStore(database, queue, cursors, rules).tell(ids.new_id(), fact) == 1
        file = NewUpload(ids.new_id(), owner, "", "Talk", "", "wav", 100)
        await UploadsStore(database, queue, UploadLimits()).begin(file)
        await api_keys.add(owner, new_api_key("key", ("read",), None, role="user", now=calendar.now))
        wish = new_meeting(ids.new_id(), owner, title="Plan", language="", participants=())
        await keys.once(
            "test", Claim(owner, "k", b"f"), creation(wish), lambda one: MeetingDeleted(meeting_id=one.id),
            MeetingDeleted,
        )  # fmt: skip
        lost = dead_letters.letter(
            f"letter-{owner}", kind="webhook", subject="jobs.webhook", payload=b"", error="", about={"owner_id": owner}
        )
        await dead_letters.publish(broker, lost)
    before = await where_it_is(database, ann)
    assert {"api_keys", "audio_usage", "idempotency_keys", "jobs", "meetings", "uploads", "webhook_deliveries",
            "webhooks"} <= before  # fmt: skip
    await accounts.delete(ann, calendar.now)
    running = [
        asyncio.create_task(DepartureConsumer(meetings, tasks, RemainsStore(database), broker).run()),
        asyncio.create_task(Relay(database, store.outbox_rows, store.streams_seen, broker, STREAMS).run()),
    ]
    letters = DeadLetters(lambda: broker)
    try:
        async with asyncio.timeout(60):
            # That it is gone is known of it for a while, and told.
            while await where_it_is(database, ann) - {"outbox", "revocations", "tombstones"}:
                await asyncio.sleep(0.1)
            while await letters.count() != 1:
                await asyncio.sleep(0.1)
        assert (await letters.list())[0][0].about == {"owner_id": ben}
        assert before - {"outbox"} <= await where_it_is(database, ben)
    finally:
        for task_ in running:
            task_.cancel()
        await asyncio.wait(running)


async def where_it_is(database: Database, account_id: str) -> set[str]:
    """Return the tables of which a row names an account."""
    async with database.engine.begin() as connection:
        names = sa.text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        found = set()
        for name in list((await connection.execute(names)).scalars()):
            query = sa.text(f'SELECT EXISTS (SELECT FROM "{name}" t WHERE t::text LIKE :id)')  # noqa: S608
            if (await connection.execute(query, {"id": f"%{account_id}%"})).scalar_one():
                found.add(name)
    return found


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
    meetings: MeetingsStore, tasks: TasksStore, database: Database, broker: Bus
) -> None:
    await broker.publish(DELETED, b"\xff")
    running = asyncio.create_task(DepartureConsumer(meetings, tasks, RemainsStore(database), broker).run())
    letters = await broker.js.pull_subscribe("dlq.account-deleted", stream=DLQ.name)
    [letter] = await letters.fetch(1, timeout=20)
    assert orjson.loads(letter.data)["payload"] == b"\xff".hex()
    running.cancel()
    await asyncio.wait([running])
