"""Uploads: rows from the first byte of a file to the end of its job."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.jobs import LIVE, Job, Queue, Status
from chassis.postgres import Database, Work
from services.meetings.checks import not_found
from services.meetings.meetings import Status as MeetingStatus
from services.meetings.store import is_deleted, meetings, sessions
from services.meetings.upload_tables import job_rows, uploads
from services.meetings.uploads import KIND, NewUpload, Upload, UploadLimits

_QUOTA_LOCK = 0x7570_6C64  # "upld"
_FINISHED_KEPT = sa.text("interval '7 days'")

_UPLOAD = (
    uploads.c.id, uploads.c.owner_id, uploads.c.meeting_id, uploads.c.makes_meeting, uploads.c.title,
    uploads.c.language, uploads.c.container, uploads.c.size_bytes, uploads.c.job_id, uploads.c.refusal,
    uploads.c.expires_at,
)  # fmt: skip

_ARRIVING = uploads.c.job_id.is_(None) & (uploads.c.expires_at > sa.func.now())


def _with_job(*statuses: str) -> sa.ColumnElement[bool]:
    return sa.exists().where(job_rows.c.id == uploads.c.job_id, job_rows.c.status.in_(statuses))


class UploadsStore:
    """Keeps uploads. What is another's is not there."""

    def __init__(self, database: Database, queue: Queue, limits: UploadLimits) -> None:
        self._database = database
        self._queue = queue
        self._limits = limits

    async def begin(self, new: NewUpload) -> Upload:
        """Reserve a place for a file, or return it if this call was made before.

        Raises AppError: NOT_FOUND if the meeting is not there, RATE_LIMIT_EXCEEDED if the account has too much under
        way, CONFLICT if the id is taken.
        """
        return await self._database.run("begin upload", self.beginning(new))

    def beginning(self, new: NewUpload) -> Work[Upload]:
        """Return the work of `begin`, for a transaction that has more to do."""
        return lambda connection: self._begin(connection, new)

    async def _begin(self, connection: AsyncConnection, new: NewUpload) -> Upload:
        # Uploads of one account begin one after the other, so that together they keep to its limits.
        lock = sa.func.pg_advisory_xact_lock(_QUOTA_LOCK, sa.func.hashtext(new.owner_id))
        await connection.execute(sa.select(lock))
        found = await _find(connection, new.owner_id, new.id)
        if found is not None:
            return found
        if new.meeting_id:
            await _require_meeting(connection, new.owner_id, new.meeting_id)
        await _prune(connection, new.owner_id)
        mine = uploads.c.owner_id == new.owner_id
        under_way = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(uploads.c.size_bytes), 0))
        count, total = (await connection.execute(under_way.where(mine, _ARRIVING | _with_job(*LIVE)))).one()
        if count >= self._limits.uploads_max or total + new.size_bytes > self._limits.bytes_max:
            words = "Too many uploads of this account are under way."
            raise AppError(Kind.RATE_LIMIT_EXCEEDED, words, retry_after_s=60.0)
        values = {
            "id": new.id,
            "owner_id": new.owner_id,
            "meeting_id": new.meeting_id or ids.derived_id(new.id, "meeting"),
            "makes_meeting": not new.meeting_id,
            "title": new.title,
            "language": new.language,
            "container": new.container,
            "size_bytes": new.size_bytes,
            "expires_at": sa.func.now() + dt.timedelta(seconds=self._limits.life_s),
        }
        made = insert(uploads).values(values).on_conflict_do_nothing(index_elements=["id"]).returning(*_UPLOAD)
        row = (await connection.execute(made)).one_or_none()
        if row is None:
            raise AppError(Kind.CONFLICT, "The id was used before.")
        return _upload(row)

    async def get(self, owner_id: str, upload_id: str) -> Upload:
        """Return an upload. Raises AppError(NOT_FOUND), also for one whose time to arrive is over."""

        async def work(connection: AsyncConnection) -> Upload:
            found = await _find(connection, owner_id, upload_id, _ARRIVING | uploads.c.job_id.is_not(None))
            if found is None:
                raise not_found("upload")
            return found

        return await self._database.run("get upload", work)

    async def complete(self, owner_id: str, upload_id: str, size_bytes: int, container: str) -> Upload:
        """Note that the file is stored: make the meeting, if it is to be made, and the job.

        Raises AppError: NOT_FOUND if upload or meeting are not there.
        """
        work = self.completion(owner_id, upload_id, size_bytes, container)
        return await self._database.once("complete upload", work)

    def completion(self, owner_id: str, upload_id: str, size_bytes: int, container: str) -> Work[Upload]:
        """Return the work of `complete`, for a transaction that has more to do."""

        async def work(connection: AsyncConnection) -> Upload:
            found = await _find(connection, owner_id, upload_id, lock=True)
            if found is None:
                raise not_found("upload")
            if found.job_id is not None:
                return found
            if found.makes_meeting:
                await self._make_meeting(connection, found)
            else:
                await _require_meeting(connection, owner_id, found.meeting_id)
            job = await self._queue.put(
                connection,
                KIND,
                upload_id,
                owner_id=owner_id,
                payload=b"",
                attempts_max=self._limits.attempts_max,
            )
            change = uploads.update().where(uploads.c.id == upload_id)
            change = change.values(job_id=job.id, size_bytes=size_bytes, container=container)
            return _upload((await connection.execute(change.returning(*_UPLOAD))).one())

        return work

    async def _make_meeting(self, connection: AsyncConnection, upload: Upload) -> None:
        if await is_deleted(connection, upload.meeting_id):
            raise not_found("meeting")
        values = {
            "id": upload.meeting_id,
            "owner_id": upload.owner_id,
            "title": upload.title,
            "language": upload.language,
            "participants": [],
            "status": MeetingStatus.PROCESSING,
        }
        await connection.execute(insert(meetings).values(values).on_conflict_do_nothing(index_elements=["id"]))

    async def abandon(self, owner_id: str, upload_id: str) -> None:
        """Forget a file that did not arrive. Raises AppError(CONFLICT) if it did; one that is not there is no fault."""

        async def work(connection: AsyncConnection) -> None:
            found = await _find(connection, owner_id, upload_id, lock=True)
            if found is not None and found.job_id is not None:
                raise AppError(Kind.CONFLICT, "The file has arrived already.")
            await connection.execute(uploads.delete().where(uploads.c.id == upload_id, uploads.c.owner_id == owner_id))

        await self._database.run("abandon upload", work)

    async def needed(self, upload_ids: Sequence[str]) -> list[str]:
        """Return which uploads still need their file: they arrive, or have a job that is not over, or dead."""
        kept = uploads.c.refusal == ""
        query = sa.select(uploads.c.id).where(
            uploads.c.id.in_(upload_ids), _ARRIVING | (kept & _with_job(*LIVE, Status.DEAD))
        )

        async def work(connection: AsyncConnection) -> list[str]:
            return list((await connection.execute(query)).scalars())

        return await self._database.run("filter uploads", work)

    async def job(self, owner_id: str, job_id: str) -> Job:
        """Return a job that works for this owner. Raises AppError(NOT_FOUND)."""

        async def work(connection: AsyncConnection) -> Job | None:
            return await self._queue.get(connection, job_id)

        job = await self._database.run("get job", work)
        if job is None or job.owner_id != owner_id:
            raise not_found("job")
        return job

    async def cancel(self, owner_id: str, job_id: str) -> Job:
        """End a job that is not over; a meeting that was made for its file has failed.

        Raises AppError: NOT_FOUND, CONFLICT if it is over.
        """

        async def work(connection: AsyncConnection) -> Job:
            job = await self._queue.cancel(connection, job_id, owner_id)
            found = await _find(connection, owner_id, job.key, lock=True)
            if found is not None:
                await connection.execute(uploads.update().where(uploads.c.id == found.id).values(refusal=job.error))
                await _fail_meeting(connection, found)
            return job

        return await self._database.once("cancel upload", work)

    # -- what the job does ---------------------------------------------------------------------------------------

    async def of_job(self, upload_id: str) -> Upload | None:
        """Return the upload that a job is about, or None if it is not there any more."""
        query = sa.select(*_UPLOAD).where(uploads.c.id == upload_id)

        async def work(connection: AsyncConnection) -> Upload | None:
            row = (await connection.execute(query)).one_or_none()
            return _upload(row) if row is not None else None

        return await self._database.run("upload of job", work)

    async def refuse(self, upload: Upload, why: str) -> None:
        """Note that the file cannot be transcribed; a meeting that was made for it has failed."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(uploads.update().where(uploads.c.id == upload.id).values(refusal=why))
            await _fail_meeting(connection, upload)

        await self._database.run("refuse upload", work)

    async def give_up(self, upload: Upload) -> None:
        """Note that a meeting that was made for the file has failed; its job may be tried again by an operator."""
        await self._database.run("give up upload", lambda connection: _fail_meeting(connection, upload))

    async def is_stored(self, upload_id: str) -> bool:
        """Tell whether the transcript is in the database, to its end."""
        query = sa.select(sessions.c.closed_at.is_not(None)).where(sessions.c.id == upload_id)

        async def work(connection: AsyncConnection) -> bool:
            return bool((await connection.execute(query)).scalar())

        return await self._database.run("upload stored", work)


async def forget_uploads(connection: AsyncConnection, meeting_id: str) -> list[str]:
    """Remove the uploads of a meeting with their jobs and return their ids; one under way will have no effect."""
    query = sa.select(uploads.c.id).where(uploads.c.meeting_id == meeting_id)
    upload_ids = list((await connection.execute(query)).scalars())
    if upload_ids:
        await connection.execute(job_rows.delete().where(job_rows.c.kind == KIND, job_rows.c.key.in_(upload_ids)))
        await connection.execute(uploads.delete().where(uploads.c.id.in_(upload_ids)))
    return upload_ids


async def _find(
    connection: AsyncConnection,
    owner_id: str,
    upload_id: str,
    *conditions: sa.ColumnElement[bool],
    lock: bool = False,
) -> Upload | None:
    query = sa.select(*_UPLOAD).where(uploads.c.id == upload_id, uploads.c.owner_id == owner_id, *conditions)
    row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
    return _upload(row) if row is not None else None


async def _prune(connection: AsyncConnection, owner_id: str) -> None:
    """Remove what nobody asks for any more: uploads that did not arrive in time, and those that are long over."""
    late = uploads.c.job_id.is_(None) & (uploads.c.expires_at <= sa.func.now())
    over = uploads.c.job_id.is_not(None) & ~_with_job(*LIVE, Status.DEAD)
    old = uploads.c.created_at < sa.func.now() - _FINISHED_KEPT
    await connection.execute(uploads.delete().where(uploads.c.owner_id == owner_id, late | (over & old)))


async def _require_meeting(connection: AsyncConnection, owner_id: str, meeting_id: str) -> None:
    query = sa.select(sa.exists().where(meetings.c.id == meeting_id, meetings.c.owner_id == owner_id))
    if not (await connection.execute(query)).scalar_one():
        raise not_found("meeting")


async def _fail_meeting(connection: AsyncConnection, upload: Upload) -> None:
    if upload.makes_meeting:
        m = meetings.c
        change = meetings.update().where(m.id == upload.meeting_id, m.status != MeetingStatus.COMPLETED)
        await connection.execute(change.values(status=MeetingStatus.FAILED, updated_at=sa.func.now()))


def _upload(row: Any) -> Upload:
    return Upload(**row._mapping)
