from __future__ import annotations

import asyncio
import datetime as dt
import random
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from verbatim.meetings.v1.events_pb2 import MeetingCompleted
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import ids
from chassis.postgres import Database
from services.meetings import store
from services.meetings.meetings_store import MeetingsStore
from services.meetings.segments_store import SegmentsStore
from services.meetings.sessions_store import Stored
from services.meetings.tests.logbook import NOON, Logbook, meeting_log, numbered
from services.meetings.transcript import Delivered
from services.meetings.transcript_store import TranscriptStore

TABLES = (store.meetings, store.sessions, store.segments, store.gaps, store.suppressed, store.tombstones)

NUMBERS = ("entry", "newest_entry", "completed_entry")


async def rows(database: Database, *left_out: str) -> dict[str, list[Any]]:
    """Return everything that the log has made, without the times at which we wrote it."""
    found = {}
    async with database.engine.connect() as connection:
        for table in TABLES:
            columns = [c for c in table.c if c.name not in {"updated_at", "search", "deleted_at", *left_out}]
            query = sa.select(*columns).order_by(*table.primary_key.columns)
            found[table.name] = [tuple(row) for row in await connection.execute(query)]
    return found


async def completed(database: Database) -> list[MeetingCompleted]:
    query = sa.select(store.outbox_rows.c.payload).where(store.outbox_rows.c.subject == "events.meeting.completed")
    async with database.engine.connect() as connection:
        payloads = (await connection.execute(query.order_by(store.outbox_rows.c.seq))).scalars()
        return [MeetingCompleted.FromString(payload) for payload in payloads]


async def letters(database: Database) -> list[tuple[str, bytes, dict[str, Any]]]:
    """Return error, payload and what else is known of each dead letter."""
    query = sa.select(store.outbox_rows.c.payload).where(store.outbox_rows.c.subject == "dlq.transcript")
    async with database.engine.connect() as connection:
        found = (await connection.execute(query.order_by(store.outbox_rows.c.seq))).scalars()
    read = [orjson.loads(payload) for payload in found]
    return [(one["error"], bytes.fromhex(one["payload"]), one["about"] | {"subject": one["subject"]}) for one in read]


def batches(messages: list[Delivered], chance: random.Random) -> list[list[Delivered]]:
    cut = []
    while messages:
        size = chance.randint(1, 7)
        cut.append(messages[:size])
        messages = messages[size:]
    return cut


@pytest.mark.req("R-WS-4")
async def test_log_becomes_a_completed_meeting(
    transcripts: TranscriptStore, meetings: MeetingsStore, segments: SegmentsStore, database: Database, owner: str
) -> None:
    log = meeting_log(owner)
    applied = await transcripts.apply(numbered(log.entries))
    assert applied.stored == [Stored(log.session_id, log.end_offset, 7, closed=True)]
    meeting = await meetings.get(owner, log.meeting_id)
    assert (meeting.title, meeting.status, meeting.started_at) == ("Weekly", "completed", NOON)
    assert meeting.ended_at == NOON + dt.timedelta(seconds=log.end_s)
    assert (meeting.segments, meeting.draft_segments) == (4, 1)
    assert (meeting.audio_s, meeting.gap_s) == (log.end_s, 1.0)
    assert meeting.coverage == pytest.approx((log.end_s - 1) / log.end_s)
    page = await segments.list(owner, log.meeting_id, 50, "")
    assert [(s.index, s.revision, s.text, s.quality) for s in page.items] == [
        (0, 1, "Good morning everybody", "final"),
        (1, 2, "we ship on Friday", "final"),
        (2, 1, "Ben writes the report", "final"),
        (3, 1, "draft that never heals", "draft"),
    ]
    assert [gap.reason for gap in await segments.gaps(owner, log.meeting_id)] == ["client_missing"]
    assert len((await rows(database))["suppressed"]) == 1
    assert await completed(database) == [
        MeetingCompleted(meeting_id=log.meeting_id, owner_id=owner, language="en", day="2026-11-23")
    ]


