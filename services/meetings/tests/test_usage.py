"""What accounts have used is counted once, from what is stored, whatever comes twice or is deleted."""

from __future__ import annotations

import datetime as dt

import pytest

from chassis import ids
from chassis.postgres import Database
from services.meetings.meetings_store import MeetingsStore
from services.meetings.tests.logbook import Logbook, meeting_log, numbered
from services.meetings.transcript_store import TranscriptStore
from services.meetings.usage_store import UsageStore, month_of

pytestmark = pytest.mark.req("R-RL-1")


async def test_audio_of_closed_sessions_is_charged_once_and_stays_charged(
    database: Database, transcripts: TranscriptStore, meetings: MeetingsStore, owner: str
) -> None:
    usage = UsageStore(database)
    logs = [meeting_log(owner), meeting_log(owner), meeting_log(ids.new_id())]
    for log in logs:
        for _ in range(2):  # what is delivered again
            await transcripts.apply(numbered(log.entries))
    found = [await meetings.get(owner, log.meeting_id) for log in logs[:2]]
    spoken = sum(meeting.audio_s for meeting in found)
    at = found[0].ended_at
    assert at is not None and spoken > 0
    assert (await usage.of(owner, at)).audio_s == pytest.approx(spoken)
    await meetings.delete(owner, found[0].id, found[0].version)
    assert (await usage.of(owner, at)).audio_s == pytest.approx(spoken)
    assert (await usage.of(owner, at + dt.timedelta(days=32))).audio_s == 0.0
    assert (await usage.of(ids.new_id(), at)).audio_s == 0.0


async def test_a_session_under_way_counts_by_how_long_it_is_open(
    database: Database, transcripts: TranscriptStore, owner: str
) -> None:
    log = Logbook(owner)
    log.say("Good morning")
    await transcripts.apply(numbered(log.entries))
    now = dt.datetime.now(dt.UTC)
    counted = (await UsageStore(database).of(owner, now)).audio_s
    assert 0.0 < counted <= 86_400.0


@pytest.mark.parametrize(
    ("now", "start", "end"),
    [
        ("2026-11-28T12:00:00+00:00", "2026-11-01", "2026-12-01"),
        ("2026-12-31T23:59:59+00:00", "2026-12-01", "2027-01-01"),
        ("2027-01-01T00:30:00+02:00", "2026-12-01", "2027-01-01"),
        ("2028-02-29T00:00:00+00:00", "2028-02-01", "2028-03-01"),
    ],
)
def test_months_are_those_of_the_calendar_in_utc(now: str, start: str, end: str) -> None:
    found = month_of(dt.datetime.fromisoformat(now))
    assert [one.date().isoformat() for one in found] == [start, end]
