"""Background jobs: a row tells the state, a message wakes a worker, the effect happens once.

The row is the truth and lives in the database of the service that owns the job. The message carries only the row's
id; it leaves through the outbox of the transaction that made the row. Work may be begun more than once (a worker died,
or froze and was taken for dead); its effect is committed together with the status, and only by the latest start.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, dead_letters, ids, outbox
from chassis.errors import AppError, Kind

JOBS = bus.Stream("JOBS", ("jobs.>",), max_bytes=128 * 1024**2, work_queue=True)


class Status(StrEnum):
    """Who is doing what."""

    PENDING = "pending"  # nobody yet: the message waits in the outbox or in the stream
    RUNNING = "running"  # a worker works, or died and the broker has not noticed yet
    RETRY = "retry"  # an attempt failed; the broker holds the message until the next is due
    COMPLETED = "completed"  # nobody: the effect is committed
    FAILED = "failed"  # nobody: it cannot be done, and the error tells whoever asked why
    DEAD = "dead"  # an operator: given up, with its history among the dead letters


LIVE = frozenset({Status.PENDING, Status.RUNNING, Status.RETRY})


class Urgency(StrEnum):
    """Which jobs of a kind are begun first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    def subject(self, kind: str) -> str:
        """Return where the messages of such jobs are; each urgency has a line of its own."""
        return f"jobs.{kind}" if self is Urgency.NORMAL else f"jobs.{kind}.{self}"


_ORDER = tuple(Urgency)


class Superseded(Exception):
    """Another start of the job, its cancellation or its removal came after ours: what we have made is not wanted."""


class Busy(Exception):
    """A worker that is alive works on the job."""


@dataclass(frozen=True, slots=True)
class Job:
    """A row.

    `key` is what the job is about; `starts` counts every beginning, `attempts` only those with a verdict. After
    `expires_at` it is not begun any more. `beat_at` is when its worker was last alive, `letter_id` the dead letter that
    tells of its death.
    """

    id: str
    kind: str
    key: str
    owner_id: str
    payload: bytes
    status: Status
    attempts: int
    attempts_max: int
    starts: int
    crashes: int
    progress: float
    error: str
    history: list[dict[str, Any]]
    urgency: Urgency
    expires_at: datetime | None
    beat_at: datetime | None
    letter_id: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def last_attempt(self) -> bool:
        return self.attempts >= self.attempts_max


