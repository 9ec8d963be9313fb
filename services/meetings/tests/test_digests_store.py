"""Digests: what is told of meetings and tasks after a change, on the real tables."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from verbatim.meetings.v1.figures_pb2 import MeetingFigures, TaskFigures

from chassis import ids
from chassis.postgres import Database
from services.meetings import store
from services.meetings.digest_tables import digests_due, search_pages
from services.meetings.digests_store import MEETING_FIGURES, TASK_FIGURES, DigestsStore
from services.meetings.meetings import MeetingFilter, meeting_change, new_meeting
from services.meetings.meetings_store import MeetingsStore
from services.meetings.tasks import new_task, task_change
from services.meetings.tasks_store import TasksStore
from services.meetings.tests.logbook import NOON, Logbook, numbered
from services.meetings.transcript_store import TranscriptStore

pytestmark = pytest.mark.req("R-API-4")


@pytest.fixture
def digests(database: Database) -> DigestsStore:
    return DigestsStore(database, live_every_s=0.0)


async def told(database: Database) -> tuple[dict[str, MeetingFigures], dict[str, TaskFigures]]:
    """Return what was told last of each thing; versions must have grown."""
    o = store.outbox_rows.c
    async with database.engine.connect() as connection:
        query = sa.select(o.subject, o.payload).where(o.subject.like("events.figures.%")).order_by(o.seq)
        rows = (await connection.execute(query)).all()
    meetings: dict[str, MeetingFigures] = {}
    tasks: dict[str, TaskFigures] = {}
    for subject, payload in rows:
        if subject == MEETING_FIGURES:
            fact = MeetingFigures.FromString(payload)
            before = meetings.get(fact.meeting_id)
            assert before is None or before.version < fact.version
            meetings[fact.meeting_id] = fact
        else:
            assert subject == TASK_FIGURES
            done = TaskFigures.FromString(payload)
            tasks[done.task_id] = done
    return meetings, tasks


async def rows_of(database: Database, table: sa.Table) -> int:
    async with database.engine.connect() as connection:
        return int((await connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one())


async def test_a_meeting_is_told_with_who_spoke_how_long_and_how_many_words(
    database: Database, digests: DigestsStore, transcripts: TranscriptStore, owner: str
) -> None:
    log = Logbook(owner, speaker="Ann")
    log.say("We ship — on Friday, at 5", length_s=2.5)
    log.say("会議は金曜日 is on", length_s=1.0)
    other = Logbook(owner, log.meeting_id, speaker="Ben")
    other.say("  Good.  ", length_s=1.5)
    await transcripts.apply(numbered([*log.entries, *other.entries]))
    assert (await digests.renew()).meetings == 1
    assert (await digests.renew()).total == 0
    meetings, _ = await told(database)
    fact = meetings[log.meeting_id]
    assert fact.owner_id == owner
    assert fact.began_at.ToDatetime(tzinfo=dt.UTC) == NOON
    assert [(s.speaker, s.talk_s, s.words) for s in fact.speakers] == [("Ann", 3.5, 6 + 6 + 2), ("Ben", 1.5, 1)]


async def test_a_revision_is_told_instead_of_what_it_replaces(
    database: Database, digests: DigestsStore, transcripts: TranscriptStore, owner: str
) -> None:
    log = Logbook(owner)
    draft = log.say("one two three", draft=True)
    await transcripts.apply(numbered(log.entries))
    await digests.renew()
    log.heal(draft, "one two three four five")
    # The whole log comes a second time, as after a restart.
    await transcripts.apply(numbered(log.entries))
    await digests.renew()
    meetings, _ = await told(database)
    assert [s.words for s in meetings[log.meeting_id].speakers] == [5]


async def test_tasks_are_told_as_they_change_and_with_their_meeting(
    database: Database, digests: DigestsStore, meetings: MeetingsStore, tasks: TasksStore, owner: str
) -> None:
    meeting = await meetings.create(new_meeting(ids.new_id(), owner, title="A", language="", participants=[]))
    about = {"assignee": "", "due": "", "source_segment_id": ""}
    first = await tasks.create(new_task(ids.new_id(), owner, title="x", meeting_id=meeting.id, **about))
    second = await tasks.create(new_task(ids.new_id(), owner, title="y", meeting_id="", **about))
    await tasks.update(owner, second.id, 1, task_change(title=None, assignee=None, due=None, status="done"))
    assert (await digests.renew()).tasks == 2
    _, figures = await told(database)
    assert {one.task_id: one.status for one in figures.values()} == {first.id: "open", second.id: "done"}
    await meetings.delete(owner, meeting.id, 1)
    await tasks.delete(owner, second.id, 2)
    assert (await digests.renew()).gone == 3
    left, figures = await told(database)
    assert left[meeting.id].deleted
    assert all(one.deleted for one in figures.values())
    assert await rows_of(database, search_pages) == 0


async def test_a_meeting_that_goes_on_is_digested_now_and_then(
    database: Database, transcripts: TranscriptStore, owner: str
) -> None:
    log = Logbook(owner)
    log.say("hello")
    await transcripts.apply(numbered(log.entries))
    patient = DigestsStore(database, live_every_s=3600.0)
    assert (await patient.renew()).total == 0
    log.close()
    await transcripts.apply(numbered(log.entries))
    assert (await patient.renew()).meetings == 1


async def test_everything_can_be_digested_again(
    database: Database, digests: DigestsStore, meetings: MeetingsStore, owner: str
) -> None:
    for number in range(3):
        await meetings.create(new_meeting(ids.new_id(), owner, title=f"{number}", language="", participants=[]))
    assert (await digests.renew(most=2)).meetings == 2
    assert (await digests.renew(most=2)).meetings == 1
    async with database.engine.begin() as connection:
        await connection.execute(search_pages.delete())
    await digests.rebuild()
    assert (await digests.renew()).meetings == 3
    assert await rows_of(database, search_pages) == 3
    assert await rows_of(database, digests_due) == 0


@pytest.mark.req("R-API-1")
async def test_words_are_found_in_pages_title_and_minutes_and_the_best_comes_first(
    database: Database, digests: DigestsStore, meetings: MeetingsStore, tasks: TasksStore, transcripts: TranscriptStore,
    owner: str,
) -> None:  # fmt: skip
    titled = await meetings.create(
        new_meeting(ids.new_id(), owner, title="Budget of the harbour", language="", participants=[])
    )
    spoken = Logbook(owner, title="Weekly")
    spoken.say("The budget <b>is spent</b> & gone")
    spoken.say("so the harbour waits", length_s=3.0)
    minuted = Logbook(owner, title="Review")
    minuted.say("nothing of note")
    await transcripts.apply(numbered([*spoken.entries, *minuted.entries]))
    await tasks.store_found(
        ids.new_id(), owner, minuted.meeting_id, [], version=1, minutes="They spoke of the harbour budget."
    )

    async def found(query: str) -> list[str]:
        return [meeting.id for meeting in (await meetings.list(owner, MeetingFilter(query), 10, "")).items]

    for _ in range(2):  # before anything is digested, and after
        # Both words, though no segment has both; the title weighs more than minutes, these more than what was said.
        assert await found("harbour budget") == [titled.id, minuted.meeting_id, spoken.meeting_id]
        assert await found("budget -minutes -weekly") == [titled.id, minuted.meeting_id]
        assert await found("harbour or nothing") == [titled.id, minuted.meeting_id, spoken.meeting_id]
        assert await found("-budget") == []
        assert await found("@" + owner) == []
        hits = await meetings.hits("harbour budget", [titled.id, minuted.meeting_id, spoken.meeting_id])
        assert [hit.kind for hit in hits[titled.id]] == ["title"]
        assert hits[titled.id][0].snippet == (("Budget", True), (" of the ", False), ("harbour", True))
        assert [hit.kind for hit in hits[minuted.meeting_id]] == ["minutes"]
        first, second = hits[spoken.meeting_id]
        assert (first.kind, first.start_s, second.start_s, second.end_s) == ("segment", 0.0, 2.0, 5.0)
        assert ("budget", True) in first.snippet
        assert second.speaker == "Ann"
        while (await digests.renew()).total:
            pass


@pytest.mark.req("R-API-1")
async def test_a_change_is_found_before_it_is_digested_and_what_it_replaces_is_not(
    digests: DigestsStore, meetings: MeetingsStore, owner: str
) -> None:
    meeting = await meetings.create(new_meeting(ids.new_id(), owner, title="Old name", language="", participants=[]))
    await digests.renew()
    await meetings.update(owner, meeting.id, 1, meeting_change("New name", None, None))
    for query, many in (("old", 0), ("new", 1)):
        assert len((await meetings.list(owner, MeetingFilter(query), 10, "")).items) == many
    await meetings.delete(owner, meeting.id, 2)
    assert (await meetings.list(owner, MeetingFilter("new"), 10, "")).items == []


@pytest.mark.req("R-API-1")
async def test_pages_of_what_was_found_go_on_where_the_last_one_ended(
    digests: DigestsStore, meetings: MeetingsStore, owner: str
) -> None:
    made = [
        await meetings.create(new_meeting(ids.new_id(), owner, title="tide " * n, language="", participants=[]))
        for n in (1, 2, 3, 3, 1)
    ]
    await meetings.create(new_meeting(ids.new_id(), ids.new_id(), title="tide", language="", participants=[]))
    await digests.renew()
    seen: list[str] = []
    cursor = ""
    while True:
        page = await meetings.list(owner, MeetingFilter("tide"), 2, cursor)
        seen += [meeting.id for meeting in page.items]
        if not (cursor := page.next_cursor):
            break
    assert sorted(seen) == sorted(one.id for one in made)
    whole = [meeting.id for meeting in (await meetings.list(owner, MeetingFilter("tide"), 10, "")).items]
    assert seen == whole
