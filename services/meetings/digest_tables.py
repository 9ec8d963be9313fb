"""The tables of digests: what is to be digested again, and what search looks in.

Triggers fill `digests_due` (migration 0010), so that no way to change a meeting or a task can forget it.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSVECTOR

from services.meetings.columns import METADATA, Id, Time, cascade, now, text

# One row for each change; a row that can be seen is one whose change can be seen.
digests_due = sa.Table(
    "digests_due", METADATA,
    sa.Column("seq", sa.BigInteger, sa.Identity(), primary_key=True),
    # meeting or task
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("id", Id, nullable=False),
    now("at"),
    sa.Index("digests_due_id", "id"),
)  # fmt: skip

# What insights wrote, as far as it is searched.
minutes_texts = sa.Table(
    "minutes_texts", METADATA,
    sa.Column("meeting_id", Id, cascade("meetings.id"), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    text("text"),
)  # fmt: skip

# Title, minutes and some hours of transcript as one vector: words are looked for in the meeting, not in one segment.
search_pages = sa.Table(
    "search_pages", METADATA,
    sa.Column("meeting_id", Id, cascade("meetings.id"), primary_key=True),
    sa.Column("page", sa.Integer, primary_key=True),
    sa.Column("owner_id", Id, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("search", TSVECTOR, nullable=False),
    sa.Index("search_pages_search", "search", postgresql_using="gin"),
)  # fmt: skip
