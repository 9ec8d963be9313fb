"""The tables of webhooks, of what is sent to them, and of what accounts have used."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from services.meetings.columns import METADATA, Id, Time, cascade, now, text, version

webhooks = sa.Table(
    "webhooks", METADATA,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", Id, cascade("accounts.id"), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("events", ARRAY(sa.Text), nullable=False),
    text("description"),
    sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
    text("disabled_reason"),
    sa.Column("disabled_at", Time),
    # Deliveries given up since the last that went well.
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    # Secrets are not stored: they follow from these numbers and a key that is not in the database.
    sa.Column("secret_number", sa.Integer, nullable=False, server_default="1"),
    sa.Column("previous_until", Time),
    version(),
    now("created_at"),
    now("updated_at"),
    sa.Index("webhooks_of_owner", "owner_id", "created_at", "id"),
)  # fmt: skip

deliveries = sa.Table(
    "webhook_deliveries", METADATA,
    sa.Column("id", Id, primary_key=True),
    sa.Column("webhook_id", Id, cascade("webhooks.id"), nullable=False),
    sa.Column("owner_id", Id, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("meeting_id", Id),
    # Exactly the bytes that are signed and sent, in every attempt.
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("job_id", sa.Text, nullable=False),
    # Of the last attempt.
    sa.Column("attempted_at", Time),
    sa.Column("response_status", sa.Integer, nullable=False, server_default="0"),
    sa.Column("delivered_at", Time),
    sa.Column("dead_at", Time),
    now("created_at"),
    sa.Index("webhook_deliveries_of_webhook", "webhook_id", "created_at", "id"),
    sa.Index("webhook_deliveries_of_meeting", "meeting_id", postgresql_where=sa.text("meeting_id IS NOT NULL")),
    sa.Index("webhook_deliveries_age", "created_at"),
)  # fmt: skip

# Seconds of audio per account and calendar month (its first day, UTC), of closed sessions. Who deletes a meeting has
# used it all the same.
audio_usage = sa.Table(
    "audio_usage", METADATA,
    sa.Column("owner_id", Id, primary_key=True),
    sa.Column("month", sa.Date, primary_key=True),
    sa.Column("audio_s", sa.Double, nullable=False, server_default="0"),
)  # fmt: skip
