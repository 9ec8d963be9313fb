"""Text that nobody spoke is suppressed, text that somebody spoke is not, and words at cuts are told once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.transcriber.filters import FilterSettings, judge, next_prompt, stable_prefix, trim_overlap
from services.transcriber.transcription import Transcription, Word

DEFAULTS = FilterSettings()
LOUD, QUIET = 0.05, 0.002


def reason(transcription: Transcription, *, rms: float = LOUD) -> str | None:
    verdict = judge(transcription, rms=rms, settings=DEFAULTS)
    assert verdict.keep == (verdict.reason is None)
    return verdict.reason


@pytest.mark.req("R-STT-6")
@pytest.mark.parametrize(
    ("transcription", "expected"),
    [
        (Transcription(""), "empty"),
        (Transcription(" . … "), "empty"),
        (Transcription("so they say", no_speech_probability=0.7, average_logprob=-1.1), "no_speech"),
        (Transcription("so they say", average_logprob=-1.4), "unlikely"),
        (Transcription("so they say", compression_ratio=2.5), "compressible"),
        (Transcription("go on " * 40), "compressible"),
        (Transcription("no no no no no no"), "repetition"),
        (Transcription("Of course. Of course. Of course. Of course."), "repetition"),
        (Transcription("well I think so I think so, I think so"), "repetition"),
    ],
)
def test_invented_text_is_suppressed_with_a_reason(transcription: Transcription, expected: str) -> None:
    assert reason(transcription) == expected


@pytest.mark.req("R-STT-6")
@pytest.mark.parametrize(
    "transcription",
    [
        Transcription("Yes."),
        Transcription("No, no, no!"),
        Transcription("We need to talk. First we need to eat, and then we need to pay, as we said."),
        Transcription("so they say", no_speech_probability=0.7, average_logprob=-0.9),
        Transcription("so they say", no_speech_probability=0.5, average_logprob=-1.2),
        Transcription("so they say", average_logprob=-1.3, compression_ratio=2.4),
        Transcription("so they say", no_speech_probability=0.99),
    ],
)
def test_spoken_text_is_kept(transcription: Transcription) -> None:
    assert reason(transcription) is None


@pytest.mark.req("R-STT-6")
def test_thank_you_is_kept_unless_the_audio_says_otherwise() -> None:
    assert reason(Transcription("Thank you.")) is None
    assert reason(Transcription("Thank you.", no_speech_probability=0.01)) is None
    assert reason(Transcription("Thank you."), rms=QUIET) == "phrase"
    assert reason(Transcription("Thank you!", no_speech_probability=0.4)) == "phrase"
    assert reason(Transcription("Thank you for the report."), rms=QUIET) is None


@given(text=st.text(max_size=300), figure=st.none() | st.floats(-10, 10))
def test_any_text_with_any_figures_gets_a_verdict(text: str, figure: float | None) -> None:
    transcription = Transcription(text, no_speech_probability=figure, average_logprob=figure, compression_ratio=figure)
    assert reason(transcription) != ""


def timed(text: str, *, start_s: float, word_s: float = 0.3) -> Transcription:
    words = [
        Word(token.strip(".,").lower(), start_s + n * word_s, start_s + (n + 1) * word_s)
        for n, token in enumerate(text.split())
    ]
    return Transcription(text, tuple(words))


@pytest.mark.req("R-STT-6")
def test_words_before_a_forced_cut_are_told_once() -> None:
    heard = timed("of the website to September. That helps.", start_s=0.1)
    trimmed = trim_overlap(["launch", "of", "the", "website"], heard, context_s=1.0)
    assert trimmed.text == "to September. That helps."
    assert [word.text for word in trimmed.words] == ["to", "september", "that", "helps"]


def test_a_word_that_both_sides_heard_is_told_once() -> None:
    heard = timed("the website to September", start_s=0.95)
    assert trim_overlap(["of", "the", "website"], heard, context_s=1.0).text == "to September"


def test_a_new_word_that_equals_a_much_earlier_one_stays() -> None:
    heard = timed("website to September", start_s=2.5)
    assert trim_overlap(["the", "website"], heard, context_s=1.0).text == "website to September"


def test_a_repeated_run_is_trimmed_by_its_longest_match() -> None:
    heard = timed("that we that we know", start_s=1.0)
    assert trim_overlap(["that", "we", "that", "we"], heard, context_s=1.0).text == "know"


@pytest.mark.parametrize(
    ("tail", "text", "expected"),
    [
        ("launch of the website", "the website to September", "to September"),
        ("launch of the website", "ch of the website to September", "to September"),
        ("launch of the website", "to September", "to September"),
        ("we saw the", "bright the sun", "bright the sun"),
        ("", "to September", "to September"),
        ("to September", "", ""),
    ],
)
def test_overlap_without_word_times_is_found_by_its_words(tail: str, text: str, expected: str) -> None:
    assert trim_overlap(tail.split(), Transcription(text), context_s=1.0).text == expected


def test_text_that_does_not_align_with_its_words_is_made_of_the_words() -> None:
    heard = Transcription("12 % more", (Word("12%", 0.2, 0.5), Word("more", 1.2, 1.5)))
    assert trim_overlap([], heard, context_s=1.0).text == "more"


def test_a_script_without_spaces_is_joined_without_them() -> None:
    heard = Transcription("会議を始めます", (Word("会議を", 0.2, 0.5), Word("始め", 1.2, 1.5), Word("ます", 1.5, 2)))
    assert trim_overlap([], heard, context_s=1.0).text == "始めます"


@given(tail=st.lists(st.sampled_from("abc"), max_size=8), text=st.lists(st.sampled_from("abc"), max_size=8))
def test_trimming_only_ever_takes_from_the_front(tail: list[str], text: list[str]) -> None:
    whole = " ".join(text)
    assert whole.endswith(trim_overlap(tail, Transcription(whole), context_s=1.0).text)


def test_the_prompt_is_the_vocabulary_and_the_end_of_what_was_said() -> None:
    said = "word " * 60 + "and so we agreed."
    prompt = next_prompt(["Kubernetes", " Anna "], said, silence_s=1.0, suppressed=False)
    assert prompt.startswith("Kubernetes, Anna. word ")
    assert prompt.endswith("and so we agreed.")
    assert len(prompt.removeprefix("Kubernetes, Anna. ")) <= 200


@pytest.mark.parametrize(("silence_s", "suppressed"), [(3.1, False), (0.0, True)])
def test_what_was_said_leaves_the_prompt_after_silence_and_after_suppressed_text(
    silence_s: float, suppressed: bool
) -> None:
    assert next_prompt(["Anna"], "before", silence_s=silence_s, suppressed=suppressed) == "Anna"


def test_a_long_vocabulary_is_cut_between_its_terms() -> None:
    prompt = next_prompt(["term"] * 1_000, "", silence_s=0, suppressed=False)
    assert len(prompt) <= 400
    assert set(prompt.split(", ")) == {"term"}


@pytest.mark.parametrize(
    ("before", "now", "stable"),
    [
        ("we decided to", "we decided to move", "we decided to"),
        ("we decided two", "we decided to move", "we decided"),
        ("", "we", ""),
        ("we", "", ""),
        ("a  b", " a   b c", " a   b"),
        ("the them", "them the", ""),
        ("to to", "to to to", "to to"),
    ],
)
def test_stable_text_is_the_words_that_two_partials_begin_with(before: str, now: str, stable: str) -> None:
    assert now[: stable_prefix(before, now)] == stable
