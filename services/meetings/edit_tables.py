"""The tables of what people change in transcripts, beside the segments themselves."""

from __future__ import annotations

import sqlalchemy as sa

from services.meetings.columns import METADATA, Id, cascade, now

# By what is heard of a speaker, the name that is shown in its place; also for segments that are yet to come.
speaker_names = sa.Table(
    "speaker_names", METADATA,
    sa.Column("meeting_id", Id, cascade("meetings.id"), primary_key=True),
    sa.Column("heard", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
)  # fmt: skip

# Meetings whose transcript people changed, and when last: told once it has rested.
transcripts_edited = sa.Table(
    "transcripts_edited", METADATA,
    sa.Column("meeting_id", Id, cascade("meetings.id"), primary_key=True),
    now("at"),
)  # fmt: skip
