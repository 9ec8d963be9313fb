"""Tasks: what somebody has to do, written by a person or found in a transcript."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from chassis import ids
from services.meetings.checks import Checks, clean_line, day_of

TITLE_LONGEST = 500
ASSIGNEE_LONGEST = 100
SOURCE_LONGEST = 100
STATUSES = ("open", "done")


class Origin(StrEnum):
    """Who wrote a task last. What a person wrote, no machine overwrites."""

    PERSON = "person"
    INSIGHTS = "insights"


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it stands in the database."""

    id: str
    owner_id: str
    title: str
    meeting_id: str | None
    assignee: str
    due: dt.date | None
    status: str
    source_segment_id: str
    version: int
    created_at: dt.datetime
    updated_at: dt.datetime


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to create, checked."""

    id: str
    owner_id: str
    title: str
    meeting_id: str | None
    assignee: str
    due: dt.date | None
    source_segment_id: str


@dataclass(frozen=True, slots=True)
class TaskChange:
    """What a person changes, by column; a day may be changed to none."""

    values: dict[str, str | dt.date | None]


class Found(Protocol):
    """An action item as the insights service tells it."""

    text: str
    assignee: str
    due: str

    @property
    def segment_ids(self) -> Iterable[str]: ...


def new_task(
    task_id: str, owner_id: str, *, title: str, meeting_id: str, assignee: str, due: str, source_segment_id: str
) -> NewTask:
    """Check a task to create. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    task = NewTask(
        checks.id("task_id", task_id),
        checks.id("owner_id", owner_id),
        checks.line("title", title, longest=TITLE_LONGEST, required=True),
        checks.id("meeting_id", meeting_id) if meeting_id else None,
        checks.line("assignee", assignee, longest=ASSIGNEE_LONGEST),
        checks.day("due", due),
        checks.line("source_segment_id", source_segment_id, longest=SOURCE_LONGEST),
    )
    checks.done()
    return task


def task_change(*, title: str | None, assignee: str | None, due: str | None, status: str | None) -> TaskChange:
    """Check a change. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    values: dict[str, str | dt.date | None] = {}
    if title is not None:
        values["title"] = checks.line("title", title, longest=TITLE_LONGEST, required=True)
    if assignee is not None:
        values["assignee"] = checks.line("assignee", assignee, longest=ASSIGNEE_LONGEST)
    if due is not None:
        values["due"] = checks.day("due", due)
    if status is not None:
        values["status"] = checks.choice("status", status, STATUSES)
    checks.done()
    return TaskChange(values)


def status_filter(status: str) -> str:
    """Check a status to list by; empty means every. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    if status:
        checks.choice("status", status, STATUSES)
    checks.done()
    return status


def found_tasks(meeting_id: str, owner_id: str, items: Iterable[Found]) -> list[NewTask]:
    """Turn action items into tasks. The same item always becomes the task with the same id.

    What a model says is taken with care: long lines are cut, a day that is none is left out, an empty item is dropped.
    """
    found: dict[str, NewTask] = {}
    for item in items:
        title = clean_line(item.text)[:TITLE_LONGEST].strip()
        if not title:
            continue
        source = clean_line(next(iter(item.segment_ids), ""))[:SOURCE_LONGEST]
        task_id = ids.derived_id(meeting_id, "task", source, _normal(title))
        assignee = clean_line(item.assignee)[:ASSIGNEE_LONGEST].strip()
        found[task_id] = NewTask(task_id, owner_id, title, meeting_id, assignee, day_of(item.due), source)
    return list(found.values())


def _normal(title: str) -> str:
    return " ".join(re.findall(r"\w+", title.casefold()))
