"""What people write into transcripts: it stands whatever is heard later, everywhere that a transcript is read."""

from __future__ import annotations

import asyncio
import random

import orjson
import pytest
import sqlalchemy as sa
from verbatim.meetings.v1.events_pb2 import MeetingEdited

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.meetings import store
from services.meetings.digests_store import DigestsStore
from services.meetings.edits import Renaming, SegmentChange, renaming, segment_change
from services.meetings.edits_store import EDITED, EditsStore
from services.meetings.entries_store import EntriesStore
from services.meetings.export import FORMATS
from services.meetings.meetings import MeetingFilter, Segment
from services.meetings.meetings_store import MeetingsStore
from services.meetings.segments_store import SegmentsStore
from services.meetings.tests.logbook import Logbook, numbered
from services.meetings.tests.test_transcript_store import batches
from services.meetings.transcript_store import TranscriptStore

pytestmark = pytest.mark.req("R-STT-5")


@pytest.fixture
def edits(database: Database) -> EditsStore:
    # Many of them wait for one row, on machines that have much else to do.
    return EditsStore(database.patient())


def said(text: str | None = None, speaker: str | None = None, back: tuple[str, ...] = ()) -> SegmentChange:
    return segment_change(text, speaker, back)


async def told(database: Database) -> list[MeetingEdited]:
    query = sa.select(store.outbox_rows.c.payload).where(store.outbox_rows.c.subject == EDITED)
    async with database.engine.connect() as connection:
        return [MeetingEdited.FromString(payload) for payload in (await connection.execute(query)).scalars()]


async def the_segments(segments: SegmentsStore, log: Logbook) -> list[Segment]:
    return list((await segments.list(log.owner_id, log.meeting_id, 50, "")).items)


def drafted(owner: str) -> Logbook:
    log = Logbook(owner)
    log.say("we ship on fryday", draft=True)
    log.say("ann rites the report", draft=True)
    log.close(heals=True)
    return log


async def test_edited_text_is_never_overwritten_by_healing_and_can_be_given_back(
    transcripts: TranscriptStore, edits: EditsStore, segments: SegmentsStore, owner: str
) -> None:
    log = drafted(owner)
    first = log.entries[1].segment
    await transcripts.apply(numbered(log.entries))
    edited = await edits.update(owner, log.meeting_id, first.segment_id, 1, said("We ship on Monday."))
    assert (edited.revision, edited.text, edited.edited) == (2, "We ship on Monday.", ["text"])
    assert (edited.heard_text, edited.heard_speaker, edited.is_draft) == ("we ship on fryday", None, False)

    log.heal(first, "we ship on Friday")
    healing = numbered(log.entries[-1:], 100)
    for _ in range(2):
        await transcripts.apply(healing)
    found = await edits.get(owner, log.meeting_id, first.segment_id)
    assert (found.revision, found.text, found.quality) == (3, "We ship on Monday.", "final")
    assert found.heard_text == "we ship on Friday"
    assert (await the_segments(segments, log))[0] == found

    back = await edits.update(owner, log.meeting_id, first.segment_id, 3, said(back=("text",)))
    assert (back.revision, back.text, back.edited, back.heard_text) == (4, "we ship on Friday", [], None)


async def test_control_without_the_rule_healing_would_overwrite_it(
    transcripts: TranscriptStore, edits: EditsStore, database: Database, owner: str
) -> None:
    log = drafted(owner)
    first = log.entries[1].segment
    await transcripts.apply(numbered(log.entries))
    await edits.update(owner, log.meeting_id, first.segment_id, 1, said("We ship on Monday."))
    async with database.engine.begin() as connection:  # nobody knows that a person wrote it
        await connection.execute(store.segments.update().values(edited=[]))
    log.heal(first, "we ship on Friday")
    await transcripts.apply(numbered(log.entries[-1:], 100))
    assert (await edits.get(owner, log.meeting_id, first.segment_id)).text == "we ship on Friday"


