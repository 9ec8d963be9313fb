"""Transactional outbox and inbox: no event without its row, no row without its event, each event's effect once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from nats.js.api import PubAck
from prometheus_client import Counter, Gauge
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, ids, telemetry
from chassis.errors import AppError
from chassis.postgres import Database

log = telemetry.logger(__name__)

PENDING = Gauge("outbox_pending", "Rows not yet published.")
OLDEST = Gauge("outbox_oldest_unpublished_seconds", "Age of the oldest row not yet published.")
PUBLISHED = Counter("outbox_published_total", "Rows published.")

EVENTS = bus.Stream("EVENTS", ("events.>",), max_bytes=1024**3, max_age_s=7 * 86400)

_CHANNEL = "outbox"
_BATCH = 500
_KEEP_S = 86400.0
_POLL_S = 2.0
# Two relays of one database would publish out of order; the lock lets one work at a time.
_LOCK = 0x6F75_7462  # "outb"


def outbox_table(metadata: sa.MetaData) -> sa.Table:
    """Define the table of events that wait for the broker."""
    return sa.Table(
        "outbox",
        metadata,
        sa.Column("seq", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("headers", JSONB, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("published_at", sa.DateTime(timezone=True)),
        sa.Index("outbox_unpublished", "seq", postgresql_where=sa.text("published_at IS NULL")),
    )


def inbox_table(metadata: sa.MetaData) -> sa.Table:
    """Define the table of messages whose effect is committed."""
    return sa.Table(
        "inbox",
        metadata,
        sa.Column("consumer", sa.Text, primary_key=True),
        sa.Column("message_id", sa.Text, primary_key=True),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )


@dataclass(frozen=True, slots=True)
class Event:
    """A fact to be told. `subject` is where; `id` makes its effect happen once; `headers` go along."""

    subject: str
    payload: bytes
    id: str
    headers: dict[str, str] = field(default_factory=dict)


def event(subject: str, payload: bytes) -> Event:
    """Return a fact with an id of its own."""
    return Event(subject, payload, ids.new_id())


async def put(connection: AsyncConnection, table: sa.Table, events: Sequence[Event], *, source: str) -> None:
    """Write events in the caller's transaction. They are published after its commit, in order."""
    if not events:
        return
    rows: list[dict[str, Any]] = [
        {
            "id": e.id,
            "subject": e.subject,
            "payload": e.payload,
            "headers": e.headers | {
                "ce-id": e.id, "ce-type": e.subject, "ce-source": source, "ce-specversion": "1.0",
                "x-request-id": telemetry.request_id(),
            },
        }
        for e in events
    ]  # fmt: skip
    await connection.execute(table.insert(), rows)
    await connection.execute(sa.text(f"NOTIFY {_CHANNEL}"))


async def first_time(connection: AsyncConnection, table: sa.Table, consumer: str, message_id: str) -> bool:
    """Record in the caller's transaction that a message is handled; False if it was before: then do nothing."""
    # RETURNING tells; the row count of an INSERT does not (SQLAlchemy answers -1).
    record = insert(table).values(consumer=consumer, message_id=message_id).on_conflict_do_nothing()
    recorded = await connection.execute(record.returning(table.c.message_id))
    return recorded.one_or_none() is not None


class Relay:
    """Carries rows from the outbox to the broker."""

    def __init__(self, database: Database, table: sa.Table, broker: bus.Bus) -> None:
        self._database = database
        self._table = table
        self._bus = broker

    async def run(self) -> None:
        """Publish for ever. NOTIFY wakes it, polling is the net."""
        async for _ in self._database.notified(_CHANNEL, _POLL_S):
            try:
                while await self._database.run("outbox relay", self._publish_batch) == _BATCH:
                    pass
            except AppError as fault:
                if not fault.codes.retryable:
                    raise
                log.warning("outbox waits", fault=str(fault))

    async def _publish_batch(self, connection: AsyncConnection) -> int:
        t = self._table
        if not (await connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_LOCK)))).scalar_one():
            return 0
        rows = (
            await connection.execute(
                sa.select(t.c.seq, t.c.id, t.c.subject, t.c.payload, t.c.headers)
                .where(t.c.published_at.is_(None)).order_by(t.c.seq).limit(_BATCH)
            )
        ).all()  # fmt: skip
        done: list[int] = []
        if rows:
            done = await self._publish(rows)
            await connection.execute(t.update().where(t.c.seq.in_(done)).values(published_at=sa.func.now()))
            PUBLISHED.inc(len(done))
        await connection.execute(
            t.delete().where(t.c.published_at < sa.func.now() - sa.text(f"interval '{int(_KEEP_S)} seconds'"))
        )  # fmt: skip
        pending, oldest = (
            await connection.execute(
                sa.select(sa.func.count(), sa.func.extract("epoch", sa.func.now() - sa.func.min(t.c.created_at)))
                .where(t.c.published_at.is_(None))
            )
        ).one()  # fmt: skip
        PENDING.set(pending)
        OLDEST.set(float(oldest or 0.0))
        return len(done)

    async def _publish(self, rows: Sequence[Any]) -> list[int]:
        """Publish rows with one window; return the sequence numbers of the leading run that the broker acknowledged."""
        waiting: list[asyncio.Future[PubAck]] = []
        try:
            async with asyncio.timeout(10.0):
                for row in rows:
                    headers = {**row.headers, "Nats-Msg-Id": row.id}
                    waiting.append(await self._bus.js.publish_async(row.subject, row.payload, headers=headers))
                results = await asyncio.gather(*waiting, return_exceptions=True)
        except bus.FAULTS as fault:
            log.warning("outbox publish failed", fault=repr(fault))
            results = [f.result() if f.done() and not f.cancelled() and not f.exception() else fault for f in waiting]
        finally:
            for future in waiting:
                future.cancel()
        done = []
        for row, result in zip(rows, results, strict=False):
            if isinstance(result, BaseException):
                log.warning("outbox row waits", subject=row.subject, fault=repr(result))
                break
            done.append(row.seq)
        return done