@pytest.mark.req("R-WS-4")
@pytest.mark.req("R-DB-4")
@pytest.mark.parametrize("seed", range(4))
async def test_messages_that_come_again_in_any_order_change_nothing(
    transcripts: TranscriptStore, database: Database, owner: str, seed: int
) -> None:
    chance = random.Random(seed)
    one, two = meeting_log(owner), meeting_log(ids.new_id())
    mixed = [entry for pair in zip(one.entries, two.entries, strict=True) for entry in pair]
    messages = numbered(mixed)
    for batch in batches(messages, chance):
        await transcripts.apply(batch)
        if chance.random() < 0.5:
            await transcripts.apply(batch)
    once = await rows(database)
    assert len(once["segments"]) == 8
    for _ in range(3):
        again = messages * 2
        chance.shuffle(again)
        for batch in batches(again, chance):
            await transcripts.apply(batch)
    assert await rows(database) == once
    assert len(await completed(database)) == 2
    assert await letters(database) == []


@pytest.mark.req("R-WS-4", "R-DB-4", "R-HEAL-2")
@pytest.mark.parametrize("stored", [0, 1, 2, 4])
async def test_a_snapshot_brings_what_was_not_stored_when_the_log_was_deleted(
    transcripts: TranscriptStore, segments: SegmentsStore, database: Database, owner: str, stored: int
) -> None:
    log = Logbook(owner)
    log.say("Good morning everybody")
    draft = log.say("we ship on fryday", draft=True)
    log.miss()
    log.heal(draft, "we ship on Friday")
    before, snapshot = list(log.entries), log.snapshot()
    log.say("Ben writes the report")
    log.close()
    if stored:
        await transcripts.apply(numbered(before[:stored]))
    applied = await transcripts.apply(numbered([snapshot, *log.entries[len(before) :]], first=1000))
    assert applied.stored == [Stored(log.session_id, log.end_offset, 6, closed=True)]
    page = await segments.list(owner, log.meeting_id, 50, "")
    assert [(s.index, s.revision, s.text) for s in page.items] == [
        (0, 1, "Good morning everybody"),
        (1, 2, "we ship on Friday"),
        (2, 1, "Ben writes the report"),
    ]
    assert [gap.reason for gap in await segments.gaps(owner, log.meeting_id)] == ["client_missing"]
    assert await letters(database) == []
    assert applied.lost == {}


def test_a_snapshot_may_hold_only_entries_of_its_session() -> None:
    snapshot = meeting_log(ids.new_id()).snapshot()
    foreign = meeting_log(ids.new_id()).entries[1]
    for bad in (foreign, snapshot):
        worse = pb.TranscriptEntry()
        worse.CopyFrom(snapshot)
        worse.snapshot.recent.append(bad)
        [message] = numbered([worse])
        assert message.reason == "unreadable"


@pytest.mark.req("R-WS-4", "R-OBS-1")
async def test_segment_that_the_log_has_lost_is_missed_when_the_session_is_closed(
    transcripts: TranscriptStore, owner: str
) -> None:
    whole, holed = meeting_log(owner), meeting_log(owner)
    assert (await transcripts.apply(numbered(whole.entries))).lost == {}
    messages = numbered([e for e in holed.entries if not (e.HasField("segment") and e.segment.index == 2)], first=100)
    assert (await transcripts.apply(messages[:-1])).lost == {}
    assert (await transcripts.apply(messages[-1:])).lost == {holed.session_id: 1}
    assert (await transcripts.apply(messages)).lost == {}, "told once, however often the entry comes"


@pytest.mark.req("R-WS-4")
async def test_result_does_not_depend_on_how_the_log_is_cut_into_batches(
    transcripts: TranscriptStore, database: Database, owner: str
) -> None:
    # A draft that is revised within a batch takes one number, not two; what is told of them is in test_entries_store.
    log = meeting_log(owner)
    messages = numbered(log.entries)
    for message in messages:
        await transcripts.apply([message])
    single = await rows(database, *NUMBERS)
    async with database.engine.begin() as connection:
        await connection.execute(store.meetings.delete())
    await transcripts.apply(messages)
    assert await rows(database, *NUMBERS) == single


