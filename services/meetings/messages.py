"""How requests say ids, times and what is not given, and how answers say times, meetings and segments."""

from __future__ import annotations

import datetime as dt
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from verbatim.meetings.v1 import meetings_pb2 as meetings_pb

from services.meetings.checks import Checks
from services.meetings.meetings import Meeting, Segment


def id_of(request: Any, field: str) -> str:
    """Return an id that the gateway knows to be one. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    found = checks.id(field, getattr(request, field))
    checks.done()
    return found


def given(request: Any, field: str) -> Any:
    """Return an optional field, None if it is not there."""
    return getattr(request, field) if request.HasField(field) else None


def time_of(request: Any, field: str) -> dt.datetime | None:
    """Return a time, None if it is not there. Raises AppError(VALIDATION_FAILED) for one that no calendar knows."""
    if not request.HasField(field):
        return None
    checks = Checks()
    found = None
    try:
        found = getattr(request, field).ToDatetime(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        checks.fail(field, "is no time")
    checks.done()
    return found


def stamp(at: dt.datetime | None) -> Timestamp | None:
    """Return a time as messages say it."""
    if at is None:
        return None
    said = Timestamp()
    said.FromDatetime(at)
    return said


def meeting_message(m: Meeting) -> meetings_pb.Meeting:
    """Return a meeting as answers say it."""
    return meetings_pb.Meeting(
        id=m.id, owner_id=m.owner_id, title=m.title, language=m.language, participants=m.participants,
        status=m.status, version=m.version, created_at=stamp(m.created_at), updated_at=stamp(m.updated_at),
        started_at=stamp(m.started_at), ended_at=stamp(m.ended_at), segments=m.segments,
        draft_segments=m.draft_segments, audio_s=m.audio_s, gap_s=m.gap_s, coverage=m.coverage,
        healing_segments=m.healing_segments, given_up_segments=m.given_up_segments,
    )  # fmt: skip


def segment_message(s: Segment) -> meetings_pb.TranscriptSegment:
    """Return a segment as answers say it."""
    return meetings_pb.TranscriptSegment(
        id=s.id, meeting_id=s.meeting_id, session_id=s.session_id, index=s.index, revision=s.revision,
        speaker=s.speaker, start_s=s.start_s, end_s=s.end_s, text=s.text, confidence=s.confidence, engine=s.engine,
        quality=s.quality, edited=s.edited, heard_text=s.heard_text, heard_speaker=s.heard_speaker,
    )  # fmt: skip
