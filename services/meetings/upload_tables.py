"""The tables of uploads and of background jobs."""

from __future__ import annotations

import sqlalchemy as sa

from chassis import jobs
from services.meetings.columns import METADATA, Id, Time, now

job_rows = jobs.jobs_table(METADATA)

uploads = sa.Table(
    "uploads", METADATA,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", Id, nullable=False),
    # Of a meeting that is there, or of the one that is made when the file has arrived.
    sa.Column("meeting_id", Id, nullable=False),
    sa.Column("makes_meeting", sa.Boolean, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("container", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("job_id", sa.Text),
    # Why the file cannot be transcribed; empty if that is not known of it.
    sa.Column("refusal", sa.Text, nullable=False, server_default=""),
    now("created_at"),
    sa.Column("expires_at", Time, nullable=False),
    sa.Index("uploads_of_owner", "owner_id", "created_at"),
    sa.Index("uploads_of_meeting", "meeting_id"),
)  # fmt: skip