@pytest.mark.req("R-DB-4")
async def test_two_replicas_that_both_consume_do_no_harm(
    transcripts: TranscriptStore, database: Database, owner: str
) -> None:
    logs = [meeting_log(owner) for _ in range(6)]
    messages = numbered([entry for log in logs for entry in log.entries])
    cut = [messages[i : i + 5] for i in range(0, len(messages), 5)]

    async def consume() -> None:
        for batch in cut:
            await transcripts.apply(batch)

    await asyncio.gather(consume(), consume(), consume())
    found = await rows(database)
    assert len(found["segments"]) == 24
    assert len(await completed(database)) == 6
    assert await letters(database) == []


@pytest.mark.req("R-STT-5")
async def test_older_revision_never_replaces_a_newer_one(
    transcripts: TranscriptStore, segments: SegmentsStore, owner: str
) -> None:
    log = Logbook(owner)
    draft = log.say("draft", draft=True)
    log.heal(draft, "final")
    opened, first, second = numbered(log.entries)
    await transcripts.apply([opened, second])
    applied = await transcripts.apply([first])
    assert (applied.repeats, applied.segments.total()) == (1, 0)
    page = await segments.list(owner, log.meeting_id, 50, "")
    assert [(s.text, s.revision, s.quality) for s in page.items] == [("final", 2, "final")]


async def test_progress_is_the_last_sequence_and_never_goes_back(transcripts: TranscriptStore, owner: str) -> None:
    log = meeting_log(owner)
    messages = numbered(log.entries, first=41)
    assert await transcripts.progress() == (0, [])
    await transcripts.apply(messages)
    await transcripts.apply(messages[:2])
    sequence, stored = await transcripts.progress()
    assert sequence == messages[-1].sequence
    assert stored == []  # this session was closed long ago


async def test_open_sessions_are_announced_at_the_start(transcripts: TranscriptStore, owner: str) -> None:
    log = Logbook(owner)
    log.say("Hello")
    await transcripts.apply(numbered(log.entries))
    assert (await transcripts.progress())[1] == [Stored(log.session_id, log.end_offset, 1, closed=False)]


@pytest.mark.req("R-WS-7")
async def test_session_that_opens_later_is_shifted_to_the_start_of_the_meeting(
    transcripts: TranscriptStore, segments: SegmentsStore, meetings: MeetingsStore, database: Database, owner: str
) -> None:
    first = Logbook(owner, speaker="Ann")
    second = Logbook(owner, first.meeting_id, at=NOON + dt.timedelta(seconds=3.5), speaker="Ben")
    first.say("one", length_s=3)
    second.say("two")
    second.miss()
    first.say("three", length_s=3)
    await transcripts.apply(numbered([*first.entries[:1], *second.entries, *first.entries[1:]]))
    page = await segments.list(owner, first.meeting_id, 50, "")
    assert [(s.text, s.start_s, s.end_s) for s in page.items] == [
        ("one", 0.0, 3.0),
        ("three", 3.0, 6.0),
        ("two", 3.5, 5.5),
    ]
    assert [(gap.start_s, gap.end_s) for gap in await segments.gaps(owner, first.meeting_id)] == [(5.5, 6.5)]
    assert (await meetings.get(owner, first.meeting_id)).status == "live"


@pytest.mark.req("R-WS-7")
async def test_meeting_completes_when_its_last_session_closes(
    transcripts: TranscriptStore, meetings: MeetingsStore, database: Database, owner: str
) -> None:
    first = Logbook(owner)
    second = Logbook(owner, first.meeting_id)
    for log in (first, second):
        log.say("Hello")
        log.close()
    *most, last = numbered([*first.entries, *second.entries])
    await transcripts.apply(most)
    assert (await meetings.get(owner, first.meeting_id)).status == "live"
    assert await completed(database) == []
    await transcripts.apply([last])
    await transcripts.apply([*most, last])
    assert (await meetings.get(owner, first.meeting_id)).status == "completed"
    assert len(await completed(database)) == 1


async def test_session_in_a_meeting_that_was_completed_makes_it_live_again(
    transcripts: TranscriptStore, meetings: MeetingsStore, owner: str
) -> None:
    first = meeting_log(owner)
    second = Logbook(owner, first.meeting_id, at=NOON + dt.timedelta(hours=1))
    await transcripts.apply(numbered(first.entries))
    await transcripts.apply(numbered(second.entries, first=100))
    meeting = await meetings.get(owner, first.meeting_id)
    assert (meeting.status, meeting.ended_at, meeting.started_at) == ("live", None, NOON)


