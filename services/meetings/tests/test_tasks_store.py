from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from verbatim.insights.v1.insights_pb2 import ActionItem

from chassis import ids
from chassis.errors import AppError, Kind
from services.meetings.meetings import new_meeting
from services.meetings.meetings_store import MeetingsStore
from services.meetings.tasks import NewTask, found_tasks, likeness, new_task, task_change
from services.meetings.tasks_store import TasksStore


def plain(owner: str, title: str = "Write the report", **more: str) -> NewTask:
    fields = {"meeting_id": "", "assignee": "", "due": "", "source_segment_id": "", **more}
    return new_task(ids.new_id(), owner, title=title, **fields)


@pytest.fixture
async def meeting_id(meetings: MeetingsStore, owner: str) -> str:
    new = new_meeting(ids.new_id(), owner, title="Weekly", language="", participants=[])
    return (await meetings.create(new)).id


ITEMS = [
    ActionItem(text="Ben writes the report", assignee="Ben", due="2026-11-27", segment_ids=["s-1", "s-2"]),
    ActionItem(text="Book a room", due="soon", segment_ids=["s-3"]),
]


@pytest.mark.req("R-API-2")
async def test_created_task_is_read_back(tasks: TasksStore, meeting_id: str, owner: str) -> None:
    new = plain(owner, meeting_id=meeting_id, assignee="Ann", due="2026-11-27", source_segment_id="s-1")
    created = await tasks.create(new)
    assert created == await tasks.get(owner, new.id) == await tasks.create(new)
    assert (created.due, created.status, created.version) == (dt.date(2026, 11, 27), "open", 1)


@pytest.mark.req("R-AUTH-2")
async def test_task_of_another_is_not_there(tasks: TasksStore, owner: str) -> None:
    mine, other = await tasks.create(plain(owner)), ids.new_id()
    change = task_change(title="Taken", assignee=None, due=None, status=None)
    for call in (tasks.get(other, mine.id), tasks.update(other, mine.id, 1, change), tasks.delete(other, mine.id, 1)):
        with pytest.raises(AppError) as caught:
            await call
        assert caught.value.kind == Kind.NOT_FOUND
    assert (await tasks.list(other, "", "", 50, "")).items == []
    assert await tasks.get(owner, mine.id) == mine


@pytest.mark.req("R-API-5")
async def test_of_twenty_editors_of_a_task_one_wins(tasks: TasksStore, owner: str) -> None:
    task = await tasks.create(plain(owner))

    async def edit(number: int) -> int:
        try:
            change = task_change(title=None, assignee=f"Person {number}", due=None, status=None)
            await tasks.update(owner, task.id, 1, change)
        except AppError as error:
            assert (error.kind, error.version) == (Kind.PRECONDITION_FAILED, 2)
            return 0
        return 1

    assert sum(await asyncio.gather(*(edit(number) for number in range(20)))) == 1


@pytest.mark.req("R-API-2")
async def test_task_is_completed_and_loses_its_day(tasks: TasksStore, owner: str) -> None:
    task = await tasks.create(plain(owner, due="2026-11-27"))
    done = await tasks.update(owner, task.id, 1, task_change(title=None, assignee=None, due="", status="done"))
    assert (done.status, done.due, done.title, done.version) == ("done", None, task.title, 2)


@pytest.mark.req("R-API-2")
async def test_tasks_are_listed_by_meeting_and_status_in_pages(tasks: TasksStore, meeting_id: str, owner: str) -> None:
    made = [await tasks.create(plain(owner, f"Task {n}", meeting_id=meeting_id if n % 2 else "")) for n in range(7)]
    await tasks.update(owner, made[1].id, 1, task_change(title=None, assignee=None, due=None, status="done"))
    seen, cursor = [], ""
    while True:
        page = await tasks.list(owner, "", "", 2, cursor)
        seen += [task.id for task in page.items]
        await tasks.create(plain(ids.new_id(), "of another"))
        if not (cursor := page.next_cursor):
            break
    assert seen == [task.id for task in made[::-1]]
    of_meeting = await tasks.list(owner, meeting_id, "", 50, "")
    assert [task.id for task in of_meeting.items] == [made[5].id, made[3].id, made[1].id]
    open_ones = await tasks.list(owner, meeting_id, "open", 50, "")
    assert [task.id for task in open_ones.items] == [made[5].id, made[3].id]