@pytest.mark.parametrize("seed", range(2))
async def test_edits_and_healing_at_the_same_moment_lose_nothing(
    transcripts: TranscriptStore,
    edits: EditsStore,
    segments: SegmentsStore,
    entries: EntriesStore,
    owner: str,
    seed: int,
) -> None:
    chance = random.Random(seed)
    log = Logbook(owner)
    drafts = [log.say(f"draft {n}", draft=True) for n in range(12)]
    log.close(heals=True)
    messages = numbered(log.entries)
    await transcripts.apply(messages)
    for n, draft in enumerate(drafts):
        log.heal(draft, f"healed {n}")
    healing = numbered(log.entries[len(messages) :], 100)

    async def edit(number: int) -> None:
        while True:
            segment = await edits.get(owner, log.meeting_id, drafts[number].segment_id)
            try:
                await edits.update(
                    owner, log.meeting_id, segment.id, segment.revision, said(f"written {number}", f"Person {number}")
                )
            except AppError as fault:
                assert fault.kind is Kind.PRECONDITION_FAILED
            else:
                return

    async def heal() -> None:
        for batch in batches(healing, chance):
            await transcripts.apply(batch)

    await asyncio.gather(heal(), *(edit(n) for n in range(0, 12, 2)))
    found = await the_segments(segments, log)
    assert [s.text for s in found] == [f"written {n}" if n % 2 == 0 else f"healed {n}" for n in range(12)]
    assert [s.heard_text for s in found] == [f"healed {n}" if n % 2 == 0 else None for n in range(12)]
    assert [s.heard_speaker for s in found] == ["Ann" if n % 2 == 0 else None for n in range(12)]
    assert {s.quality for s in found} == {"final"}
    shown = (await entries.after(owner, log.meeting_id, 0, 50)).rows
    assert len({number for number, _ in shown}) == 12
    assert sorted((s.index, s.revision) for _, s in shown if isinstance(s, Segment)) == [
        (n, 3 if n % 2 == 0 else 2) for n in range(12)
    ]


async def test_a_renamed_speaker_has_the_new_name_in_what_was_said_and_in_what_comes(
    transcripts: TranscriptStore, edits: EditsStore, segments: SegmentsStore, meetings: MeetingsStore, owner: str
) -> None:
    one, other = Logbook(owner, speaker="Speaker 1"), Logbook(owner, speaker="")
    other.meeting_id = other.entries[0].opened.meeting_id = one.meeting_id
    draft = one.say("good mourning", draft=True)
    other.say("hello")
    await transcripts.apply(numbered([*one.entries, *other.entries]))
    meeting = await edits.rename(owner, one.meeting_id, 1, Renaming("Speaker 1", "Ada"))
    assert meeting.version == 2
    await edits.rename(owner, one.meeting_id, 2, Renaming("", "Grace"))
    await edits.rename(owner, one.meeting_id, 3, Renaming("Ada", "Ada L."))
    done = len(one.entries)
    one.heal(draft, "good morning")
    one.say("more")
    await transcripts.apply(numbered(one.entries[done:], 100))
    found = await the_segments(segments, one)
    shown = {(s.text, s.speaker, s.heard_speaker, s.revision, tuple(s.edited)) for s in found}
    assert shown == {
        ("good morning", "Ada L.", "Speaker 1", 4, ()),
        ("hello", "Grace", "", 2, ()),
        ("more", "Ada L.", "Speaker 1", 1, ()),
    }
    # Taken back: what was heard is shown again, and a real Ada who joins later keeps her name.
    await edits.rename(owner, one.meeting_id, 4, Renaming("Ada L.", "Speaker 1"))
    one.say("and more")
    late = Logbook(owner, one.meeting_id, speaker="Ada L.")
    late.say("I am here")
    await transcripts.apply(numbered([one.entries[-1], *late.entries], 200))
    found = await the_segments(segments, one)
    assert {s.speaker: s.heard_speaker for s in found} == {"Speaker 1": None, "Grace": "", "Ada L.": None}
    assert (await meetings.get(owner, one.meeting_id)).version == 5


