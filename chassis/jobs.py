"""Background jobs: a row tells the state, a message wakes a worker, the effect happens once.

The row is the truth and lives in the database of the service that owns the job. The message carries only the row's
id; it leaves through the outbox of the transaction that made the row. Work may be begun more than once (a worker died,
or froze and was taken for dead); its effect is committed together with the status, and only by the latest start.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, ids, outbox

JOBS = bus.Stream("JOBS", ("jobs.>",), max_bytes=128 * 1024**2, work_queue=True)
# A letter that is sent twice, because its acknowledgement was lost, is kept once within the window.
DLQ = bus.Stream("DLQ", ("dlq.>",), max_bytes=256 * 1024**2, duplicate_window_s=3600.0)


class Status(StrEnum):
    """Who is doing what."""

    PENDING = "pending"  # nobody yet: the message waits in the outbox or in the stream
    RUNNING = "running"  # a worker works, or died and the broker has not noticed yet
    RETRY = "retry"  # an attempt failed; the broker holds the message until the next is due
    COMPLETED = "completed"  # nobody: the effect is committed
    FAILED = "failed"  # nobody: it cannot be done, and the error tells whoever asked why
    DEAD = "dead"  # an operator: given up, with its history among the dead letters


LIVE = frozenset({Status.PENDING, Status.RUNNING, Status.RETRY})


class Superseded(Exception):
    """Another start of the job, or its removal, came after ours: whatever we have made is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Job:
    """A row. `key` is what the job is about; `starts` counts every beginning, `attempts` only those with a verdict."""

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
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Index("jobs_by_key", "kind", "key", "id"),
    )


class Queue:
    """The rows. Every method works in the caller's transaction."""

    def __init__(self, table: sa.Table, outbox_table: sa.Table, *, source: str) -> None:
        self.table = table
        self._outbox = outbox_table
        self._source = source

    async def put(
        self, connection: AsyncConnection, kind: str, key: str, *, owner_id: str, payload: bytes, attempts_max: int = 3
    ) -> Job:
        """Ask for a job and return it. One for the same key that nobody works on right now takes the new payload."""
        t = self.table
        waiting = (t.c.kind == kind) & (t.c.key == key) & t.c.status.in_([Status.PENDING, Status.RETRY])
        joined = (
            await connection.execute(t.update().where(waiting).values(payload=payload).returning(*t.c))
        ).first()  # fmt: skip
        if joined is not None:
            return _job(joined)
        values = {"id": ids.new_id(), "kind": kind, "key": key, "owner_id": owner_id, "payload": payload,
                  "attempts_max": attempts_max}  # fmt: skip
        row = (await connection.execute(t.insert().values(values).returning(*t.c))).one()
        message = outbox.Event(f"jobs.{kind}", orjson.dumps({"job_id": row.id}), row.id)
        await outbox.put(connection, self._outbox, [message], source=self._source)
        return _job(row)

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

    async def begin(self, connection: AsyncConnection, *, job_id: str) -> Job | None:
        """Start an attempt and return the job as running; one that is over as it is; None if there is none.

        A job that is found running is one whose worker died: the same attempt begins again.
        """
        t = self.table
        crashed = t.c.status == Status.RUNNING
        start = (
            t.update()
            .where(t.c.id == job_id, t.c.status.in_(LIVE))
            .values(
                status=Status.RUNNING,
                starts=t.c.starts + 1,
                attempts=t.c.attempts + sa.case((crashed, 0), else_=1),
                crashes=t.c.crashes + sa.case((crashed, 1), else_=0),
                updated_at=sa.func.now(),
            )
            .returning(*t.c)
        )
        row = (await connection.execute(start)).first()
        return _job(row) if row is not None else await self.get(connection, job_id)

    async def update(self, connection: AsyncConnection, job: Job, **values: Any) -> Job:
        """Change a job that runs by this very start. Raises Superseded if it does not any more."""
        t = self.table
        ours = (t.c.id == job.id) & (t.c.starts == job.starts) & (t.c.status == Status.RUNNING)
        change = t.update().where(ours).values(updated_at=sa.func.now(), **values).returning(*t.c)
        row = (await connection.execute(change)).first()
        if row is None:
            raise Superseded
        return _job(row)


def _job(row: Any) -> Job:
    values = dict(row._mapping)
    return Job(**{**values, "status": Status(values["status"]), "payload": bytes(values["payload"])})
