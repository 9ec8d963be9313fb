"""Tasks: rows as people and insights write them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import outbox
from chassis.errors import AppError, Kind
from chassis.postgres import Database, Work
from services.meetings.checks import not_found
from services.meetings.entries_store import number_insights
from services.meetings.paging import Cursors, Page
from services.meetings.store import bury, inbox_rows, is_deleted, meetings, tasks, tombstones, version_conflict
from services.meetings.tasks import NewTask, Origin, Task, TaskChange

_TASK = (
    tasks.c.id, tasks.c.owner_id, tasks.c.title, tasks.c.meeting_id, tasks.c.assignee, tasks.c.due, tasks.c.status,
    tasks.c.source_segment_id, tasks.c.version, tasks.c.created_at, tasks.c.updated_at,
)  # fmt: skip
INSIGHTS = "meetings-insights"


class TasksStore:
    """Keeps tasks. Each method is one transaction and names the owner: what is another's is not there."""

    def __init__(self, database: Database, cursors: Cursors) -> None:
        self._database = database
        self._cursors = cursors

    async def create(self, new: NewTask) -> Task:
        """Do what `creation` says, once."""
        return await self._database.once("create task", creation(new))

    async def get(self, owner_id: str, task_id: str) -> Task:
        """Return a task. Raises AppError(NOT_FOUND)."""

        async def work(connection: AsyncConnection) -> Task:
            query = sa.select(*_TASK).where(tasks.c.id == task_id, tasks.c.owner_id == owner_id)
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise not_found("task")
            return Task(**row._mapping)

        return await self._database.run("get task", work)

    async def list(self, owner_id: str, meeting_id: str, status: str, size: int, cursor: str) -> Page[Task]:
        """Return tasks, newest first; of one meeting or one status unless these are empty.

        Raises AppError(VALIDATION_FAILED) for a cursor of another list.
        """
        scope = ("tasks", owner_id, meeting_id, status)
        after = self._cursors.open(scope, cursor)

        async def work(connection: AsyncConnection) -> Sequence[Task]:
            query = sa.select(*_TASK).where(tasks.c.owner_id == owner_id)
            if meeting_id:
                query = query.where(tasks.c.meeting_id == meeting_id)
            if status:
                query = query.where(tasks.c.status == status)
            if after:
                last = sa.tuple_(sa.literal(dt.datetime.fromisoformat(after[0])), sa.literal(after[1], tasks.c.id.type))
                query = query.where(sa.tuple_(tasks.c.created_at, tasks.c.id) < last)
            query = query.order_by(tasks.c.created_at.desc(), tasks.c.id.desc()).limit(size + 1)
            return [Task(**row._mapping) for row in await connection.execute(query)]

        found = await self._database.run("list tasks", work)
        items = list(found[:size])
        more = len(found) > size
        return Page(items, self._cursors.seal(scope, [items[-1].created_at.isoformat(), items[-1].id]) if more else "")

    async def update(self, owner_id: str, task_id: str, expected_version: int, change: TaskChange) -> Task:
        """Change a task; from then on it is a person's. Raises AppError: NOT_FOUND, PRECONDITION_FAILED."""

        async def work(connection: AsyncConnection) -> Task:
            row = (
                await connection.execute(
                    tasks.update()
                    .where(*_this(owner_id, task_id, expected_version))
                    .values(
                        version=tasks.c.version + 1,
                        updated_at=sa.func.now(),
                        origin=Origin.PERSON,
                        **change.values,
                    )
                    .returning(*_TASK)
                )
            ).one_or_none()
            if row is None:
                raise await version_conflict(connection, tasks, owner_id, task_id)
            return Task(**row._mapping)

        return await self._database.once("update task", work)

    async def delete(self, owner_id: str, task_id: str, expected_version: int) -> None:
        """Delete a task for good: insights that find it again do not bring it back.

        Raises AppError: NOT_FOUND, PRECONDITION_FAILED with the current version.
        """

        async def work(connection: AsyncConnection) -> None:
            deleted = await connection.execute(tasks.delete().where(*_this(owner_id, task_id, expected_version)))
            if deleted.rowcount == 0:
                raise await version_conflict(connection, tasks, owner_id, task_id)
            await bury(connection, "task", [task_id])

        await self._database.once("delete task", work)

    async def store_found(self, message_id: str, owner_id: str, meeting_id: str, found: Sequence[NewTask]) -> int:
        """Store that insights were made and the tasks that they found, once per message.

        Returns how many tasks were new or changed.

        A task that a person changed or deleted stays as it is. A meeting that is not there any more has no tasks.
        """

        async def work(connection: AsyncConnection) -> int:
            if not await outbox.first_time(connection, inbox_rows, INSIGHTS, message_id):
                return 0
            await number_insights(connection, owner_id, meeting_id)
            if not found or not await _owns(connection, owner_id, meeting_id):
                return 0
            query = sa.select(tombstones.c.id).where(tombstones.c.id.in_([task.id for task in found]))
            deleted = set((await connection.execute(query)).scalars())
            rows = [_row(task, Origin.INSIGHTS) for task in found if task.id not in deleted]
            if not rows:
                return 0
            upsert = insert(tasks)
            fresh = upsert.excluded
            changed = sa.tuple_(tasks.c.title, tasks.c.assignee, tasks.c.due).is_distinct_from(
                sa.tuple_(fresh.title, fresh.assignee, fresh.due)
            )
            upsert = upsert.on_conflict_do_update(
                index_elements=["id"],
                set_={
                    "title": fresh.title, "assignee": fresh.assignee, "due": fresh.due,
                    "version": tasks.c.version + 1, "updated_at": sa.func.now(),
                },
                where=(tasks.c.origin == Origin.INSIGHTS) & changed,
            )  # fmt: skip
            return len((await connection.execute(upsert.returning(tasks.c.id), rows)).all())

        return await self._database.run("store found tasks", work)