@pytest.mark.req("R-API-1")
async def test_what_still_comes_of_a_deleted_meeting_is_ignored_and_accounted_for(
    transcripts: TranscriptStore, meetings: MeetingsStore, database: Database, owner: str
) -> None:
    log = meeting_log(owner)
    messages = numbered(log.entries)
    await transcripts.apply(messages[:3])
    await meetings.delete(owner, log.meeting_id, 1)
    late = Logbook(owner, log.meeting_id)
    late.say("too late")
    applied = await transcripts.apply([*messages[3:], *numbered(late.entries, first=100)])
    await transcripts.apply(messages)
    found = await rows(database)
    assert all(found[table.name] == [] for table in TABLES if table is not store.tombstones)
    assert await letters(database) == []
    assert sorted(applied.stored, key=lambda s: s.closed) == [
        Stored(late.session_id, late.end_offset, 1, closed=False),
        Stored(log.session_id, log.end_offset, 7, closed=True),
    ]


@pytest.mark.req("R-AUTH-2")
async def test_session_in_a_meeting_of_another_goes_to_the_dead_letters(
    transcripts: TranscriptStore, segments: SegmentsStore, database: Database, owner: str
) -> None:
    mine = meeting_log(owner)
    theirs = Logbook(ids.new_id(), mine.meeting_id)
    theirs.say("I was never here")
    await transcripts.apply(numbered([*mine.entries, *theirs.entries]))
    assert len((await segments.list(owner, mine.meeting_id, 50, "")).items) == 4
    found = await letters(database)
    assert [payload for _, payload, _ in found] == [entry.SerializeToString() for entry in theirs.entries]
    assert {error for error, _, _ in found} == {"orphan"}


async def test_entry_that_cannot_be_read_goes_once_to_the_dead_letters_and_blocks_nothing(
    transcripts: TranscriptStore, segments: SegmentsStore, database: Database, owner: str
) -> None:
    log = meeting_log(owner)
    bad = pb.TranscriptEntry(session_id=log.session_id, position=99).SerializeToString()
    messages = numbered(log.entries)
    poisoned = [*messages[:3], Delivered(50, "transcript.x", bad, None, "unreadable", "no kind"), *messages[3:]]
    await transcripts.apply(poisoned)
    await transcripts.apply(poisoned)
    assert len((await segments.list(owner, log.meeting_id, 50, "")).items) == 4
    (letter,) = await letters(database)
    assert letter == ("unreadable: no kind", bad, {"sequence": 50, "subject": "transcript.x"})


async def test_nul_and_endless_words_of_an_engine_are_stored(
    transcripts: TranscriptStore, segments: SegmentsStore, owner: str
) -> None:
    log = Logbook(owner, title="\0" * 3)
    log.say("a\0b")
    log.say("word " * 100_000)
    log.say("x" * 500_000)
    await transcripts.apply(numbered(log.entries))
    page = await segments.list(owner, log.meeting_id, 50, "")
    assert [len(s.text) for s in page.items] == [2, 500_000, 500_000]


@pytest.mark.req("R-API-1")
async def test_segment_pages_neither_skip_nor_double_while_people_speak(
    transcripts: TranscriptStore, segments: SegmentsStore, owner: str
) -> None:
    log = Logbook(owner)
    for number in range(20):
        log.say(str(number))
    await transcripts.apply(numbered(log.entries))
    seen: list[str] = []
    cursor, sequence = "", 100
    while True:
        page = await segments.list(owner, log.meeting_id, 3, cursor)
        seen += [segment.text for segment in page.items]
        if len(seen) < 20:
            log.say(str(len(log.entries) - 1))
            await transcripts.apply(numbered(log.entries[-1:], first=sequence))
            sequence += 1
        if not page.next_cursor:
            break
        cursor = page.next_cursor
    assert seen == [str(number) for number in range(len(seen))]
    assert len(seen) == len(log.entries) - 1 > 20
    after = await segments.list(owner, log.meeting_id, 50, "", after_index=23)
    assert [segment.index for segment in after.items] == [24, 25]
    assert (await segments.list(owner, log.meeting_id, 50, "", after_index=2**32 - 1)).items == []
