"""Which segments wait to be heard again, and what is known of them: the log says it, to everybody the same."""

from __future__ import annotations

import pytest
from verbatim.transcript.v1 import transcript_pb2 as pb

from services.transcriber.cutting import Utterance
from services.transcriber.filters import FilterSettings, trim_run_on
from services.transcriber.recognition import Recognition
from services.transcriber.segments import entry_kind, revision
from services.transcriber.tests.test_transcript import SESSION, segment, write
from services.transcriber.transcript import Ledger, fold
from services.transcriber.transcription import Transcription, Word

pytestmark = pytest.mark.req("R-STT-5")

LOUD = b"\x00\x20" * 16_000
FILTERS = FilterSettings()


def opened() -> Ledger:
    ledger = Ledger(SESSION)
    write(ledger, opened=pb.Opened(owner_id="o", meeting_id="m"))
    return ledger


def said(index: int, start: int, end: int, text: str, *, context: int | None = None, draft: bool = True) -> pb.Segment:
    told = segment(index, start, end, draft=draft)
    told.text = text
    told.context_offset = start if context is None else context
    told.audio_sequence = 100 + index
    return told


def healed(ledger: Ledger, index: int, text: str) -> pb.TranscriptEntry:
    told = pb.Segment()
    told.CopyFrom(ledger.drafts[index].segment)
    told.revision, told.quality, told.text = told.revision + 1, pb.QUALITY_FINAL, text
    return write(ledger, segment=told)


def recognition(text: str, *words: Word, quality: str = "final") -> Recognition:
    return Recognition(Transcription(text, words=words), "api", quality, 0.1)  # type: ignore[arg-type]


def test_drafts_wait_oldest_first_until_they_are_revised() -> None:
    ledger = opened()
    for index in range(3):
        write(ledger, segment=said(index, index * 1000, index * 1000 + 900, f"text {index}"))
    assert ledger.drafts.indexes == [0, 1, 2]
    healed(ledger, 1, "better")
    first = ledger.drafts.oldest_but(set())
    assert first is not None
    assert (first.index, ledger.drafts.indexes) == (0, [0, 2])
    assert ledger.drafts.oldest_but({0, 2}) is None


def test_two_readers_of_one_log_know_the_same_drafts() -> None:
    ledger = Ledger(SESSION)
    entries = [write(ledger, opened=pb.Opened(owner_id="o"))]
    entries += [write(ledger, segment=said(n, n * 1000, n * 1000 + 1000, f"t{n}", context=n * 900)) for n in range(4)]
    entries += [healed(ledger, 2, "better")]
    entries += [write(ledger, closed=ledger.accounts(pb.CLOSE_REASON_FINISHED, 4000, 4000, heals=True))]
    entries += [write(ledger, given_up=pb.GivenUp(indexes=[3], reason=pb.GIVEN_UP_REASON_AGE))]
    assert fold(SESSION, entries) == ledger
    assert (ledger.drafts.indexes, ledger.drafts_given_up) == ([0, 1], 1)


def test_audio_of_a_draft_is_looked_for_before_what_was_heard_with_it() -> None:
    ledger = opened()
    write(ledger, segment=said(0, 0, 40_000, "one", draft=False))
    write(ledger, segment=said(1, 40_000, 80_000, "two", context=10_000))
    write(ledger, segment=said(2, 90_000, 99_000, "three"))
    assert ledger.drafts[1].place.pcm_offset == 0
    assert (ledger.drafts[2].place.pcm_offset, ledger.drafts[2].place.audio_sequence) == (80_000, 101)


def test_revisions_do_not_drive_out_the_places_of_what_comes() -> None:
    ledger = opened()
    for index in range(12):
        write(ledger, segment=said(index, index * 1000, index * 1000 + 1000, "x"))
    for index in range(11):
        healed(ledger, index, "y")
    write(ledger, segment=said(12, 12_000, 13_000, "z", context=11_500))
    assert ledger.drafts[12].place.pcm_offset == 11_000


def test_text_before_a_draft_is_trusted_only_when_it_is_no_draft() -> None:
    ledger = opened()
    write(ledger, segment=said(0, 0, 1000, "final words", draft=False))
    write(ledger, segment=said(1, 1000, 2000, "rubbish"))
    write(ledger, segment=said(2, 2000, 3000, "more rubbish"))
    assert [(ledger.drafts[n].before, ledger.drafts[n].trusted) for n in (1, 2)] == [
        ("final words", True),
        ("final words rubbish", False),
    ]
    healed(ledger, 1, "sense")
    assert (ledger.drafts[2].before, ledger.drafts[2].trusted) == ("final words sense", True)
    healed(ledger, 2, "and more sense")
    assert ledger.tail == "final words sense and more sense"


