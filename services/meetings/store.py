"""The tables of the meetings database, and whether they are there."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, TSVECTOR, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import idempotency, outbox, pruning, relay
from chassis.errors import AppError, Kind
from services.meetings import account_tables, digest_tables, edit_tables, upload_tables, webhook_tables  # noqa: F401 - parts of METADATA
from services.meetings.checks import not_found
from services.meetings.columns import METADATA, Id, Time, cascade, now, text, version

# The oldest schema that this code works on: numbers of migrations, which compare as text.
REVISION = "0012"
SOURCE = "meetings"


def _search(column: str, longest: int) -> sa.Column[object]:
    # `simple`: meetings are held in many languages, and a wrong stemmer finds less than none. Postgres refuses a
    # text vector over 1 MiB, so what is searched is cut, not what is kept.
    return sa.Column(
        "search", TSVECTOR, sa.Computed(f"to_tsvector('simple'::regconfig, left({column}, {longest}))", persisted=True)
    )


def _entry() -> sa.Column[object]:
    """The number of the entry within its meeting. 0, which no viewer asks for, is what code before 0002 writes."""
    return sa.Column("entry", sa.BigInteger, nullable=False, server_default="0")


meetings = sa.Table(
    "meetings", METADATA,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", Id, nullable=False),
    text("title"),
    text("language"),
    sa.Column("participants", ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("status", sa.Text, nullable=False, server_default="created"),
    version(),
    now("created_at"),
    now("updated_at"),
    sa.Column("started_at", Time),
    sa.Column("ended_at", Time),
    # Numbers of entries (see entries_store.py): the newest one, that of the last completion, that of the minutes.
    sa.Column("newest_entry", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("completed_entry", sa.BigInteger),
    sa.Column("insights_entry", sa.BigInteger),
    # Of the minutes from which the tasks were made: what comes late of older ones is not applied.
    sa.Column("insights_version", sa.BigInteger, nullable=False, server_default="0"),
    _search("title", 10_000),
    sa.Index("meetings_of_owner", "owner_id", "created_at", "id"),
    sa.Index("meetings_search", "search", postgresql_using="gin"),
)  # fmt: skip

sessions = sa.Table(
    "sessions", METADATA,
    sa.Column("id", Id, primary_key=True),
    sa.Column("meeting_id", Id, cascade("meetings.id"), nullable=False),
    # Seconds from the start of the meeting to that of the session.
    sa.Column("shift_s", sa.Double, nullable=False),
    sa.Column("opened_at", Time, nullable=False),
    # How far the log is stored: see transcript.Watermark.
    sa.Column("position", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("event", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("end_offset", sa.BigInteger, nullable=False, server_default="0"),
    # The accounts, from the entry that closed it.
    sa.Column("closed_at", Time),
    sa.Column("close_reason", sa.Text),
    sa.Column("received_bytes", sa.BigInteger),
    sa.Column("audio_s", sa.Double),
    sa.Column("gap_s", sa.Double),
    sa.Column("transcribed_s", sa.Double),
    sa.Column("silence_s", sa.Double),
    sa.Column("coverage", sa.Double),
    # Whether a better engine will hear its drafts again.
    sa.Column("heals", sa.Boolean),
    sa.Index("sessions_of_meeting", "meeting_id"),
    sa.Index("sessions_open", "id", postgresql_where=sa.text("closed_at IS NULL")),
    sa.Index("sessions_closed", "closed_at"),
)  # fmt: skip

segments = sa.Table(
    "segments", METADATA,
    sa.Column("session_id", Id, cascade("sessions.id"), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("meeting_id", Id, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    text("speaker"),
    # Seconds from the start of the meeting.
    sa.Column("start_s", sa.Double, nullable=False),
    sa.Column("end_s", sa.Double, nullable=False),
    text("text"),
    sa.Column("confidence", sa.Double),
    text("engine"),
    sa.Column("quality", sa.Text, nullable=False),
    # A draft that nobody will hear again.
    sa.Column("given_up", sa.Boolean, nullable=False, server_default=sa.false()),
    # Byte range in the session's stream.
    sa.Column("start_offset", sa.BigInteger, nullable=False),
    sa.Column("end_offset", sa.BigInteger, nullable=False),
    _entry(),
    # What people changed: how often, which of text and speaker hold their words, and what was heard in their place.
    sa.Column("edits", sa.Integer, nullable=False, server_default="0"),
    sa.Column("edited", ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("heard_text", sa.Text),
    sa.Column("heard_speaker", sa.Text),
    _search("text", 200_000),
    sa.CheckConstraint("quality IN ('final', 'draft')", name="segments_quality"),
    sa.Index("segments_of_meeting", "meeting_id", "start_s", "session_id", "index"),
    sa.Index("segments_of_meeting_by_entry", "meeting_id", "entry"),
    sa.Index("segments_drafts", "meeting_id", postgresql_where=sa.text("quality = 'draft'")),
    sa.Index("segments_search", "search", postgresql_using="gin"),
)  # fmt: skip

gaps = sa.Table(
    "gaps", METADATA,
    sa.Column("session_id", Id, cascade("sessions.id"), primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True),
    sa.Column("meeting_id", Id, nullable=False),
    sa.Column("start_s", sa.Double, nullable=False),
    sa.Column("end_s", sa.Double, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    _entry(),
    sa.Index("gaps_of_meeting", "meeting_id", "start_s"),
    sa.Index("gaps_of_meeting_by_entry", "meeting_id", "entry"),
)  # fmt: skip

suppressed = sa.Table(
    "suppressed", METADATA,
    sa.Column("session_id", Id, cascade("sessions.id"), primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True),
    sa.Column("meeting_id", Id, nullable=False),
    sa.Column("start_s", sa.Double, nullable=False),
    sa.Column("end_s", sa.Double, nullable=False),
    text("text"),
    text("reason"),
    text("engine"),
)  # fmt: skip

tasks = sa.Table(
    "tasks", METADATA,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", Id, nullable=False),
    sa.Column("meeting_id", Id, cascade("meetings.id")),
    text("title"),
    text("assignee"),
    sa.Column("due", sa.Date),
    sa.Column("status", sa.Text, nullable=False, server_default="open"),
    text("source_segment_id"),
    sa.Column("origin", sa.Text, nullable=False),
    # Whether it was found in a transcript, whoever changed it since.
    sa.Column("found", sa.Boolean, nullable=False, server_default=sa.false()),
    version(),
    now("created_at"),
    now("updated_at"),
    sa.CheckConstraint("status IN ('open', 'done')", name="tasks_status"),
    sa.Index("tasks_of_owner", "owner_id", "created_at", "id"),
    sa.Index("tasks_of_meeting", "meeting_id"),
)  # fmt: skip

# Ids of meetings, sessions and tasks that were deleted: what still tells of them is ignored, none comes back.
tombstones = sa.Table(
    "tombstones", METADATA,
    sa.Column("id", Id, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    # Of a task: where it was found, so that it does not come back in other words.
    sa.Column("meeting_id", Id),
    text("source_segment_id"),
    now("deleted_at"),
    sa.Index("tombstones_of_meeting", "meeting_id", postgresql_where=sa.text("meeting_id IS NOT NULL")),
)  # fmt: skip

# How far a stream is applied: written with the effect, so that a consumer that starts again knows where.
progress = sa.Table(
    "progress", METADATA,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)  # fmt: skip

idempotency_keys = idempotency.keys_table(METADATA)

outbox_rows = outbox.outbox_table(METADATA)
inbox_rows = outbox.inbox_table(METADATA)
streams_seen = relay.streams_table(METADATA)

# Sessions' logs and events are gone long before: nothing can tell of the dead any more.
PRUNED = [
    *pruning.inbox_rules(inbox_rows),
    *pruning.jobs_rules(upload_tables.job_rows),
    pruning.Rule(tombstones, pruning.older(tombstones.c.deleted_at, 90)),
    pruning.Rule(idempotency_keys, idempotency_keys.c.expires_at < sa.func.now()),
    pruning.Rule(webhook_tables.deliveries, pruning.older(webhook_tables.deliveries.c.created_at, 30)),
    pruning.Rule(webhook_tables.audio_usage, pruning.older(webhook_tables.audio_usage.c.month, 400)),
]


async def version_conflict(connection: AsyncConnection, table: sa.Table, owner_id: str, row_id: str) -> AppError:
    """Say why a change by version met no row: it is not there (or another's), or has another version by now."""
    current = (
        await connection.execute(sa.select(table.c.version).where(table.c.id == row_id, table.c.owner_id == owner_id))
    ).scalar_one_or_none()
    if current is None:
        return not_found(table.name.removesuffix("s"))
    return AppError(Kind.PRECONDITION_FAILED, "Somebody else has changed it meanwhile.", version=current)


async def is_deleted(connection: AsyncConnection, row_id: str) -> bool:
    """Tell whether something with this id was deleted."""
    query = sa.select(sa.exists().where(tombstones.c.id == row_id))
    return bool((await connection.execute(query)).scalar_one())


async def bury(connection: AsyncConnection, kind: str, row_ids: Iterable[str], **more: str) -> None:
    """Note ids as deleted, with what else their tombstones say."""
    rows = [{"id": row_id, "kind": kind, **more} for row_id in row_ids]
    if rows:
        await connection.execute(insert(tombstones).on_conflict_do_nothing(), rows)
