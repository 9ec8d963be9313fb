"""Drafts in the database: revised once each, counted by what becomes of them, told of when none is left."""

from __future__ import annotations

import asyncio
import random

import pytest
import sqlalchemy as sa
from verbatim.meetings.v1.events_pb2 import MeetingHealed

from chassis import ids
from chassis.postgres import Database
from services.meetings import store
from services.meetings.entries_store import EntriesStore
from services.meetings.export import FORMATS
from services.meetings.meetings import MeetingFilter, Segment
from services.meetings.meetings_store import MeetingsStore
from services.meetings.segments_store import SegmentsStore
from services.meetings.tests.logbook import Logbook, numbered
from services.meetings.tests.test_transcript_store import batches, completed, rows
from services.meetings.transcript_store import TranscriptStore

pytestmark = pytest.mark.req("R-STT-5")


async def told(database: Database) -> list[MeetingHealed]:
    query = sa.select(store.outbox_rows.c.payload).where(store.outbox_rows.c.subject == "events.meeting.healed")
    async with database.engine.connect() as connection:
        payloads = (await connection.execute(query.order_by(store.outbox_rows.c.seq))).scalars()
        return [MeetingHealed.FromString(payload) for payload in payloads]


def healed_after_the_end(owner: str) -> Logbook:
    log = Logbook(owner)
    drafts = [log.say(text, draft=True) for text in ("we ship on fryday", "", "ann rites the report")]
    log.close(heals=True)
    for draft, text in zip(drafts, ("we ship on Friday", "really", "Ann writes the report"), strict=True):
        log.heal(draft, text)
    return log


async def test_revisions_after_the_end_reach_transcript_search_and_export(
    transcripts: TranscriptStore, meetings: MeetingsStore, segments: SegmentsStore, database: Database, owner: str
) -> None:
    log = healed_after_the_end(owner)
    messages = numbered(log.entries)
    await transcripts.apply(messages[:5])
    meeting = await meetings.get(owner, log.meeting_id)
    assert (meeting.status, meeting.draft_segments, meeting.healing_segments) == ("completed", 3, 3)
    assert len((await meetings.list(owner, MeetingFilter("fryday"), 10, "")).items) == 1
    for message in messages[5:]:
        assert await told(database) == []
        await transcripts.apply([message])
    meeting = await meetings.get(owner, log.meeting_id)
    assert (meeting.segments, meeting.draft_segments, meeting.healing_segments) == (3, 0, 0)
    page = await segments.list(owner, log.meeting_id, 50, "")
    assert [(s.revision, s.quality, s.text) for s in page.items] == [
        (2, "final", "we ship on Friday"), (2, "final", "really"), (2, "final", "Ann writes the report"),
    ]  # fmt: skip
    assert (await meetings.list(owner, MeetingFilter("fryday"), 10, "")).items == []
    assert len((await meetings.list(owner, MeetingFilter("friday"), 10, "")).items) == 1
    export = FORMATS["txt"](meeting, [])
    lines = [export.segment(segment) async for segment in segments.transcript(owner, log.meeting_id)]
    assert "".join(lines).count("\n") == 3
    assert await told(database) == [
        MeetingHealed(meeting_id=log.meeting_id, owner_id=owner, language="en", day="2026-11-23")
    ]
    assert len(await completed(database)) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_that_a_meeting_has_healed_is_told_once_however_the_log_comes(
    transcripts: TranscriptStore, database: Database, owner: str, seed: int
) -> None:
    chance = random.Random(seed)
    log = healed_after_the_end(owner)
    messages = numbered(log.entries)
    for batch in batches(messages, chance):
        await transcripts.apply(batch)
        await transcripts.apply(batch)
    once = await rows(database)
    for batch in batches(messages * 2, chance):
        await transcripts.apply(batch)
    assert await rows(database) == once
    # When the end and the last revision come together, the completed transcript is whole: nothing is to be told again.
    assert len(await told(database)) <= 1


async def test_meeting_with_several_sessions_has_healed_when_the_last_of_them_has(
    transcripts: TranscriptStore, database: Database, owner: str
) -> None:
    one = Logbook(owner)
    other = Logbook(owner, one.meeting_id)
    drafts = [log.say("rubbish", draft=True) for log in (one, other)]
    one.close(heals=True)
    other.close(heals=True)
    await transcripts.apply(numbered([*one.entries, *other.entries]))
    one.heal(drafts[0], "sense")
    await transcripts.apply(numbered(one.entries[-1:], 100))
    assert await told(database) == []
    other.heal(drafts[1], "sense")
    await transcripts.apply(numbered(other.entries[-1:], 101))
    assert len(await told(database)) == 1


