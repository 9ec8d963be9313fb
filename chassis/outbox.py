"""Transactional outbox and inbox: no event without its row, no row without its event, each event's effect once.

The rows are carried to the broker by `chassis.relay`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from nats.aio.msg import Msg
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, ids, telemetry, tracing

EVENTS = bus.Stream("EVENTS", ("events.>",), max_bytes=1024**3, max_age_s=7 * 86400)
CHANNEL = "outbox"

# The broker takes messages up to a megabyte, headers included. One that it refuses would be tried for ever.
PAYLOAD_BYTES_MAX = 900 * 1024


def outbox_table(metadata: sa.MetaData) -> sa.Table:
    """Define the table of events that wait for the broker, and of those that it has had for a while.

    `stream_seq` is where the broker put the event: by it the relay sees whether the broker has lost it since.
    """
    return sa.Table(
        "outbox",
        metadata,
        sa.Column("seq", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("aggregate", sa.Text, nullable=False, server_default=""),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("headers", JSONB, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("published_at", sa.DateTime(timezone=True)),
        sa.Column("stream_seq", sa.BigInteger),
        sa.Index("outbox_unpublished", "seq", postgresql_where=sa.text("published_at IS NULL")),
        sa.Index("outbox_published", "published_at"),
        sa.Index("outbox_placed", "stream_seq"),
    )


def inbox_table(metadata: sa.MetaData) -> sa.Table:
    """Define the table of messages whose effect is committed."""
    return sa.Table(
        "inbox",
        metadata,
        sa.Column("consumer", sa.Text, primary_key=True),
        sa.Column("message_id", sa.Text, primary_key=True),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Index("inbox_handled", "handled_at"),
    )


@dataclass(frozen=True, slots=True)
class Event:
    """A fact to be told.

    `subject` is where; `id` makes its effect happen once; `headers` go along. Facts of one `aggregate` (the id of the
    thing that they are about) arrive in the order of their transactions; without one, in any.
    """

    subject: str
    payload: bytes
    id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    aggregate: str = ""


def event(subject: str, payload: bytes, aggregate: str = "", *, traceparent: str = "") -> Event:
    """Return a fact with an id of its own; `traceparent` if it belongs to another trace than the current one."""
    headers = {tracing.HEADER: traceparent} if traceparent else {}
    return Event(subject, payload, ids.new_id(), headers, aggregate)


async def put(connection: AsyncConnection, table: sa.Table, events: Sequence[Event], *, source: str) -> None:
    """Write events in the caller's transaction. They are published after its commit.

    Raises ValueError for one that no broker would take.
    """
    if not events:
        return
    now = datetime.now(UTC).isoformat()
    rows: list[dict[str, Any]] = []
    for one in events:
        if len(one.payload) > PAYLOAD_BYTES_MAX:
            raise ValueError(f"an event on {one.subject} of {len(one.payload)} bytes is too large to be published")
        # CloudEvents 1.0, binary mode.
        attributes = {
            "ce-specversion": "1.0", "ce-id": one.id, "ce-type": one.subject, "ce-source": source, "ce-time": now,
            "x-request-id": telemetry.request_id(), **tracing.carried(),
        }  # fmt: skip
        if one.aggregate:
            attributes["ce-subject"] = one.aggregate
        rows.append({
            "id": one.id, "subject": one.subject, "aggregate": one.aggregate, "payload": one.payload,
            # An event may say itself to which trace it belongs.
            "headers": {**attributes, **one.headers},
        })  # fmt: skip
    await connection.execute(table.insert(), rows)
    await connection.execute(sa.text(f"NOTIFY {CHANNEL}"))


def event_id(message: Msg) -> str:
    """Return the id by which a message's effect happens once, however often and by whichever way the message comes."""
    carried = (message.headers or {}).get("ce-id")
    return carried or f"{message.metadata.stream}/{message.metadata.sequence.stream}"


async def first_time(connection: AsyncConnection, table: sa.Table, consumer: str, message_id: str) -> bool:
    """Record in the caller's transaction that a message is handled; False if it was before: then do nothing."""
    # RETURNING tells; the row count of an INSERT does not (SQLAlchemy answers -1).
    record = insert(table).values(consumer=consumer, message_id=message_id).on_conflict_do_nothing()
    recorded = await connection.execute(record.returning(table.c.message_id))
    return recorded.one_or_none() is not None