def jobs_table(metadata: sa.MetaData) -> sa.Table:
    """Define the table of jobs."""
    now = sa.func.now()
    return sa.Table(
        "jobs",
        metadata,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default=Status.PENDING),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempts_max", sa.Integer, nullable=False),
        sa.Column("starts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("progress", sa.Float, nullable=False, server_default="0"),
        sa.Column("error", sa.Text, nullable=False, server_default=""),
        sa.Column("history", JSONB, nullable=False, server_default="[]"),
        sa.Column("urgency", sa.Text, nullable=False, server_default=Urgency.NORMAL),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("beat_at", sa.DateTime(timezone=True)),
        sa.Column("letter_id", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Index("jobs_by_key", "kind", "key", "id"),
        sa.Index("jobs_by_status", "kind", "status", "updated_at"),
    )


class Queue:
    """The rows. Every method works in the caller's transaction."""

    def __init__(self, table: sa.Table, outbox_table: sa.Table, *, source: str) -> None:
        self.table = table
        self._outbox = outbox_table
        self._source = source

    async def put(
        self,
        connection: AsyncConnection,
        kind: str,
        key: str,
        *,
        owner_id: str,
        payload: bytes,
        attempts_max: int = 3,
        urgency: Urgency = Urgency.NORMAL,
        expires_at: datetime | None = None,
    ) -> Job:
        """Ask for a job and return it. One for the same key that nobody works on right now takes the new payload."""
        t = self.table
        waiting = (t.c.kind == kind) & (t.c.key == key) & t.c.status.in_([Status.PENDING, Status.RETRY])
        joined = (
            await connection.execute(t.update().where(waiting).values(payload=payload).returning(*t.c))
        ).first()  # fmt: skip
        if joined is not None:
            return await self._hurried(connection, _job(joined), urgency)
        values = {"id": ids.new_id(), "kind": kind, "key": key, "owner_id": owner_id, "payload": payload,
                  "attempts_max": attempts_max, "urgency": urgency, "expires_at": expires_at}  # fmt: skip
        job = _job((await connection.execute(t.insert().values(values).returning(*t.c))).one())
        await self._announce(connection, job, job.id)
        return job

    async def _hurried(self, connection: AsyncConnection, job: Job, urgency: Urgency) -> Job:
        """Let a job that waits be begun as soon as the more urgent of two requests asks for."""
        if _ORDER.index(urgency) >= _ORDER.index(job.urgency):
            return job
        change = self.table.update().where(self.table.c.id == job.id).values(urgency=urgency)
        job = _job((await connection.execute(change.returning(*self.table.c))).one())
        await self._announce(connection, job, ids.new_id())
        return job

    async def get(self, connection: AsyncConnection, job_id: str) -> Job | None:
        """Return a job, or None."""
        row = (await connection.execute(sa.select(self.table).where(self.table.c.id == job_id))).first()
        return _job(row) if row is not None else None

    async def latest(self, connection: AsyncConnection, kind: str, key: str) -> Job | None:
        """Return the job that was asked for last, or None."""
        t = self.table
        query = sa.select(t).where(t.c.kind == kind, t.c.key == key).order_by(t.c.id.desc()).limit(1)
        row = (await connection.execute(query)).first()
        return _job(row) if row is not None else None

    async def forget(self, connection: AsyncConnection, kind: str, key: str) -> None:
        """Remove every job about the key; one that is under way will have no effect."""
        t = self.table
        await connection.execute(t.delete().where(t.c.kind == kind, t.c.key == key))

    async def cancel(self, connection: AsyncConnection, job_id: str, owner_id: str) -> Job:
        """End a job before it is over; one that is under way will have no effect.

        Raises AppError: NOT_FOUND (also for another's), CONFLICT if it is over.
        """
        t = self.table
        mine = (t.c.id == job_id) & (t.c.owner_id == owner_id)
        entry = _told(0, "cancelled", "Cancelled.")
        change = (
            t.update().where(mine, t.c.status.in_(LIVE))
            .values(
                status=Status.FAILED, error="Cancelled.", history=t.c.history.concat([entry]), updated_at=sa.func.now()
            )
            .returning(*t.c)
        )  # fmt: skip
        row = (await connection.execute(change)).first()
        if row is not None:
            return _job(row)
        if (await connection.execute(sa.select(t.c.id).where(mine))).first() is None:
            raise AppError(Kind.NOT_FOUND, "There is no such job.")
        raise AppError(Kind.CONFLICT, "The job is over.")

    async def begin(
        self, connection: AsyncConnection, *, job_id: str, lease_s: float = 0.0, letter_id: str = ""
    ) -> Job | None:
        """Start an attempt and return the job as running; one that is over as it is; None if there is none.

        A job that is found running is one whose worker died: the same attempt begins again, unless the worker was alive
        within `lease_s`; then raises Busy. A dead job is begun anew if it is its own letter that was sent back.
        """
        t = self.table
        crashed = t.c.status == Status.RUNNING
        alive = crashed & (t.c.beat_at > sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, lease_s))
        revived = (t.c.status == Status.DEAD) & (t.c.letter_id == (letter_id or None))
        late = t.c.expires_at < sa.func.now()
        await connection.execute(
            t.update().where(t.c.id == job_id, t.c.status.in_(LIVE), late)
            .values(status=Status.FAILED, error="It came too late.", updated_at=sa.func.now())
        )  # fmt: skip
        start = (
            t.update()
            .where(t.c.id == job_id, t.c.status.in_(LIVE) | revived, sa.func.coalesce(~alive, sa.true()))
            .values(
                status=Status.RUNNING,
                starts=t.c.starts + 1,
                attempts=sa.case((revived, 1), (crashed, t.c.attempts), else_=t.c.attempts + 1),
                crashes=sa.case((revived, 0), (crashed, t.c.crashes + 1), else_=t.c.crashes),
                letter_id=None,
                beat_at=sa.func.now(),
                updated_at=sa.func.now(),
            )
            .returning(*t.c)
        )
        row = (await connection.execute(start)).first()
        if row is not None:
            return _job(row)
        job = await self.get(connection, job_id)
        if job is not None and job.status is Status.RUNNING:
            raise Busy
        return job

    async def beat(self, connection: AsyncConnection, job: Job) -> None:
        """Note that the worker of this start is alive. Raises Superseded."""
        t = self.table
        change = t.update().where(self._by_this_start(job)).values(beat_at=sa.func.now()).returning(t.c.id)
        if (await connection.execute(change)).first() is None:
            raise Superseded

    async def update(self, connection: AsyncConnection, job: Job, **values: Any) -> Job:
        """Change a job that runs by this very start. Raises Superseded if it does not any more."""
        change = self.table.update().where(self._by_this_start(job))
        row = (
            await connection.execute(change.values(updated_at=sa.func.now(), **values).returning(*self.table.c))
        ).first()  # fmt: skip
        if row is None:
            raise Superseded
        return _job(row)

    async def bury(self, connection: AsyncConnection, job: Job, *, error: str, history: list[dict[str, Any]]) -> Job:
        """Give a job up and put it among the dead letters, in one transaction. Raises Superseded."""
        letter_id = ids.derived_id(job.id, "dead", job.starts)
        job = await self.update(
            connection, job, status=Status.DEAD, error=error, history=history, letter_id=letter_id
        )  # fmt: skip
        letter = dead_letters.letter(
            letter_id,
            kind=job.kind,
            subject=job.urgency.subject(job.kind),
            payload=_message(job),
            error=error,
            history=history,
            about={"job_id": job.id, "key": job.key, "owner_id": job.owner_id, "attempts": job.attempts},
        )
        await outbox.put(connection, self._outbox, [letter], source=self._source)
        return job

    async def announce_strays(
        self, connection: AsyncConnection, kind: str, *, messages: int, older_s: float, most: int = 500
    ) -> int:
        """Announce jobs again whose messages the broker has lost; return how many.

        There are such if more jobs have waited for `older_s` than there are messages of the kind. Which, nobody can
        tell: all of them are announced, and a message too many does nothing.
        """
        t = self.table
        quiet = sa.func.greatest(t.c.updated_at, t.c.beat_at) < sa.func.now() - sa.func.make_interval(
            0, 0, 0, 0, 0, 0, older_s
        )
        waiting = (t.c.kind == kind) & t.c.status.in_(LIVE) & quiet
        if (await connection.execute(sa.select(sa.func.count()).where(waiting))).scalar_one() <= messages:
            return 0
        oldest = sa.select(t.c.id).where(waiting).order_by(t.c.updated_at).limit(most).with_for_update(skip_locked=True)
        change = t.update().where(t.c.id.in_(oldest)).values(updated_at=sa.func.now()).returning(*t.c)
        jobs = [_job(row) for row in await connection.execute(change)]
        for job in jobs:
            await self._announce(connection, job, ids.new_id())
        return len(jobs)

    async def oldest_waiting_s(self, connection: AsyncConnection, kind: str) -> float:
        """Return how long the job that has waited longest for its first attempt waits (seconds)."""
        t = self.table
        age = sa.func.extract("epoch", sa.func.now() - sa.func.min(t.c.created_at))
        query = sa.select(age).where(t.c.kind == kind, t.c.status == Status.PENDING)
        return float((await connection.execute(query)).scalar() or 0.0)

    async def _announce(self, connection: AsyncConnection, job: Job, message_id: str) -> None:
        message = outbox.Event(job.urgency.subject(job.kind), _message(job), message_id)
        await outbox.put(connection, self._outbox, [message], source=self._source)

    def _by_this_start(self, job: Job) -> sa.ColumnElement[bool]:
        t = self.table
        return (t.c.id == job.id) & (t.c.starts == job.starts) & (t.c.status == Status.RUNNING)


def told(job: Job, kind: str, error: str) -> list[dict[str, Any]]:
    """Return the job's history with one more entry."""
    return [*job.history, _told(job.attempts, kind, error)]


def _told(attempt: int, kind: str, error: str) -> dict[str, Any]:
    return {"attempt": attempt, "at": datetime.now(UTC).isoformat(), "kind": kind, "error": error}


def _message(job: Job) -> bytes:
    return orjson.dumps({"job_id": job.id})


def _job(row: Any) -> Job:
    values = dict(row._mapping)
    return Job(
        **{
            **values,
            "status": Status(values["status"]),
            "urgency": Urgency(values["urgency"]),
            "payload": bytes(values["payload"]),
        }
    )
