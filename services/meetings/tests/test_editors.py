"""Many editors of one thing: who loses reads again and tries again, and no edit is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.meetings.edits import segment_change
from services.meetings.edits_store import EditsStore
from services.meetings.meetings import meeting_change, new_meeting
from services.meetings.meetings_store import MeetingsStore
from services.meetings.paging import Cursors
from services.meetings.tasks import new_task, task_change
from services.meetings.tasks_store import TasksStore
from services.meetings.tests.logbook import Logbook, numbered
from services.meetings.transcript_store import TranscriptStore

pytestmark = pytest.mark.req("R-API-5")

EDITORS = 50


async def edit_all(read: Callable[[], Awaitable[tuple[int, str]]], write: Callable[[int, str], Awaitable[None]]) -> int:
    """Let fifty editors each add their number to a text, as often as it takes. Returns how often one lost."""
    lost = 0

    async def edit(number: int) -> None:
        nonlocal lost
        while True:
            version, text = await read()
            try:
                await write(version, f"{text},{number}")
            except AppError as fault:
                assert fault.kind is Kind.PRECONDITION_FAILED
                assert fault.version is not None
                assert fault.version > version
                lost += 1
            else:
                return

    await asyncio.gather(*(edit(number) for number in range(EDITORS)))
    return lost


async def test_no_edit_of_a_meeting_is_lost(database: Database, cursors: Cursors, owner: str) -> None:
    store = MeetingsStore(database.patient(), cursors)
    made = await store.create(new_meeting(ids.new_id(), owner, title="x", language="", participants=[]))

    async def read() -> tuple[int, str]:
        meeting = await store.get(owner, made.id)
        return meeting.version, meeting.title

    async def write(version: int, text: str) -> None:
        await store.update(owner, made.id, version, meeting_change(text, None, None))

    assert await edit_all(read, write) > 0
    meeting = await store.get(owner, made.id)
    assert meeting.version == 1 + EDITORS
    assert sorted(map(int, meeting.title.split(",")[1:])) == list(range(EDITORS))


async def test_no_edit_of_a_task_is_lost(database: Database, cursors: Cursors, owner: str) -> None:
    store = TasksStore(database.patient(), cursors)
    about = {"meeting_id": "", "assignee": "", "due": "", "source_segment_id": ""}
    made = await store.create(new_task(ids.new_id(), owner, title="x", **about))

    async def read() -> tuple[int, str]:
        task = await store.get(owner, made.id)
        return task.version, task.title

    async def write(version: int, text: str) -> None:
        await store.update(owner, made.id, version, task_change(title=text, assignee=None, due=None, status=None))

    assert await edit_all(read, write) > 0
    task = await store.get(owner, made.id)
    assert task.version == 1 + EDITORS
    assert sorted(map(int, task.title.split(",")[1:])) == list(range(EDITORS))


async def test_no_edit_of_a_segment_is_lost(database: Database, transcripts: TranscriptStore, owner: str) -> None:
    store, log = EditsStore(database.patient()), Logbook(owner)
    said = log.say("x")
    await transcripts.apply(numbered(log.entries))

    async def read() -> tuple[int, str]:
        segment = await store.get(owner, log.meeting_id, said.segment_id)
        return segment.revision, segment.text

    async def write(version: int, text: str) -> None:
        await store.update(owner, log.meeting_id, said.segment_id, version, segment_change(text, None, []))

    assert await edit_all(read, write) > 0
    segment = await store.get(owner, log.meeting_id, said.segment_id)
    assert (segment.revision, segment.heard_text) == (1 + EDITORS, "x")
    assert sorted(map(int, segment.text.split(",")[1:])) == list(range(EDITORS))


async def test_control_without_a_version_edits_are_lost(database: Database, cursors: Cursors, owner: str) -> None:
    store = MeetingsStore(database.patient(), cursors)
    made = await store.create(new_meeting(ids.new_id(), owner, title="x", language="", participants=[]))

    async def read() -> tuple[int, str]:
        meeting = await store.get(owner, made.id)
        return meeting.version, meeting.title

    async def write(_version: int, text: str) -> None:
        while True:
            current = (await store.get(owner, made.id)).version
            try:
                await store.update(owner, made.id, current, meeting_change(text, None, None))
            except AppError as fault:
                assert fault.kind is Kind.PRECONDITION_FAILED
            else:
                return

    await edit_all(read, write)
    meeting = await store.get(owner, made.id)
    assert len(meeting.title.split(",")) - 1 < EDITORS
