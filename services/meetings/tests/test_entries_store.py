from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from chassis import ids, postgres
from chassis.errors import AppError, Kind
from chassis.migrations import migrate
from chassis.tests.servers import PostgresServer
from services.meetings.__main__ import MIGRATIONS
from services.meetings.entries_store import Entries, EntriesStore, InsightsMade
from services.meetings.meetings import Gap, Segment
from services.meetings.tasks_store import TasksStore
from services.meetings.tests.logbook import Logbook, meeting_log, numbered
from services.meetings.transcript import Delivered
from services.meetings.transcript_store import TranscriptStore


def said(found: Entries) -> list[str]:
    """Return the texts in order, with words for what has none."""
    words = []
    for _, what in found.rows:
        words.append(what.text if isinstance(what, Segment) else "gap" if isinstance(what, Gap) else "insights")
    return words


async def store(transcripts: TranscriptStore, *logs: Logbook, one_by_one: bool = False) -> None:
    messages = numbered([entry for log in logs for entry in log.entries])
    for batch in [[message] for message in messages] if one_by_one else [messages]:
        await transcripts.apply(batch)


@pytest.mark.req("R-WS-6")
@pytest.mark.parametrize("one_by_one", [False, True])
async def test_entries_come_in_the_order_of_the_log_and_a_revision_is_a_new_entry(
    transcripts: TranscriptStore, entries: EntriesStore, owner: str, one_by_one: bool
) -> None:
    log = meeting_log(owner)
    await store(transcripts, log, one_by_one=one_by_one)
    found = await entries.after(owner, log.meeting_id, 0, 200)
    assert said(found) == [
        "Good morning everybody", "gap", "Ben writes the report", "we ship on Friday", "draft that never heals",
    ]  # fmt: skip
    numbers = [number for number, _ in found.rows]
    assert numbers == sorted(set(numbers))
    assert found.newest > numbers[-1]  # its completion has a number too
    assert (found.completed, found.insights_made, found.open_sessions) == (True, False, [])


@pytest.mark.req("R-WS-6")
async def test_whoever_reads_on_while_it_is_spoken_gets_each_revision_once(
    transcripts: TranscriptStore, entries: EntriesStore, owner: str
) -> None:
    log = Logbook(owner)
    draft = log.say("we ship on fryday", draft=True)
    log.say("all of us")
    log.heal(draft, "we ship on Friday")
    seen: list[str] = []
    at = 0
    for message in numbered(log.entries):
        await transcripts.apply([message])
        await transcripts.apply([message])  # delivered twice
        found = await entries.after(owner, log.meeting_id, at, 1)
        seen += said(found)
        at = max([at, *(number for number, _ in found.rows)])
    assert seen == ["we ship on fryday", "all of us", "we ship on Friday"]
    assert (await entries.after(owner, log.meeting_id, at, 10)).rows == []


@pytest.mark.req("R-WS-6")
async def test_pages_of_one_hold_everything_once(
    transcripts: TranscriptStore, entries: EntriesStore, owner: str
) -> None:
    log = meeting_log(owner)
    await store(transcripts, log)
    seen: list[str] = []
    at = 0
    while (page := await entries.after(owner, log.meeting_id, at, 1)).rows:
        assert len(page.rows) == 1
        seen += said(page)
        at = page.rows[0][0]
    assert seen == said(await entries.after(owner, log.meeting_id, 0, 200))


@pytest.mark.req("R-WS-6", "R-WS-7")
async def test_sessions_of_one_meeting_share_one_row_of_numbers(
    transcripts: TranscriptStore, entries: EntriesStore, owner: str
) -> None:
    first = Logbook(owner, speaker="Ann")
    second = Logbook(owner, first.meeting_id, speaker="Ben")
    for turn in range(3):
        first.say(f"Ann {turn}")
        second.say(f"Ben {turn}")
    woven = [entry for pair in zip(first.entries, second.entries, strict=True) for entry in pair]
    await transcripts.apply(numbered(woven))
    found = await entries.after(owner, first.meeting_id, 0, 200)
    assert said(found) == ["Ann 0", "Ben 0", "Ann 1", "Ben 1", "Ann 2", "Ben 2"]
    assert {session for session, _ in found.open_sessions} == {first.session_id, second.session_id}
    assert not found.completed