async def test_a_speaker_that_a_person_set_stays_and_is_given_back_by_its_present_name(
    transcripts: TranscriptStore, edits: EditsStore, owner: str
) -> None:
    log = Logbook(owner, speaker="Speaker 1")
    draft = log.say("hello", draft=True)
    log.say("again")
    await transcripts.apply(numbered(log.entries))
    await edits.update(owner, log.meeting_id, draft.segment_id, 1, said(speaker="Grace"))
    await edits.rename(owner, log.meeting_id, 1, Renaming("Speaker 1", "Ada"))
    log.heal(draft, "Hello.")
    await transcripts.apply(numbered(log.entries[-1:], 100))
    found = await edits.get(owner, log.meeting_id, draft.segment_id)
    assert (found.text, found.speaker, found.heard_speaker, found.edited) == (
        "Hello.",
        "Grace",
        "Speaker 1",
        ["speaker"],
    )
    await edits.rename(owner, log.meeting_id, 2, Renaming("Grace", "Grace H."))
    back = await edits.update(owner, log.meeting_id, draft.segment_id, found.revision + 1, said(back=("speaker",)))
    assert (back.speaker, back.heard_speaker, back.edited) == ("Ada", "Speaker 1", [])


@pytest.mark.req("R-API-5")
async def test_of_edits_of_one_version_one_wins_and_the_rest_are_told_the_version_of_now(
    transcripts: TranscriptStore, edits: EditsStore, owner: str
) -> None:
    log = drafted(owner)
    await transcripts.apply(numbered(log.entries))
    segment_id = log.entries[1].segment.segment_id

    async def edit(number: int) -> int:
        try:
            await edits.update(owner, log.meeting_id, segment_id, 1, said(f"by {number}"))
        except AppError as fault:
            assert (fault.kind, fault.version) == (Kind.PRECONDITION_FAILED, 2)
            return 0
        return 1

    assert sum(await asyncio.gather(*(edit(n) for n in range(10)))) == 1
    with pytest.raises(AppError) as caught:
        await edits.rename(owner, log.meeting_id, 7, Renaming("Ann", "Ada"))
    assert (caught.value.kind, caught.value.version) == (Kind.PRECONDITION_FAILED, 1)


@pytest.mark.req("R-AUTH-2")
async def test_what_is_anothers_or_of_another_meeting_is_not_found(
    transcripts: TranscriptStore, edits: EditsStore, owner: str
) -> None:
    log, elsewhere = drafted(owner), drafted(owner)
    await transcripts.apply(numbered([*log.entries, *elsewhere.entries]))
    segment_id, stranger = log.entries[1].segment.segment_id, ids.new_id()
    for who, meeting_id in ((stranger, log.meeting_id), (owner, elsewhere.meeting_id)):
        with pytest.raises(AppError) as caught:
            await edits.update(who, meeting_id, segment_id, 1, said("mine now"))
        assert caught.value.kind is Kind.NOT_FOUND
        with pytest.raises(AppError) as caught:
            await edits.get(who, meeting_id, segment_id)
        assert caught.value.kind is Kind.NOT_FOUND
    with pytest.raises(AppError) as caught:
        await edits.rename(stranger, log.meeting_id, 1, Renaming("Ann", "Ada"))
    assert caught.value.kind is Kind.NOT_FOUND
    assert (await edits.get(owner, log.meeting_id, segment_id)).text == "we ship on fryday"


