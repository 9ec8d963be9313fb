"""Clocks that differ: times in the log are those of whoever wrote it, and a session may have had several writers."""

from __future__ import annotations

import datetime as dt

import pytest

from services.meetings.meetings_store import MeetingsStore
from services.meetings.segments_store import SegmentsStore
from services.meetings.tests.logbook import NOON, Logbook, numbered
from services.meetings.transcript_store import TranscriptStore


@pytest.mark.req("R-WS-4")
@pytest.mark.parametrize("behind_s", [5.0, 300.0])
async def test_no_duration_is_negative_however_the_clocks_of_transcribers_differ(
    transcripts: TranscriptStore, meetings: MeetingsStore, segments: SegmentsStore, owner: str, behind_s: float
) -> None:
    first = Logbook(owner)
    first.say("opened by the clock that is ahead")
    first.at -= dt.timedelta(seconds=behind_s)
    first.resume()
    first.say("adopted by the one that is behind")
    # A second microphone, at the one that is behind, before the meeting has begun by the other's clock.
    second = Logbook(owner, first.meeting_id, at=NOON - dt.timedelta(seconds=behind_s))
    second.say("hello")
    second.close()
    first.close()
    await transcripts.apply(numbered([*first.entries, *second.entries]))
    meeting = await meetings.get(owner, first.meeting_id)
    assert meeting.started_at is not None
    assert meeting.ended_at is not None
    assert meeting.ended_at >= meeting.started_at
    found = (await segments.list(owner, first.meeting_id, 50, "")).items
    assert [s.text for s in found if s.session_id == first.session_id] == [
        "opened by the clock that is ahead", "adopted by the one that is behind",
    ]  # fmt: skip
    assert all(0.0 <= s.start_s < s.end_s for s in found)
    assert [s.start_s for s in found] == sorted(s.start_s for s in found)
