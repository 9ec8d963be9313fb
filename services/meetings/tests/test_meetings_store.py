from __future__ import annotations

import asyncio
import datetime as dt

import pytest
import sqlalchemy as sa
from verbatim.meetings.v1.events_pb2 import MeetingDeleted

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.meetings import store
from services.meetings.meetings import Meeting, MeetingFilter, meeting_change, meeting_filter, new_meeting
from services.meetings.meetings_store import MeetingsStore
from services.meetings.segments_store import SegmentsStore
from services.meetings.tasks import new_task
from services.meetings.tasks_store import TasksStore
from services.meetings.tests.logbook import Logbook, meeting_log, numbered
from services.meetings.transcript_store import TranscriptStore

EVERY = MeetingFilter()


async def create(meetings: MeetingsStore, owner: str, title: str = "Weekly") -> Meeting:
    return await meetings.create(new_meeting(ids.new_id(), owner, title=title, language="", participants=[]))


async def every(meetings: MeetingsStore, owner: str, wanted: MeetingFilter = EVERY, size: int = 50) -> list[str]:
    found, cursor = [], ""
    while True:
        page = await meetings.list(owner, wanted, size, cursor)
        found += [meeting.id for meeting in page.items]
        if not page.next_cursor:
            return found
        cursor = page.next_cursor


@pytest.mark.req("R-API-1")
async def test_created_meeting_is_read_back(meetings: MeetingsStore, owner: str) -> None:
    new = new_meeting(ids.new_id(), owner, title=" Plan\u0000ning ", language="de-AT", participants=["Ann", "", "Ann"])
    created = await meetings.create(new)
    assert await meetings.get(owner, new.id) == created
    assert (created.title, created.language, created.participants) == ("Planning", "de-AT", ("Ann",))
    assert (created.status, created.version, created.coverage) == ("created", 1, None)


@pytest.mark.req("R-API-6")
async def test_create_that_is_repeated_creates_once(meetings: MeetingsStore, owner: str) -> None:
    new = new_meeting(ids.new_id(), owner, title="Once", language="", participants=[])
    results = await asyncio.gather(*(meetings.create(new) for _ in range(8)))
    assert len({result.created_at for result in results}) == 1
    assert await every(meetings, owner) == [new.id]


@pytest.mark.req("R-AUTH-2")
async def test_id_of_somebody_elses_meeting_cannot_be_taken(meetings: MeetingsStore, owner: str) -> None:
    mine = await create(meetings, owner)
    with pytest.raises(AppError) as caught:
        await meetings.create(new_meeting(mine.id, ids.new_id(), title="Mine", language="", participants=[]))
    assert caught.value.kind == Kind.CONFLICT


@pytest.mark.req("R-AUTH-2")
async def test_meeting_of_another_is_not_there(
    meetings: MeetingsStore, segments: SegmentsStore, tasks: TasksStore, owner: str
) -> None:
    mine, other = await create(meetings, owner), ids.new_id()
    task = new_task(ids.new_id(), other, title="x", meeting_id=mine.id, assignee="", due="", source_segment_id="")
    calls = [
        meetings.get(other, mine.id),
        meetings.update(other, mine.id, 1, meeting_change("Taken", None, None)),
        meetings.delete(other, mine.id, 1),
        segments.list(other, mine.id, 50, ""),
        segments.gaps(other, mine.id),
        tasks.create(task),
    ]
    for call in calls:
        with pytest.raises(AppError) as caught:
            await call
        assert caught.value.kind == Kind.NOT_FOUND
    with pytest.raises(AppError):
        _ = [s async for s in segments.transcript(other, mine.id)]
    assert await every(meetings, other) == []
    assert await meetings.get(owner, mine.id) == mine


@pytest.mark.req("R-API-1")
async def test_pages_neither_skip_nor_double_while_meetings_are_added(meetings: MeetingsStore, owner: str) -> None:
    before = [(await create(meetings, owner)).id for _ in range(23)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = await meetings.list(owner, EVERY, 5, cursor)
        seen += [meeting.id for meeting in page.items]
        await create(meetings, owner)
        if not page.next_cursor:
            break
        cursor = page.next_cursor
    assert seen == before[::-1]


@pytest.mark.req("R-API-1")
async def test_meetings_of_one_instant_are_paged_by_id(meetings: MeetingsStore, database: Database, owner: str) -> None:
    made = [(await create(meetings, owner)).id for _ in range(9)]
    async with database.engine.begin() as connection:
        await connection.execute(store.meetings.update().values(created_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)))
    assert await every(meetings, owner, size=2) == sorted(made, reverse=True)


