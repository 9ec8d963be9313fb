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
from services.meetings.digest_tables import minutes_texts
from services.meetings.entries_store import number_insights
from services.meetings.paging import Cursors, Page
from services.meetings.store import bury, inbox_rows, is_deleted, meetings, tasks, tombstones, version_conflict
from services.meetings.tasks import NewTask, Origin, Standing, Task, TaskChange, reconcile

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
            t = tasks.c
            this = tasks.delete().where(*_this(owner_id, task_id, expected_version))
            gone = await connection.execute(this.returning(t.meeting_id, t.source_segment_id, t.found))
            row = gone.one_or_none()
            if row is None:
                raise await version_conflict(connection, tasks, owner_id, task_id)
            origin = {"meeting_id": row.meeting_id, "source_segment_id": row.source_segment_id} if row.found else {}
            await bury(connection, "task", [task_id], **origin)

        await self._database.once("delete task", work)

    async def delete_all(self, owner_id: str) -> None:
        """Delete every task of an owner whose meetings are gone."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(tasks.delete().where(tasks.c.owner_id == owner_id))

        await self._database.run("delete tasks of owner", work)

    async def store_found(
        self,
        message_id: str,
        owner_id: str,
        meeting_id: str,
        found: Sequence[NewTask],
        *,
        version: int = 0,
        minutes: str = "",
    ) -> int:
        """Store that insights were made and the tasks that they found, once per message.

        Returns how many tasks were new or changed. `version` is that of the minutes: older ones than those that are
        stored already have no effect (0: not told). `minutes` is their text, in which meetings are found.

        A task that a person changed or deleted stays as it is; the others become what was found now. A meeting that is
        not there any more has no tasks.
        """

        async def work(connection: AsyncConnection) -> int:
            if not await outbox.first_time(connection, inbox_rows, INSIGHTS, message_id):
                return 0
            if not await number_insights(connection, owner_id, meeting_id, version):
                return 0
            await _keep_minutes(connection, meeting_id, version, minutes)
            outcome = reconcile(await _standing(connection, meeting_id), found)
            if outcome.gone:
                await connection.execute(tasks.delete().where(tasks.c.id.in_(outcome.gone)))
            touched = 0
            for task_id, task in outcome.changed.items():
                touched += await _change(connection, task_id, task)
            rows = [{**_row(task, Origin.INSIGHTS), "found": True} for task in outcome.fresh]
            if rows:
                new = insert(tasks).on_conflict_do_nothing(index_elements=["id"]).returning(tasks.c.id)
                touched += len((await connection.execute(new, rows)).all())
            return touched

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
        if await is_deleted(connection, new.owner_id):
            raise not_found("account")
        await connection.execute(
            insert(tasks).values(**_row(new, Origin.PERSON)).on_conflict_do_nothing(index_elements=["id"])
        )
        query = sa.select(*_TASK).where(tasks.c.id == new.id, tasks.c.owner_id == new.owner_id)
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise AppError(Kind.CONFLICT, "The id was used before.")
        return Task(**row._mapping)

    return work


async def _standing(connection: AsyncConnection, meeting_id: str) -> list[Standing]:
    """Return the tasks of a meeting and those that were deleted from it. They do not change until we are done."""
    t = tasks.c
    query = sa.select(t.id, t.source_segment_id, t.title, t.found, t.origin != Origin.INSIGHTS)
    query = query.where(t.meeting_id == meeting_id).order_by(t.created_at, t.id).with_for_update()
    there = [Standing(*row) for row in await connection.execute(query)]
    buried = sa.select(tombstones.c.id, tombstones.c.source_segment_id).where(tombstones.c.meeting_id == meeting_id)
    return there + [Standing(row[0], row[1], kept=True) for row in await connection.execute(buried)]


async def _keep_minutes(connection: AsyncConnection, meeting_id: str, version: int, text: str) -> None:
    new = insert(minutes_texts).values(meeting_id=meeting_id, version=version, text=text.replace("\0", ""))
    said = {"version": new.excluded.version, "text": new.excluded.text}
    await connection.execute(new.on_conflict_do_update(index_elements=["meeting_id"], set_=said))


async def _change(connection: AsyncConnection, task_id: str, task: NewTask) -> int:
    """Write what was found now; 0 if it is the same."""
    t = tasks.c
    said = {"title": task.title, "assignee": task.assignee, "due": task.due}
    differs = sa.or_(*(t[name].is_distinct_from(value) for name, value in said.items()))
    change = tasks.update().where(t.id == task_id, differs)
    changed = await connection.execute(
        change.values(**said, source_segment_id=task.source_segment_id, version=t.version + 1, updated_at=sa.func.now())
    )
    return changed.rowcount


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