@pytest.mark.req("R-WS-6")
async def test_minutes_are_an_entry_once_per_event(
    transcripts: TranscriptStore, tasks: TasksStore, entries: EntriesStore, owner: str
) -> None:
    log = meeting_log(owner)
    await store(transcripts, log)
    before = (await entries.after(owner, log.meeting_id, 0, 200)).newest
    for message in ("m-1", "m-1"):
        await tasks.store_found(message, owner, log.meeting_id, [])
    found = await entries.after(owner, log.meeting_id, before, 200)
    assert found.rows == [(before + 1, InsightsMade())]
    assert (found.newest, found.insights_made) == (before + 1, True)
    await tasks.store_found("m-2", owner, log.meeting_id, [])
    assert (await entries.after(owner, log.meeting_id, 0, 200)).rows[-1] == (before + 2, InsightsMade())


@pytest.mark.req("R-WS-6", "R-AUTH-2")
async def test_numbers_of_the_future_and_meetings_of_others_are_refused(
    transcripts: TranscriptStore, entries: EntriesStore, owner: str
) -> None:
    log = meeting_log(owner)
    await store(transcripts, log)
    newest = (await entries.after(owner, log.meeting_id, 0, 200)).newest
    assert (await entries.after(owner, log.meeting_id, newest, 200)).rows == []
    for who, after, kind in (
        (owner, newest + 1, Kind.VALIDATION_FAILED),
        (owner, -1, Kind.VALIDATION_FAILED),
        (ids.new_id(), 0, Kind.NOT_FOUND),
    ):
        with pytest.raises(AppError) as caught:
            await entries.after(who, log.meeting_id, after, 200)
        assert caught.value.kind == kind


@pytest.mark.req("R-WS-6")
async def test_what_is_read_while_others_write_has_no_hole(
    transcripts: TranscriptStore, tasks: TasksStore, entries: EntriesStore, owner: str
) -> None:
    """Minutes are numbered by another transaction than segments; nothing may appear below what was read."""
    log = Logbook(owner)
    for turn in range(60):
        log.say(f"turn {turn}")
    first, *rest = numbered(log.entries)
    await transcripts.apply([first])
    writing = asyncio.gather(
        _apply_each(transcripts, rest),
        *(tasks.store_found(f"m-{n}", owner, log.meeting_id, []) for n in range(20)),
    )
    seen: list[int] = []
    texts: list[str] = []
    while True:
        over = writing.done()
        found = await entries.after(owner, log.meeting_id, seen[-1] if seen else 0, 7)
        seen += [number for number, _ in found.rows]
        texts += [what.text for _, what in found.rows if isinstance(what, Segment)]
        if over and not found.rows:
            break
    await writing
    assert seen == sorted(set(seen))
    assert texts == [f"turn {turn}" for turn in range(60)]


async def _apply_each(transcripts: TranscriptStore, messages: list[Delivered]) -> None:
    for message in messages:
        await transcripts.apply([message])


@pytest.mark.req("R-DB-5", "R-WS-6")
async def test_transcripts_from_before_the_numbers_are_numbered_by_time(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    migrate(url, MIGRATIONS, revision="0001")
    owner, meeting, session = ids.new_id(), ids.new_id(), ids.new_id()
    with sa.create_engine(url).begin() as connection:
        connection.execute(
            sa.text("INSERT INTO meetings (id, owner_id, status) VALUES (:m, :o, 'completed')"),
            {"m": meeting, "o": owner},
        )
        connection.execute(
            sa.text(
                "INSERT INTO sessions (id, meeting_id, shift_s, opened_at, closed_at) VALUES (:s, :m, 0, now(), now())"
            ),
            {"s": session, "m": meeting},
        )
        for index, start in ((0, 0.0), (1, 5.0)):
            connection.execute(
                sa.text(
                    "INSERT INTO segments (session_id, index, id, meeting_id, revision, start_s, end_s, text, quality,"
                    " start_offset, end_offset) VALUES (:s, :i, 'x', :m, 1, :at, :at, 'spoken', 'final', 0, 0)"
                ),
                {"s": session, "m": meeting, "i": index, "at": start},
            )
        connection.execute(
            sa.text(
                "INSERT INTO gaps (session_id, position, meeting_id, start_s, end_s, reason) VALUES"
                " (:s, 3, :m, 2, 5, 'undecodable')"
            ),
            {"s": session, "m": meeting},
        )
    migrate(url, MIGRATIONS)
    async with postgres.database(url, production=False) as database:
        found = await EntriesStore(database).after(owner, meeting, 0, 200)
    assert [number for number, _ in found.rows] == [1, 2, 3]
    assert said(found)[1] == "gap"
    assert (found.newest, found.completed) == (4, True)