async def test_cursor_is_good_for_its_own_list_only(meetings: MeetingsStore, owner: str) -> None:
    for _ in range(3):
        await create(meetings, owner)
    cursor = (await meetings.list(owner, EVERY, 1, "")).next_cursor
    for who, wanted, offered in (
        (owner, EVERY, cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")),
        (owner, EVERY, "not a cursor"),
        (owner, MeetingFilter(query="x"), cursor),
        (ids.new_id(), EVERY, cursor),
    ):
        with pytest.raises(AppError) as caught:
            await meetings.list(who, wanted, 1, offered)
        assert caught.value.kind == Kind.VALIDATION_FAILED
        assert caught.value.details[0].field == "cursor"


@pytest.mark.req("R-API-1")
async def test_creation_time_filters_from_inclusive_to_exclusive(
    meetings: MeetingsStore, database: Database, owner: str
) -> None:
    days = [dt.datetime(2026, 11, day, tzinfo=dt.UTC) for day in (1, 2, 3)]
    made = [(await create(meetings, owner)).id for _ in days]
    async with database.engine.begin() as connection:
        for meeting_id, day in zip(made, days, strict=True):
            await connection.execute(
                store.meetings.update().where(store.meetings.c.id == meeting_id).values(created_at=day)
            )
    assert await every(meetings, owner, MeetingFilter(created_from=days[0], created_to=days[2])) == made[1::-1]


@pytest.mark.req("R-API-1")
async def test_a_status_filters_lists_and_searches(meetings: MeetingsStore, database: Database, owner: str) -> None:
    made = [(await create(meetings, owner)).id for _ in range(3)]
    async with database.engine.begin() as connection:
        await connection.execute(
            store.meetings.update().where(store.meetings.c.id == made[1]).values(status="completed", title="budget")
        )
        await connection.execute(store.meetings.update().where(store.meetings.c.id == made[2]).values(title="budget"))
    assert await every(meetings, owner, MeetingFilter(status="completed")) == [made[1]]
    assert await every(meetings, owner, MeetingFilter(status="created"), size=1) == [made[2], made[0]]
    assert await every(meetings, owner, MeetingFilter(query="budget", status="completed")) == [made[1]]
    assert sorted(await every(meetings, owner, MeetingFilter(query="budget"))) == sorted(made[1:])
    with pytest.raises(AppError) as caught:
        meeting_filter("", None, None, "sleeping")
    assert caught.value.details[0].field == "status"


@pytest.mark.req("R-API-5")
async def test_of_twenty_editors_with_one_version_one_wins(meetings: MeetingsStore, owner: str) -> None:
    meeting = await create(meetings, owner)

    async def edit(number: int) -> str:
        try:
            await meetings.update(owner, meeting.id, 1, meeting_change(f"Title {number}", None, None))
        except AppError as error:
            assert (error.kind, error.version) == (Kind.PRECONDITION_FAILED, 2)
            return "lost"
        return f"Title {number}"

    results = await asyncio.gather(*(edit(number) for number in range(20)))
    winner = [result for result in results if result != "lost"]
    now = await meetings.get(owner, meeting.id)
    assert winner == [now.title]
    assert now.version == 2


@pytest.mark.req("R-API-5")
async def test_twenty_editors_who_try_again_all_get_through(meetings: MeetingsStore, owner: str) -> None:
    meeting = await create(meetings, owner)

    async def edit(number: int) -> None:
        version = 1
        while True:
            try:
                await meetings.update(owner, meeting.id, version, meeting_change(f"Title {number}", None, None))
                return
            except AppError as error:
                assert error.version is not None
                version = error.version

    await asyncio.gather(*(edit(number) for number in range(20)))
    assert (await meetings.get(owner, meeting.id)).version == 21


async def test_change_leaves_alone_what_it_does_not_name(meetings: MeetingsStore, owner: str) -> None:
    new = new_meeting(ids.new_id(), owner, title="Plan", language="en", participants=["Ann"])
    await meetings.create(new)
    changed = await meetings.update(owner, new.id, 1, meeting_change(None, None, []))
    assert (changed.title, changed.language, changed.participants, changed.version) == ("Plan", "en", (), 2)


@pytest.mark.req("R-API-1")
async def test_search_finds_words_of_title_and_transcript(
    meetings: MeetingsStore, transcripts: TranscriptStore, owner: str
) -> None:
    titled = await create(meetings, owner, "Quarterly budget")
    spoken = Logbook(owner, title="Weekly")
    spoken.say("The budget of the harbour is spent")
    elsewhere = Logbook(ids.new_id(), title="Budget of others")
    elsewhere.say("budget")
    await transcripts.apply(numbered([*spoken.entries, *elsewhere.entries]))

    async def found(query: str) -> set[str]:
        return set(await every(meetings, owner, MeetingFilter(query=query)))

    assert await found("BUDGET") == {titled.id, spoken.meeting_id}
    assert await found("harbour budget") == {spoken.meeting_id}
    assert await found('"harbour is spent"') == {spoken.meeting_id}
    assert await found("budget -harbour") == {titled.id}
    assert await found("nothing like it") == set()
    for odd in ("'", "& | !", "%';DROP TABLE meetings;--", "\\", '"', "a:*"):
        await found(odd)


@pytest.mark.req("R-API-1")
async def test_deleted_meeting_takes_everything_along_and_tells_of_it(
    meetings: MeetingsStore, tasks: TasksStore, transcripts: TranscriptStore, database: Database, owner: str
) -> None:
    log, kept = meeting_log(owner), meeting_log(owner)
    await transcripts.apply(numbered([*log.entries, *kept.entries]))
    task = new_task(
        ids.new_id(), owner, title="x", meeting_id=log.meeting_id, assignee="", due="", source_segment_id=""
    )
    await tasks.create(task)
    await meetings.delete(owner, log.meeting_id, 1)
    assert await every(meetings, owner) == [kept.meeting_id]
    async with database.engine.connect() as connection:
        for table in (store.sessions, store.segments, store.gaps, store.suppressed):
            left = set((await connection.execute(sa.select(table.c.meeting_id))).scalars())
            assert left == {kept.meeting_id}, table.name
        assert (await connection.execute(sa.select(sa.func.count()).select_from(store.tasks))).scalar_one() == 0
        query = sa.select(store.outbox_rows.c.payload).where(store.outbox_rows.c.subject == "events.meeting.deleted")
        payload = (await connection.execute(query)).scalar_one()
    fact = MeetingDeleted.FromString(payload)
    assert (fact.meeting_id, fact.owner_id, list(fact.session_ids)) == (log.meeting_id, owner, [log.session_id])


@pytest.mark.req("R-API-5")
async def test_delete_with_an_old_version_deletes_nothing(meetings: MeetingsStore, owner: str) -> None:
    meeting = await create(meetings, owner)
    await meetings.update(owner, meeting.id, 1, meeting_change("New", None, None))
    with pytest.raises(AppError) as caught:
        await meetings.delete(owner, meeting.id, 1)
    assert (caught.value.kind, caught.value.version) == (Kind.PRECONDITION_FAILED, 2)
    assert (await meetings.get(owner, meeting.id)).title == "New"


async def test_id_of_a_deleted_meeting_is_not_used_again(meetings: MeetingsStore, owner: str) -> None:
    meeting = await create(meetings, owner)
    await meetings.delete(owner, meeting.id, 1)
    with pytest.raises(AppError) as caught:
        await meetings.create(new_meeting(meeting.id, owner, title="Back", language="", participants=[]))
    assert caught.value.kind == Kind.CONFLICT


@pytest.mark.req("R-VAL-1")
def test_everything_wrong_with_a_meeting_is_told_at_once() -> None:
    with pytest.raises(AppError) as caught:
        new_meeting("1", "2", title=" ", language="english!", participants=["x" * 101])
    assert caught.value.kind == Kind.VALIDATION_FAILED
    fields = [problem.field for problem in caught.value.details]
    assert fields == ["meeting_id", "owner_id", "title", "language", "participants"]
