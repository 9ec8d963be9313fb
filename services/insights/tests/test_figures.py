"""Figures: told in any order and number, by real broker and database, they add up to the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp
from verbatim.insights.v1 import analytics_pb2 as pb
from verbatim.insights.v1 import analytics_pb2_grpc
from verbatim.meetings.v1.figures_pb2 import MeetingFigures, SpeakerFigures, TaskFigures

from chassis import bus, ids, outbox, postgres
from chassis.dead_letters import DLQ
from chassis.errors import AppError, Kind
from chassis.migrations import migrate
from chassis.postgres import Database
from chassis.tests.servers import NatsServer
from services.insights import figures_store
from services.insights.figures import MEETING, TASK, AnalyticsApi, FiguresConsumer
from services.insights.periods import Period, period
from services.insights.tests.conftest import eventually
from services.insights.tests.fakes import serving

pytestmark = pytest.mark.req("R-API-4")

MIGRATIONS = Path(__file__).parents[1] / "migrations"
NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await asyncio.to_thread(migrate, database_url, MIGRATIONS)
    async with postgres.database(database_url) as opened:
        yield opened


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def meeting(owner: str, version: int, *, meeting_id: str = "", at: datetime = NOON, **words: int) -> MeetingFigures:
    speakers = [SpeakerFigures(speaker=name, talk_s=float(count), words=count) for name, count in words.items()]
    return MeetingFigures(
        meeting_id=meeting_id or ids.new_id(), owner_id=owner, version=version, began_at=stamp(at), speakers=speakers
    )


def task(owner: str, version: int, status: str, *, task_id: str = "", at: datetime = NOON) -> TaskFigures:
    return TaskFigures(
        task_id=task_id or ids.new_id(), owner_id=owner, version=version, created_at=stamp(at), status=status
    )


def week(zone: str = "UTC") -> Period:
    return period("2026-11-21", "2026-11-27", zone, now=NOON)


async def tell(database: Database, *facts: MeetingFigures | TaskFigures) -> None:
    async with database.engine.begin() as connection:
        await figures_store.tell_meetings(connection, [one for one in facts if isinstance(one, MeetingFigures)])
        await figures_store.tell_tasks(connection, [one for one in facts if isinstance(one, TaskFigures)])


async def sums(database: Database, owner: str, asked: Period) -> tuple[int, float, int, int, int]:
    async with database.engine.connect() as connection:
        found = await figures_store.add_up(connection, owner, asked)
    days = found.days
    total = sum(day.words for day in days)
    assert total == sum(talk.words for talk in found.speakers)
    return (
        sum(day.meetings for day in days), sum(day.talk_s for day in days), total,
        sum(day.tasks_open for day in days), sum(day.tasks_done for day in days),
    )  # fmt: skip


async def test_facts_in_any_order_and_number_add_up_to_the_newest_of_each(database: Database) -> None:
    owner, first, second, gone = ids.new_id(), ids.new_id(), ids.new_id(), ids.new_id()
    facts: list[MeetingFigures | TaskFigures] = [
        meeting(owner, 1, meeting_id=first, Ann=10),
        meeting(owner, 2, meeting_id=first, Ann=12, Ben=5),
        meeting(owner, 3, meeting_id=first, Ben=7),
        meeting(owner, 4, meeting_id=second, Ann=1),
        meeting(owner, 5, meeting_id=gone, Ann=1000),
        MeetingFigures(meeting_id=gone, version=2, deleted=True),  # a clock that was set back
        meeting(owner, 9, meeting_id=gone, Ann=2000),
        task(owner, 1, "open", task_id=first),
        task(owner, 2, "done", task_id=first),
        task(owner, 1, "open", task_id=second),
        task(owner, 1, "open", task_id=gone),
        TaskFigures(task_id=gone, version=2, deleted=True),
    ]
    chance = random.Random(7)
    for _ in range(12):
        order = facts * 2
        chance.shuffle(order)
        for at in range(0, len(order), 5):
            await tell(database, *order[at : at + 5])
        assert await sums(database, owner, week()) == (2, 8.0, 8, 1, 1)
        async with database.engine.begin() as connection:
            for table in (figures_store.MEETINGS, figures_store.SPEAKERS, figures_store.TASKS):
                await connection.execute(table.delete())


async def test_a_meeting_counts_on_the_day_of_the_zone_on_which_it_began(database: Database) -> None:
    owner = ids.new_id()
    late = datetime(2026, 11, 25, 23, 30, tzinfo=UTC)
    await tell(
        database, meeting(owner, 1, at=late, Ann=3), task(owner, 1, "done", at=late), meeting(ids.new_id(), 1, Eve=99)
    )
    for zone, index in (("UTC", 4), ("Europe/Berlin", 5), ("America/New_York", 4)):
        async with database.engine.connect() as connection:
            found = await figures_store.add_up(connection, owner, week(zone))
        assert [(day.meetings, day.tasks_done) for day in found.days] == [
            (int(number == index), int(number == index)) for number in range(7)
        ]
    assert await sums(database, owner, period("2026-11-26", "2026-11-27", "UTC", now=NOON)) == (0, 0.0, 0, 0, 0)
    assert (await sums(database, owner, period("2026-11-26", "2026-11-27", "Europe/Berlin", now=NOON)))[0] == 1
    exact = period("2026-11-25T23:30:00Z", "2026-11-25T23:30:01Z", "UTC", now=NOON)
    assert (await sums(database, owner, exact))[0] == 1
    just_before = period("2026-11-25T23:29:00Z", "2026-11-25T23:30:00Z", "UTC", now=NOON)
    assert (await sums(database, owner, just_before))[0] == 0


async def test_facts_come_over_the_broker_and_nonsense_goes_to_the_dead_letters(
    database: Database, nats_server: NatsServer
) -> None:
    owner = ids.new_id()
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(bus.connect(nats_server.url, name="test", replicas=1))
        for stream in (outbox.EVENTS, DLQ):
            await broker.declare(stream)
        consuming = asyncio.create_task(FiguresConsumer(database, broker).run())
        stack.callback(consuming.cancel)
        door = await stack.enter_async_context(
            serving(analytics_pb2_grpc.add_AnalyticsServiceServicer_to_server, AnalyticsApi(database, lambda: NOON))
        )
        stub: Any = analytics_pb2_grpc.AnalyticsServiceStub(door.channel)

        async def ask(**asked: str) -> pb.Analytics:
            request = pb.GetAnalyticsRequest(owner_id=owner, **asked)
            answer: pb.GetAnalyticsResponse = await door.call(stub.GetAnalytics, request, timeout_s=5.0)
            return answer.analytics

        await broker.publish(MEETING, b"\xff", message_id=ids.new_id())
        await broker.publish(TASK, TaskFigures(task_id="x", version=1).SerializeToString(), message_id=ids.new_id())
        fact = meeting(owner, 1, Ann=4, Ben=6)
        for _ in range(3):
            await broker.publish(MEETING, fact.SerializeToString(), message_id=ids.new_id())
        await broker.publish(TASK, task(owner, 1, "open").SerializeToString(), message_id=ids.new_id())

        async def all_told() -> bool:
            found = await ask()
            return found.meetings == 1 and found.tasks_open == 1

        await eventually(all_told)
        found = await ask(time_zone="Europe/Berlin")
        assert (found.words, found.talk_s, [s.speaker for s in found.speakers]) == (10, 10.0, ["Ben", "Ann"])
        assert (len(found.days), found.days[-1].day, found.days[-1].meetings) == (30, "2026-11-27", 1)
        assert found.as_of.ToDatetime(UTC) == NOON
        assert (await broker.js.stream_info("DLQ")).state.messages >= 2
        with pytest.raises(AppError) as caught:
            await ask(to="never")
        assert caught.value.kind is Kind.VALIDATION_FAILED


async def test_what_is_left_of_the_deleted_goes_in_the_end(database: Database) -> None:
    owner, gone = ids.new_id(), ids.new_id()
    await tell(database, MeetingFigures(meeting_id=gone, version=1, deleted=True), meeting(owner, 1, Ann=1))
    long_ago = NOON - timedelta(days=365)
    async with database.engine.begin() as connection:
        m = figures_store.MEETINGS
        await connection.execute(m.update().where(m.c.meeting_id == gone).values(deleted_at=long_ago))
        for rule in figures_store.PRUNED:
            await connection.execute(rule.table.delete().where(rule.needless))
        left = (await connection.execute(sa.select(m.c.owner_id))).scalars().all()
    assert left == [owner]
