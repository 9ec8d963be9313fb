"""Fifty change the same thing at once: of each version one wins, and the others are told which version there is now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.meetings.meetings import MeetingChange, new_meeting
from services.meetings.meetings_store import MeetingsStore
from services.meetings.paging import Cursors
from services.meetings.tasks import new_task, task_change
from services.meetings.tasks_store import TasksStore

pytestmark = pytest.mark.req("R-API-5")

EDITORS, ROUNDS = 50, 3


async def compete(change: Callable[[int, str], Awaitable[object]]) -> None:
    """Let all change each version; check what each is told."""
    for version in range(1, ROUNDS + 1):
        calls = (change(version, f"{version} by {editor}") for editor in range(EDITORS))
        done = await asyncio.gather(*calls, return_exceptions=True)
        lost = [one for one in done if isinstance(one, BaseException)]
        assert len(lost) == EDITORS - 1
        told = {(one.kind, one.version) for one in lost if isinstance(one, AppError)}
        assert told == {(Kind.PRECONDITION_FAILED, version + 1)}


async def test_of_fifty_who_rename_a_meeting_one_wins(database: Database, cursors: Cursors, owner: str) -> None:
    meetings = MeetingsStore(database.patient(), cursors)  # none is sent away because so many come
    made = await meetings.create(new_meeting(ids.new_id(), owner, title="Plan", language="", participants=()))
    await compete(lambda version, title: meetings.update(owner, made.id, version, MeetingChange(title, None, None)))
    assert (await meetings.get(owner, made.id)).version == ROUNDS + 1


async def test_of_fifty_who_change_a_task_one_wins(database: Database, cursors: Cursors, owner: str) -> None:
    tasks = TasksStore(database.patient(), cursors)
    task = new_task(ids.new_id(), owner, title="Send", meeting_id="", assignee="", due="", source_segment_id="")
    await tasks.create(task)

    async def change(version: int, title: str) -> object:
        wanted = task_change(title=title, assignee=None, due=None, status=None)
        return await tasks.update(owner, task.id, version, wanted)

    await compete(change)
    assert (await tasks.get(owner, task.id)).version == ROUNDS + 1