def creation(new: NewTask) -> Work[Task]:
    """Return the work that creates a task, or gives it back if this call was made before.

    Raises AppError: NOT_FOUND if its meeting is not there, CONFLICT if the id is taken.
    """

    async def work(connection: AsyncConnection) -> Task:
        if new.meeting_id and not await _owns(connection, new.owner_id, new.meeting_id):
            raise not_found("meeting")
        if await is_deleted(connection, new.id):
            raise AppError(Kind.CONFLICT, "The id was used before.")
        await connection.execute(
            insert(tasks).values(**_row(new, Origin.PERSON)).on_conflict_do_nothing(index_elements=["id"])
        )
        query = sa.select(*_TASK).where(tasks.c.id == new.id, tasks.c.owner_id == new.owner_id)
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise AppError(Kind.CONFLICT, "The id was used before.")
        return Task(**row._mapping)

    return work


def _this(owner_id: str, task_id: str, version: int) -> tuple[sa.ColumnElement[bool], ...]:
    return tasks.c.id == task_id, tasks.c.owner_id == owner_id, tasks.c.version == version


def _row(task: NewTask, origin: Origin) -> dict[str, object]:
    return {
        "id": task.id, "owner_id": task.owner_id, "meeting_id": task.meeting_id, "title": task.title,
        "assignee": task.assignee, "due": task.due, "source_segment_id": task.source_segment_id, "origin": origin.value,
    }  # fmt: skip


async def _owns(connection: AsyncConnection, owner_id: str, meeting_id: str) -> bool:
    """Tell whether the meeting is there and the owner's, and keep it there until the transaction ends."""
    query = (
        sa.select(meetings.c.id)
        .where(meetings.c.id == meeting_id, meetings.c.owner_id == owner_id)
        .with_for_update(read=True, key_share=True)
    )
    return (await connection.execute(query)).one_or_none() is not None