@pytest.mark.req("R-API-2")
async def test_found_tasks_arrive_with_their_source(tasks: TasksStore, meeting_id: str, owner: str) -> None:
    assert await tasks.store_found("m-1", owner, meeting_id, found_tasks(meeting_id, owner, ITEMS)) == 2
    found = {task.title: task for task in (await tasks.list(owner, meeting_id, "", 50, "")).items}
    report, room = found["Ben writes the report"], found["Book a room"]
    assert (report.assignee, report.due, report.source_segment_id) == ("Ben", dt.date(2026, 11, 27), "s-1")
    assert (room.assignee, room.due, room.source_segment_id) == ("", None, "s-3")


@pytest.mark.req("R-DB-4")
async def test_found_tasks_that_come_again_are_stored_once(tasks: TasksStore, meeting_id: str, owner: str) -> None:
    found = found_tasks(meeting_id, owner, ITEMS)
    counts = [await tasks.store_found(message, owner, meeting_id, found) for message in ("m-1", "m-1", "m-2")]
    assert counts == [2, 0, 0]
    assert [task.version for task in (await tasks.list(owner, "", "", 50, "")).items] == [1, 1]


@pytest.mark.req("R-API-2")
async def test_task_that_a_person_changed_or_deleted_stays_so(tasks: TasksStore, meeting_id: str, owner: str) -> None:
    found = found_tasks(meeting_id, owner, ITEMS)
    await tasks.store_found("m-1", owner, meeting_id, found)
    change = task_change(title=None, assignee="Ann", due=None, status=None)
    changed = await tasks.update(owner, found[0].id, 1, change)
    await tasks.delete(owner, found[1].id, 1)
    assert await tasks.store_found("m-2", owner, meeting_id, found) == 0
    assert (await tasks.list(owner, "", "", 50, "")).items == [changed]


@pytest.mark.req("R-API-2")
async def test_better_insights_correct_a_task_that_nobody_touched(
    tasks: TasksStore, meeting_id: str, owner: str
) -> None:
    await tasks.store_found("m-1", owner, meeting_id, found_tasks(meeting_id, owner, ITEMS))
    better = [ActionItem(text="Book a room!", assignee="Ann", due="2026-11-25", segment_ids=["s-3"])]
    assert await tasks.store_found("m-2", owner, meeting_id, found_tasks(meeting_id, owner, better)) == 1
    found = {task.source_segment_id: task for task in (await tasks.list(owner, "", "", 50, "")).items}
    room = found["s-3"]
    assert (room.title, room.assignee, room.due, room.version) == ("Book a room!", "Ann", dt.date(2026, 11, 25), 2)


async def test_tasks_of_a_meeting_that_is_gone_or_anothers_are_not_stored(
    tasks: TasksStore, meetings: MeetingsStore, meeting_id: str, owner: str
) -> None:
    stranger = ids.new_id()
    assert await tasks.store_found("m-0", stranger, meeting_id, found_tasks(meeting_id, stranger, ITEMS)) == 0
    await meetings.delete(owner, meeting_id, 1)
    assert await tasks.store_found("m-1", owner, meeting_id, found_tasks(meeting_id, owner, ITEMS)) == 0


def test_what_a_model_says_is_taken_with_care() -> None:
    meeting, owner = ids.new_id(), ids.new_id()
    items = [
        ActionItem(text=" \0\n "),
        ActionItem(text="x" * 10_000, assignee="y" * 10_000, due="2026-02-31"),
        ActionItem(text="Book  a\nroom"),
        ActionItem(text="book a room."),
    ]
    long, room = found_tasks(meeting, owner, items)
    assert (len(long.title), len(long.assignee), long.due) == (500, 100, None)
    assert room.title == "book a room."


