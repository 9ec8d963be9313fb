"""Tasks: what somebody has to do, written by a person or found in a transcript."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from chassis import ids
from services.meetings.checks import Checks, clean_line, day_of

TITLE_LONGEST = 500
ASSIGNEE_LONGEST = 100
SOURCE_LONGEST = 100
STATUSES = ("open", "done")
_ALIKE = 0.6


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
    cited: tuple[str, ...] = ()
    """Of one that was found: every segment that it rests on."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A task of a meeting, as far as found ones may be the same. A deleted one is known by its source only."""

    id: str
    source_segment_id: str
    title: str = ""
    found: bool = True
    kept: bool = False
    """Somebody wrote, changed or deleted it: no machine touches it any more."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What becomes of a meeting's tasks when they are found anew: ids change what they say, are gone, or are new."""

    changed: dict[str, NewTask]
    gone: list[str]
    fresh: list[NewTask]


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
        cited = tuple(clean_line(segment_id)[:SOURCE_LONGEST] for segment_id in item.segment_ids)
        source = next(iter(cited), "")
        task_id = ids.derived_id(meeting_id, "task", source, _normal(title))
        assignee = clean_line(item.assignee)[:ASSIGNEE_LONGEST].strip()
        found[task_id] = NewTask(task_id, owner_id, title, meeting_id, assignee, day_of(item.due), source, cited)
    return list(found.values())


def reconcile(standing: Sequence[Standing], found: Sequence[NewTask]) -> Reconciled:
    """Match tasks that were found anew with those that are there, so that none comes twice and none is overwritten.

    A transcript that was heard again says the same in other words: what rests on the same segment is taken for the same
    task, the most alike first. One that a person wrote without finding it there must also read alike.
    """
    left = {task.id: task for task in found}
    matched: dict[str, NewTask] = {task.id: left.pop(task.id) for task in standing if task.id in left}
    pairs = [
        (likeness(known.title, task.title), known, task)
        for known in standing
        if known.id not in matched
        for task in left.values()
        if known.source_segment_id and known.source_segment_id in task.cited
    ]
    for alike, known, task in sorted(pairs, key=lambda pair: -pair[0]):
        if known.id not in matched and task.id in left and (known.found or alike >= _ALIKE):
            matched[known.id] = left.pop(task.id)
    ours = [task.id for task in standing if not task.kept]
    return Reconciled(
        changed={task_id: matched[task_id] for task_id in ours if task_id in matched},
        gone=[task_id for task_id in ours if task_id not in matched],
        fresh=list(left.values()),
    )


def likeness(one: str, other: str) -> float:
    """Return the share of words that two titles have in common, 0 to 1."""
    words, others = set(_normal(one).split()), set(_normal(other).split())
    return len(words & others) / max(1, min(len(words), len(others)))


def _normal(title: str) -> str:
    return " ".join(re.findall(r"\w+", title.casefold()))
