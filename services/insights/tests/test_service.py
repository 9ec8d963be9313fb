"""The service from its events to its answers, on real Postgres, NATS and gRPC."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any

import pytest
import sqlalchemy as sa
from verbatim.insights.v1 import insights_pb2

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.jobs import Status
from services.insights import store
from services.insights.language import OpenAILanguageModel, Reading
from services.insights.minutes import ActionItem, Minutes, Point
from services.insights.tests.conftest import House, eventually
from services.insights.tests.fakes import FakeOpenAI
from services.insights.tests.test_language import GOOD
from services.insights.writing import KIND, READY

LINES = [
    "we decided to move the launch of the website to september",
    "the design is finished and the customers like it",
    "anna will send the budget to the client by friday",
    "peter please write the test plan by next tuesday",
]


async def ready(house: House, owner_id: str, meeting_id: str) -> Any:
    async def there() -> bool:
        try:
            return bool((await house.insights(owner_id, meeting_id)).status == "ready")
        except AppError as fault:
            assert fault.kind is Kind.NOT_FOUND
            return False

    await eventually(there)
    return await house.insights(owner_id, meeting_id)


async def jobs(house: House) -> list[Any]:
    async with house.database.engine.connect() as connection:
        return list(await connection.execute(sa.select(store.JOBS).order_by(store.JOBS.c.id)))


@pytest.mark.req("R-API-3")
async def test_a_completed_meeting_gets_its_insights_and_they_are_told_of(house: House) -> None:
    house.work()
    owner_id, meeting_id = house.meetings.add(LINES)
    await house.completed(owner_id, meeting_id)
    insights = await ready(house, owner_id, meeting_id)
    assert (insights.quality, insights.engine, insights.version) == ("draft", "extractive", 1)
    assert [(p.text, list(p.segment_ids)) for p in insights.decisions] == [
        ("We decided to move the launch of the website to September.", ["s0"])
    ]
    assert [(i.assignee, i.text, i.due, list(i.segment_ids)) for i in insights.action_items] == [
        ("Anna", "Send the budget to the client", "2026-11-27", ["s2"]),
        ("Peter", "Write the test plan", "2026-12-01", ["s3"]),
    ]

    async def told() -> bool:
        return await house.messages(READY) == 1

    await eventually(told)
    [message] = [await house.bus.js.get_last_msg("EVENTS", READY)]
    event = insights_pb2.InsightsReady.FromString(message.data or b"")
    assert (event.meeting_id, event.owner_id, event.quality) == (meeting_id, owner_id, "draft")
    assert list(event.action_items) == list(insights.action_items)


@pytest.mark.req("R-DB-4")
async def test_an_event_delivered_twice_makes_one_job(house: House) -> None:
    """Handled again when its job is done: only the inbox can know that it is not a new one."""
    house.work()
    owner_id, meeting_id = house.meetings.add(LINES)
    await house.completed(owner_id, meeting_id, "e1")
    await ready(house, owner_id, meeting_id)
    other = await house.bus.js.pull_subscribe("events.meeting.completed", durable="again", stream="EVENTS")
    [message] = await other.fetch(1)
    await house.events.handle([message, message])
    assert len(await jobs(house)) == 1


@pytest.mark.req("R-API-3")
async def test_a_meeting_completed_again_gets_its_insights_again(house: House) -> None:
    house.work()
    owner_id, meeting_id = house.meetings.add(LINES)
    await house.completed(owner_id, meeting_id)
    await ready(house, owner_id, meeting_id)
    await house.completed(owner_id, meeting_id)

    async def second() -> bool:
        return bool((await house.insights(owner_id, meeting_id)).version == 2)

    await eventually(second)


async def test_a_deleted_meeting_leaves_nothing(house: House) -> None:
    house.work()
    owner_id, meeting_id = house.meetings.add(LINES)
    await house.completed(owner_id, meeting_id)
    await ready(house, owner_id, meeting_id)
    other = house.meetings.add(LINES)
    await house.completed(*other)
    await ready(house, *other)

    async def told() -> bool:
        return await house.messages(READY) == 2

    await eventually(told)
    await house.deleted(owner_id, meeting_id)

    async def gone() -> bool:
        try:
            await house.insights(owner_id, meeting_id)
        except AppError as fault:
            return fault.kind is Kind.NOT_FOUND and await house.messages(READY) == 1
        return False

    # What was told of it holds words too: it goes from the stream and from the outbox.
    await eventually(gone)
    left = await house.bus.js.get_last_msg("EVENTS", READY)
    assert insights_pb2.InsightsReady.FromString(left.data or b"").meeting_id == other[1]
    assert {job.key for job in await jobs(house)} == {other[1]}
    async with house.database.engine.connect() as connection:
        rows = await connection.execute(sa.select(store.OUTBOX.c.aggregate).where(store.OUTBOX.c.subject == READY))
        assert [row.aggregate for row in rows] == [other[1]]


async def test_an_event_that_makes_no_sense_goes_to_the_dead_letters_and_holds_nothing_up(house: House) -> None:
    house.work()
    await house.bus.publish("events.meeting.completed", b"\xff\xff\xff", message_id="bad-1")
    await house.bus.publish("events.meeting.completed", b"", message_id="bad-2")
    await house.bus.publish("events.meeting.renamed", b"\xff", message_id="unknown")
    owner_id, meeting_id = house.meetings.add(LINES)
    await house.completed(owner_id, meeting_id)
    await ready(house, owner_id, meeting_id)
    assert (await house.bus.js.stream_info("DLQ")).state.messages == 2


@pytest.mark.req("R-AUTH-2")
async def test_what_is_anothers_is_not_found(house: House) -> None:
    house.work()
    owner_id, meeting_id = house.meetings.add(LINES)
    stranger = ids.new_id()
    job = await house.request(owner_id, meeting_id)
    await ready(house, owner_id, meeting_id)
    for call in (
        house.insights(stranger, meeting_id),
        house.request(stranger, meeting_id),
        house.job(stranger, job.id),
        house.job(owner_id, "no id"),
        house.job(owner_id, ids.new_id()),
        house.insights(owner_id, ids.new_id()),
    ):
        with pytest.raises(AppError) as caught:
            await call
        assert caught.value.kind is Kind.NOT_FOUND
    assert len(await jobs(house)) == 1


async def test_insights_are_pending_while_a_job_is_under_way_and_asking_again_joins_it(house: House) -> None:
    owner_id, meeting_id = house.meetings.add(LINES)
    first = await house.request(owner_id, meeting_id)
    assert (first.status, first.attempts, first.max_attempts) == ("pending", 0, 3)
    assert (await house.insights(owner_id, meeting_id)).status == "pending"
    assert (await house.request(owner_id, meeting_id)).id == first.id
    house.work()
    await ready(house, owner_id, meeting_id)
    done = await house.job(owner_id, first.id)
    assert (done.status, done.progress, done.kind) == ("completed", 1.0, "insights")
    again = await house.request(owner_id, meeting_id)
    assert again.id != first.id

    async def second() -> bool:
        return bool((await house.insights(owner_id, meeting_id)).version == 2)

    await eventually(second)


@pytest.mark.req("R-JOB-1")
async def test_a_job_is_cancelled_by_its_owner_only_and_asked_for_anew(house: House) -> None:
    owner_id, meeting_id = house.meetings.add(LINES)
    job = await house.request(owner_id, meeting_id)
    with pytest.raises(AppError) as caught:
        await house.cancel(ids.new_id(), job.id)
    assert caught.value.kind is Kind.NOT_FOUND
    assert (await house.cancel(owner_id, job.id)).status == "failed"
    with pytest.raises(AppError) as caught:
        await house.cancel(owner_id, job.id)
    assert caught.value.kind is Kind.CONFLICT
    house.work()
    again = await house.request(owner_id, meeting_id)
    assert again.id != job.id
    await eventually(lambda: job_is(house, owner_id, again.id, Status.COMPLETED))


async def test_a_meeting_that_is_gone_when_its_job_begins_fails_and_troubles_no_operator(house: House) -> None:
    owner_id, meeting_id = house.meetings.add(LINES)
    job = await house.request(owner_id, meeting_id)
    house.meetings.meetings.clear()
    house.work()
    await eventually(lambda: job_is(house, owner_id, job.id, Status.FAILED))
    assert (await house.insights(owner_id, meeting_id)).status == "failed"
    assert (await house.bus.js.stream_info("DLQ")).state.messages == 0


async def job_is(house: House, owner_id: str, job_id: str, status: Status) -> bool:
    return bool((await house.job(owner_id, job_id)).status == status.value)


async def test_meetings_that_fail_for_a_while_cost_attempts_and_nothing_else(house: House) -> None:
    owner_id, meeting_id = house.meetings.add(LINES)
    job = await house.request(owner_id, meeting_id)
    house.meetings.faults += [AppError(Kind.UNAVAILABLE, "Busy.", retry_after_s=0.0)] * 2
    house.work()
    await eventually(lambda: job_is(house, owner_id, job.id, Status.COMPLETED))
    assert (await house.job(owner_id, job.id)).attempts == 3


async def test_meetings_that_stay_away_kill_the_job_visibly(house: House) -> None:
    owner_id, meeting_id = house.meetings.add(LINES)
    job = await house.request(owner_id, meeting_id)
    house.meetings.faults += [AppError(Kind.UNAVAILABLE, "Busy.", retry_after_s=0.0)] * 9
    house.work()
    await eventually(lambda: job_is(house, owner_id, job.id, Status.DEAD))
    assert (await house.job(owner_id, job.id)).error == "Busy."
    assert (await house.insights(owner_id, meeting_id)).status == "failed"


@pytest.mark.req("R-API-3")
async def test_a_language_model_writes_final_minutes(house: House) -> None:
    async with FakeOpenAI([GOOD]).running() as server:
        house.work(model(server))
        owner_id, meeting_id = house.meetings.add(LINES)
        await house.completed(owner_id, meeting_id)
        insights = await ready(house, owner_id, meeting_id)
    assert (insights.quality, insights.engine, insights.summary) == ("final", "m", "The merger is off.")
    assert [list(item.segment_ids) for item in insights.action_items] == [["s1"]]


@pytest.mark.req("R-API-3")
async def test_a_model_that_fails_in_every_attempt_leaves_a_draft(house: House) -> None:
    async with FakeOpenAI([(500, {}, b"{}")]).running() as server:
        house.work(model(server))
        owner_id, meeting_id = house.meetings.add(LINES)
        job = await house.request(owner_id, meeting_id)
        await eventually(lambda: job_is(house, owner_id, job.id, Status.COMPLETED))
        assert len(server.requests) == 3
    assert (await house.insights(owner_id, meeting_id)).quality == "draft"


async def test_a_model_that_refuses_us_leaves_a_draft_at_once(house: House) -> None:
    async with FakeOpenAI([(401, {}, b"{}")]).running() as server:
        house.work(model(server))
        owner_id, meeting_id = house.meetings.add(LINES)
        await house.completed(owner_id, meeting_id)
        insights = await ready(house, owner_id, meeting_id)
        assert len(server.requests) == 1
    assert insights.quality == "draft"


async def test_a_model_that_recovers_is_used(house: House) -> None:
    async with FakeOpenAI(["nonsense", GOOD]).running() as server:
        house.work(model(server))
        owner_id, meeting_id = house.meetings.add(LINES)
        await house.completed(owner_id, meeting_id)
        insights = await ready(house, owner_id, meeting_id)
    assert insights.quality == "final"


def model(server: FakeOpenAI, reading: Reading = Reading()) -> OpenAILanguageModel:  # noqa: B008 - it is frozen
    return OpenAILanguageModel(api_key="k", base_url=server.url, model="m", timeout_s=3.0, reading=reading)


async def test_a_meeting_without_words_gets_empty_insights(house: House) -> None:
    house.work()
    owner_id, meeting_id = house.meetings.add([])
    await house.completed(owner_id, meeting_id)
    insights = await ready(house, owner_id, meeting_id)
    assert (insights.summary, list(insights.action_items)) == ("", [])


MINUTES = Minutes(
    "Sum.", (Point("P.", ("a",)),), (Point("D.", ("b",)),),
    (ActionItem("T", "Anna", date(2026, 11, 27), ("a", "b")), ActionItem("U", "", None, ("a",))), "draft", "extractive",
)  # fmt: skip


async def test_minutes_come_out_of_the_store_as_they_went_in(house: House) -> None:
    async with house.database.engine.begin() as connection:
        assert await store.put(connection, "m", "o", MINUTES, job_id="1")
        stored = await store.get(connection, "m", "o")
        assert stored is not None
        assert (stored.minutes, stored.version) == (MINUTES, 1)
        assert await store.get(connection, "m", "another") is None


async def test_an_earlier_job_does_not_overwrite_what_a_later_one_stored(house: House) -> None:
    async with house.database.engine.begin() as connection:
        assert await store.put(connection, "m", "o", MINUTES, job_id="2")
        assert not await store.put(connection, "m", "o", MINUTES, job_id="1")
        assert await store.put(connection, "m", "o", MINUTES, job_id="3")
        stored = await store.get(connection, "m", "o")
        assert stored is not None
        assert stored.version == 2


@pytest.mark.req("R-DB-5")
async def test_the_migrations_make_the_tables_that_the_code_uses(house: House) -> None:
    def columns(connection: sa.Connection) -> dict[str, set[tuple[str, bool]]]:
        inspector = sa.inspect(connection)
        return {
            table: {(column["name"], column["nullable"]) for column in inspector.get_columns(table)}
            for table in store.METADATA.tables
        }

    async with house.database.engine.connect() as connection:
        found = await connection.run_sync(columns)
    assert found == {
        name: {(column.name, bool(column.nullable)) for column in table.columns}
        for name, table in store.METADATA.tables.items()
    }


async def test_many_meetings_completed_at_once_each_get_insights_and_one_event(house: House) -> None:
    house.work()
    known = [house.meetings.add(LINES) for _ in range(20)]
    await asyncio.gather(*(house.completed(*both) for both in known))
    for owner_id, meeting_id in known:
        await ready(house, owner_id, meeting_id)

    async def told() -> bool:
        return await house.messages(READY) == len(known)

    await eventually(told)
    assert {row.kind for row in await jobs(house)} == {KIND}