def test_entries_behind_the_end_tell_what_is_left() -> None:
    ledger = opened()
    for index in range(3):
        write(ledger, segment=said(index, index * 1000, index * 1000 + 1000, "x"))
    closed = write(ledger, closed=ledger.accounts(pb.CLOSE_REASON_FINISHED, 3000, 3000, heals=True))
    assert (closed.closed.draft_segments, closed.closed.heals, closed.HasField("after_close")) == (3, True, False)
    assert healed(ledger, 0, "y").after_close.drafts_left == 2
    given_up = write(ledger, given_up=pb.GivenUp(indexes=[1, 2, 2, 7], reason=pb.GIVEN_UP_REASON_SPACE))
    assert (given_up.after_close.drafts_left, given_up.event) == (0, 0)
    assert ledger.event == 6


def test_utterance_that_only_the_lesser_engine_heard_is_a_draft_even_without_text() -> None:
    ledger = opened()
    utterance = Utterance(0, 32_000, 0, forced=False)
    silent = recognition("", quality="draft")
    kept = entry_kind(
        ledger, utterance, "s", silent, pcm=LOUD, resumption={"audio_sequence": 1, "entry_point": None},
        settings=FILTERS, heals=True,
    )["segment"]  # fmt: skip
    assert isinstance(kept, pb.Segment)
    assert (kept.text, kept.quality, kept.suppressed.reason) == ("", pb.QUALITY_DRAFT, "empty")
    alone = entry_kind(
        ledger, utterance, "s", silent, pcm=LOUD, resumption={"audio_sequence": 1, "entry_point": None},
        settings=FILTERS,
    )  # fmt: skip
    assert list(alone) == ["suppressed"]


def test_utterance_that_nobody_could_hear_is_a_draft_where_it_will_be_heard_and_else_a_gap() -> None:
    ledger, utterance = opened(), Utterance(0, 32_000, 0, forced=False)
    resumption = {"audio_sequence": 1, "entry_point": None}
    healing = entry_kind(ledger, utterance, "s", None, pcm=LOUD, resumption=resumption, settings=FILTERS, heals=True)[
        "segment"
    ]
    assert isinstance(healing, pb.Segment)
    assert (healing.quality, healing.engine) == (pb.QUALITY_DRAFT, "none")
    alone = entry_kind(ledger, utterance, "s", None, pcm=LOUD, resumption=resumption, settings=FILTERS)
    assert list(alone) == ["gap"]


def test_revision_keeps_the_place_of_the_draft_and_tells_only_what_lies_in_it() -> None:
    ledger = opened()
    write(ledger, segment=said(0, 0, 32_000, "one two", draft=False))
    write(ledger, segment=said(1, 32_000, 64_000, "rubbish", context=0))
    write(ledger, segment=said(2, 64_000, 96_000, "five six", context=32_000, draft=False))
    words = [Word(text, at, at + 0.1) for text, at in (("two", 0.8), ("three", 1.2), ("four", 1.5), ("five", 1.95))]
    told = revision(ledger.drafts[1], recognition("two three four five", *words), pcm=LOUD * 2, settings=FILTERS)
    assert (told.index, told.revision, told.quality, told.engine) == (1, 2, pb.QUALITY_FINAL, "api")
    assert (told.text, told.start_offset, told.end_offset) == ("three four", 32_000, 64_000)
    assert [round(word.start_s, 3) for word in told.words] == [1.2, 1.5]
    assert not told.HasField("entry_point")


def test_revision_of_what_was_no_speech_takes_the_text_back_and_keeps_what_was_heard() -> None:
    ledger = opened()
    write(ledger, segment=said(0, 0, 32_000, "rubbish"))
    told = revision(ledger.drafts[0], recognition("thank you"), pcm=bytes(32_000), settings=FILTERS)
    assert (told.text, told.quality) == ("", pb.QUALITY_FINAL)
    assert (told.suppressed.text, told.suppressed.reason) == ("thank you", "phrase")


def test_text_is_not_trimmed_by_what_comes_much_later() -> None:
    words = tuple(Word(text, at, at + 0.1) for text, at in (("so", 0.1), ("it", 0.3), ("is", 4.8)))
    whole = Transcription("so it is", words=words)
    assert trim_run_on(whole, ["is", "that"], audio_s=5.0).text == "so it"
    assert trim_run_on(whole, ["is", "that"], audio_s=30.0) == whole
    assert trim_run_on(Transcription("so it is"), ["it", "is"], audio_s=5.0).text == "so"