async def test_meeting_that_goes_on_is_not_told_to_have_healed(
    transcripts: TranscriptStore, database: Database, owner: str
) -> None:
    log = Logbook(owner)
    draft = log.say("rubbish", draft=True)
    log.heal(draft, "sense")
    log.say("more")
    for message in numbered(log.entries):
        await transcripts.apply([message])
    log.close(heals=True)
    await transcripts.apply(numbered(log.entries[-1:], 100))
    assert await told(database) == []
    assert len(await completed(database)) == 1


async def test_what_is_given_up_stays_a_draft_and_is_counted(
    transcripts: TranscriptStore, meetings: MeetingsStore, entries: EntriesStore, database: Database, owner: str
) -> None:
    log = Logbook(owner)
    drafts = [log.say(text, draft=True) for text in ("one", "two", "three")]
    log.close(heals=True)
    await transcripts.apply(numbered(log.entries))
    assert (await entries.after(owner, log.meeting_id, 0, 10)).healing == 3
    log.heal(drafts[0], "One.")
    log.give_up(*drafts[1:])
    messages = numbered(log.entries[-2:], 100)
    for message in (*messages, *messages):
        await transcripts.apply([message])
    meeting = await meetings.get(owner, log.meeting_id)
    assert (meeting.draft_segments, meeting.healing_segments, meeting.given_up_segments) == (2, 0, 2)
    assert (await entries.after(owner, log.meeting_id, 0, 10)).healing == 0
    assert len(await told(database)) == 1


async def test_without_a_better_engine_nothing_is_waited_for(
    transcripts: TranscriptStore, meetings: MeetingsStore, entries: EntriesStore, owner: str
) -> None:
    log = Logbook(owner)
    log.say("one", draft=True)
    await transcripts.apply(numbered(log.entries))
    assert (await meetings.get(owner, log.meeting_id)).healing_segments == 1  # nobody knows before the end
    log.close(heals=False)
    await transcripts.apply(numbered(log.entries[-1:], 100))
    meeting = await meetings.get(owner, log.meeting_id)
    assert (meeting.draft_segments, meeting.healing_segments, meeting.given_up_segments) == (1, 0, 0)
    assert (await entries.after(owner, log.meeting_id, 0, 10)).healing == 0


async def test_whoever_reads_on_gets_each_revision_once_also_after_the_end(
    transcripts: TranscriptStore, entries: EntriesStore, owner: str
) -> None:
    log = healed_after_the_end(owner)
    at, seen = 0, list[tuple[int, int]]()
    for message in numbered(log.entries):
        await transcripts.apply([message])
        await transcripts.apply([message])
        found = await entries.after(owner, log.meeting_id, at, 10)
        seen += [(what.index, what.revision) for _, what in found.rows if isinstance(what, Segment)]
        at = max([at, *(number for number, _ in found.rows)])
    assert seen == [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)]


async def test_text_that_a_revision_takes_back_is_kept_apart(
    transcripts: TranscriptStore, database: Database, owner: str
) -> None:
    log = Logbook(owner)
    draft = log.say("invented", draft=True)
    log.close(heals=True)
    healed = log.heal(draft, "")
    healed.suppressed.text, healed.suppressed.reason, healed.suppressed.engine = "thank you", "phrase", "api"
    log.entries[-1].segment.CopyFrom(healed)
    await transcripts.apply(numbered(log.entries))
    found = await rows(database)
    assert [row[-3:] for row in found["suppressed"]] == [("thank you", "phrase", "api")]
    assert [row[8] for row in found["segments"]] == [""]


async def test_healing_of_a_deleted_meeting_changes_nothing(
    transcripts: TranscriptStore, meetings: MeetingsStore, database: Database, owner: str
) -> None:
    log = healed_after_the_end(owner)
    messages = numbered(log.entries)
    await transcripts.apply(messages[:5])
    await meetings.delete(owner, log.meeting_id, 1)
    await asyncio.gather(*(transcripts.apply([message]) for message in messages[5:]))
    assert (await rows(database))["segments"] == []
    assert await told(database) == []
    assert ids.is_id(log.session_id)
