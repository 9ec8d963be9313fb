"""Meetings as people see them: what may be said about one, and its accounts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.meetings.checks import Checks, clean_line

TITLE_LONGEST = 200
PARTICIPANTS_MOST = 200
NAME_LONGEST = 100
QUERY_LONGEST = 500
UNTITLED = "Untitled meeting"


class Status(StrEnum):
    """What happens to a meeting."""

    CREATED = "created"  # planned; nobody has spoken
    LIVE = "live"  # at least one session is open
    PROCESSING = "processing"  # a recording is being transcribed
    COMPLETED = "completed"  # every session is closed and stored
    FAILED = "failed"  # a recording could not be transcribed


@dataclass(frozen=True, slots=True)
class Meeting:
    """A meeting with its accounts. `version` counts what people change; that the transcript grows does not count."""

    id: str
    owner_id: str
    title: str
    language: str
    participants: tuple[str, ...]
    status: str
    version: int
    created_at: dt.datetime
    updated_at: dt.datetime
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    segments: int = 0
    draft_segments: int = 0
    audio_s: float = 0.0
    gap_s: float = 0.0
    coverage: float | None = None
    healing_segments: int = 0
    given_up_segments: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech as it stands in the database. Times are seconds from the start of the meeting.

    `revision` grows with each change, whoever made it. `edited` names those of text and speaker that hold a person's
    words; what was heard is told where something else is shown.
    """

    id: str
    meeting_id: str
    session_id: str
    index: int
    revision: int
    speaker: str
    start_s: float
    end_s: float
    text: str
    confidence: float | None
    engine: str
    quality: str
    edited: Sequence[str] = ()
    heard_text: str | None = None
    heard_speaker: str | None = None

    @property
    def is_draft(self) -> bool:
        """Whether the words that are shown are the embedded engine's."""
        return self.quality == "draft" and "text" not in self.edited


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of time for which there is no text, and why. Seconds from the start of the meeting."""

    session_id: str
    start_s: float
    end_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class NewMeeting:
    """A meeting to create, checked."""

    id: str
    owner_id: str
    title: str
    language: str
    participants: list[str]


@dataclass(frozen=True, slots=True)
class MeetingChange:
    """What a person changes; None leaves as it is."""

    title: str | None
    language: str | None
    participants: list[str] | None


@dataclass(frozen=True, slots=True)
class MeetingFilter:
    """Which meetings to list: words in title or transcript, creation from (inclusive) to (exclusive), status."""

    query: str = ""
    created_from: dt.datetime | None = None
    created_to: dt.datetime | None = None
    status: str = ""


def new_meeting(
    meeting_id: str, owner_id: str, *, title: str, language: str, participants: Sequence[str]
) -> NewMeeting:
    """Check a meeting to create. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    meeting = NewMeeting(
        checks.id("meeting_id", meeting_id),
        checks.id("owner_id", owner_id),
        checks.line("title", title, longest=TITLE_LONGEST, required=True),
        checks.language("language", language),
        checks.lines("participants", participants, most=PARTICIPANTS_MOST, longest=NAME_LONGEST),
    )
    checks.done()
    return meeting


def meeting_change(title: str | None, language: str | None, participants: Sequence[str] | None) -> MeetingChange:
    """Check a change. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    change = MeetingChange(
        None if title is None else checks.line("title", title, longest=TITLE_LONGEST, required=True),
        None if language is None else checks.language("language", language),
        None
        if participants is None
        else checks.lines("participants", participants, most=PARTICIPANTS_MOST, longest=NAME_LONGEST),
    )
    checks.done()
    return change


def meeting_filter(
    query: str, created_from: dt.datetime | None, created_to: dt.datetime | None, status: str = ""
) -> MeetingFilter:
    """Check what to look for. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    words = checks.line("q", query, longest=QUERY_LONGEST)
    if created_from and created_to and created_from > created_to:
        checks.fail("to", "must not be before from")
    if status:
        checks.choice("status", status, tuple(Status))
    checks.done()
    return MeetingFilter(words, created_from, created_to, status)


def title_of_session(title: str) -> str:
    """Return a title for a meeting that a session creates: its own, cut to what a title may have, or a plain one."""
    return clean_line(title)[:TITLE_LONGEST].strip() or UNTITLED