@pytest.mark.req("R-API-1")
async def test_search_exports_and_viewers_see_what_people_wrote(
    transcripts: TranscriptStore, edits: EditsStore, segments: SegmentsStore, meetings: MeetingsStore,
    entries: EntriesStore, database: Database, owner: str,
) -> None:  # fmt: skip
    log = drafted(owner)
    await transcripts.apply(numbered(log.entries))
    digests = DigestsStore(database)
    newest = (await entries.after(owner, log.meeting_id, 0, 50)).newest
    await edits.update(owner, log.meeting_id, log.entries[1].segment.segment_id, 1, said("we ship the zeppelin"))
    await edits.rename(owner, log.meeting_id, 1, Renaming("Ann", "Ada"))
    for digested in (False, True):
        if digested:
            await digests.renew()
        assert len((await meetings.list(owner, MeetingFilter("zeppelin"), 10, "")).items) == 1
        assert (await meetings.list(owner, MeetingFilter("fryday"), 10, "")).items == []
    (hits,) = (await meetings.hits("zeppelin", [log.meeting_id])).values()
    assert [(hit.kind, hit.speaker) for hit in hits] == [("segment", "Ada")]

    meeting = await meetings.get(owner, log.meeting_id)
    files = {}
    for name, form in FORMATS.items():
        export = form(meeting, [])
        rows = [export.segment(segment) async for segment in segments.transcript(owner, log.meeting_id)]
        files[name] = export.head() + "".join(rows) + export.tail()
        assert "zeppelin" in files[name]
        assert "Ada" in files[name]
        assert name == "json" or "fryday" not in files[name]
    assert files["md"].count("*(draft)*") == 1
    first, second = orjson.loads(files["json"])["segments"]
    assert (first["edited"], first["heard"]) == (["text"], {"text": "we ship on fryday", "speaker": "Ann"})
    assert (second["edited"], second["heard"]) == ([], {"text": None, "speaker": "Ann"})

    news = await entries.after(owner, log.meeting_id, newest, 50)
    assert [(s.index, s.revision) for _, s in news.rows if isinstance(s, Segment)] == [(0, 3), (1, 2)]


async def test_a_completed_transcript_is_told_of_once_when_its_editors_rest(
    transcripts: TranscriptStore, edits: EditsStore, meetings: MeetingsStore, database: Database, owner: str
) -> None:
    log, live = drafted(owner), Logbook(owner)
    spoken = live.say("still talking")
    await transcripts.apply(numbered([*log.entries, *live.entries]))
    for version, text in ((1, "one"), (2, "two"), (3, "three")):
        await edits.update(owner, log.meeting_id, log.entries[1].segment.segment_id, version, said(text))
        assert await edits.tell_rested(60.0) == 0
    await edits.update(owner, live.meeting_id, spoken.segment_id, 1, said("spoken"))
    assert sum(await asyncio.gather(*(edits.tell_rested(0.0) for _ in range(3)))) == 2
    assert await told(database) == [
        MeetingEdited(meeting_id=log.meeting_id, owner_id=owner, language="en", day="2026-11-23")
    ]
    await edits.rename(owner, log.meeting_id, 1, Renaming("nobody", "Ada"))
    assert await edits.tell_rested(0.0) == 0
    await edits.rename(owner, log.meeting_id, 2, Renaming("Ann", "Ada"))
    await meetings.delete(owner, log.meeting_id, 3)
    assert await edits.tell_rested(0.0) == 0


@pytest.mark.req("R-VAL-1")
def test_what_is_no_text_or_no_name_is_refused_by_field() -> None:
    for wrong in (
        lambda: segment_change(" \n", None, []),
        lambda: segment_change("x" * 10_001, None, []),
        lambda: segment_change(None, "", []),
        lambda: segment_change(None, None, ["engine"]),
        lambda: renaming("Ann", " "),
        lambda: renaming("Ann", "x" * 101),
    ):
        with pytest.raises(AppError) as caught:
            wrong()
        assert caught.value.kind is Kind.VALIDATION_FAILED
    assert segment_change("two\nlines\0", None, []).text == "two lines"