@pytest.mark.req("R-VAL-1")
def test_everything_wrong_with_a_task_is_told_at_once() -> None:
    with pytest.raises(AppError) as caught:
        new_task("x", "y", title="", meeting_id="z", assignee="a" * 101, due="27.11.2026", source_segment_id="")
    fields = [problem.field for problem in caught.value.details]
    assert fields == ["task_id", "owner_id", "title", "meeting_id", "assignee", "due"]
    with pytest.raises(AppError) as caught:
        task_change(title="", assignee=None, due="2026-13-01", status="later")
    assert [problem.field for problem in caught.value.details] == ["title", "due", "status"]


HEALED = [
    ActionItem(text="Ben writes the annual report", assignee="Ben", due="2026-11-27", segment_ids=["s-1"]),
    ActionItem(text="Book the big room", assignee="Ann", segment_ids=["s-2", "s-3"]),
]


@pytest.mark.req("R-STT-5", "R-API-2")
async def test_tasks_of_a_healed_transcript_replace_those_of_its_drafts_and_keep_their_ids(
    tasks: TasksStore, meeting_id: str, owner: str
) -> None:
    drafted = [*ITEMS, ActionItem(text="Feed the bucket", segment_ids=["s-9"])]
    await tasks.store_found("m-1", owner, meeting_id, found_tasks(meeting_id, owner, drafted), version=1)
    before = {task.source_segment_id: task for task in (await tasks.list(owner, "", "", 50, "")).items}
    healed = found_tasks(meeting_id, owner, HEALED)
    assert await tasks.store_found("m-2", owner, meeting_id, healed, version=2) == 2
    after = {task.source_segment_id: task for task in (await tasks.list(owner, "", "", 50, "")).items}
    assert {task.title for task in after.values()} == {"Ben writes the annual report", "Book the big room"}
    assert (after["s-1"].id, after["s-1"].version) == (before["s-1"].id, 2)
    assert after["s-2"].id == before["s-3"].id  # it rests on one segment more now
    assert await tasks.store_found("m-3", owner, meeting_id, healed, version=3) == 0


@pytest.mark.req("R-STT-5", "R-API-2")
async def test_healing_leaves_alone_what_a_person_changed_or_deleted_and_doubles_nothing(
    tasks: TasksStore, meeting_id: str, owner: str
) -> None:
    found = found_tasks(meeting_id, owner, ITEMS)
    await tasks.store_found("m-1", owner, meeting_id, found, version=1)
    change = task_change(title="Ben: the report!", assignee=None, due=None, status="done")
    changed = await tasks.update(owner, found[0].id, 1, change)
    await tasks.delete(owner, found[1].id, 1)
    own = await tasks.create(plain(owner, "Call the landlord", meeting_id=meeting_id, source_segment_id="s-3"))
    more = [*HEALED, ActionItem(text="Bring cake", segment_ids=["s-3"])]
    assert await tasks.store_found("m-2", owner, meeting_id, found_tasks(meeting_id, owner, more), version=2) == 1
    after = {task.title: task for task in (await tasks.list(owner, "", "", 50, "")).items}
    assert after["Ben: the report!"] == changed
    assert after["Call the landlord"] == own
    # One of the two that rest on the deleted one's segment stands for it; which, nobody can know.
    assert len(after) == 3


@pytest.mark.req("R-STT-5", "R-DB-4")
async def test_minutes_that_come_late_do_not_undo_newer_ones(tasks: TasksStore, meeting_id: str, owner: str) -> None:
    healed, drafted = found_tasks(meeting_id, owner, HEALED), found_tasks(meeting_id, owner, ITEMS)
    await tasks.store_found("m-2", owner, meeting_id, healed, version=2)
    assert await tasks.store_found("m-1", owner, meeting_id, drafted, version=1) == 0
    titles = {task.title for task in (await tasks.list(owner, "", "", 50, "")).items}
    assert titles == {task.title for task in healed}


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [("Send the budget", "send the Budget!", 1.0), ("Send it", "Book a room", 0.0), ("", "Book a room", 0.0)],
)
def test_titles_are_alike_by_their_words(one: str, other: str, alike: float) -> None:
    assert likeness(one, other) == alike
