"""Minutes without a language model: what must be found, and what must not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.insights.minutes import ActionItem, Minutes, Transcript, extract
from services.insights.sentences import Segment

pytestmark = pytest.mark.req("R-API-3")

WEDNESDAY = date(2026, 11, 25)

SCRIPT = """\
Emma: Hello everyone, and welcome to our weekly meeting. Today we will talk about the budget and the new website.
David: The budget report for the second quarter is ready. The company spent twenty thousand dollars on marketing.
Emma: Thank you. Do we have enough money for this year?
David: Yes, the report says that we have enough money for this year.
Emma: That sounds good to me. What about the website?
David: The design is finished and the customers like it. The software team needs two more weeks to finish the work.
Emma: We decided to move the launch of the website to September.
David: I think that is a good decision. That gives the team more time to test the software.
Emma: We agreed that the support team will answer every customer within two days.
David: Now we can talk about the next steps. Anna will send the budget to the client by Friday. Peter, please write \
the test plan by next Tuesday.
Emma: James will call the hotel in London by Monday.
David: Does anyone have a question?
Emma: That is everything for today. Thank you very much, and have a good weekend."""

RECOGNISED = """\
hello everyone and welcome to our weekly meeting
today we will talk about the budget and the new website
the budget report for the second quarter is ready
the company spent twenty thousand dollars on marketing last month
thank you do we have enough money for this year
yes the report says that we have enough money for this year
that sounds good to me what about the website
the design is finished and the customers like it
the software team needs two more weeks to finish the work
we decided to move the launch of the website to september
i think that is a good decision
that gives the team more time to test the software
we agreed that the support team will answer every customer within two days
now we can talk about the next steps
anna will send the budget to the client by friday
peter please write the test plan by next tuesday
james will call the hotel in london by monday
does anyone have a question
that is everything for today thank you very much and have a good weekend"""


def minutes_of(lines: Sequence[str], *, participants: tuple[str, ...] = (), language: str = "en") -> Minutes:
    """Return minutes of one segment per line, spoken on a Wednesday; `Name: words` names the speaker."""
    segments = []
    for number, line in enumerate(lines):
        speaker, colon, text = line.partition(": ")
        said = (speaker, text) if colon else ("", line)
        segments.append(Segment(f"s{number}", said[0], number * 4.0, number * 4.0 + 3.0, said[1]))
    return extract(Transcript(language, WEDNESDAY, participants, tuple(segments)))


def tasks_of(line: str, *, participants: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    items = minutes_of([line], participants=participants).action_items
    return [(item.assignee, item.text, item.due.isoformat() if item.due else "") for item in items]


@pytest.mark.parametrize("lines", [SCRIPT.splitlines(), RECOGNISED.splitlines()], ids=["script", "recognised"])
def test_the_bundled_meeting_has_exactly_its_two_decisions_and_three_tasks(lines: list[str]) -> None:
    minutes = minutes_of(lines)
    assert [point.text for point in minutes.decisions] == [
        "We decided to move the launch of the website to September.",
        "We agreed that the support team will answer every customer within two days.",
    ]
    assert [(i.assignee, i.text.lower(), str(i.due)) for i in minutes.action_items] == [
        ("Anna", "send the budget to the client", "2026-11-27"),
        ("Peter", "write the test plan", "2026-12-01"),
        ("James", "call the hotel in london", "2026-11-30"),
    ]


def test_each_item_cites_the_segment_it_was_said_in() -> None:
    minutes = minutes_of(RECOGNISED.splitlines())
    assert [item.segment_ids for item in minutes.action_items] == [("s14",), ("s15",), ("s16",)]
    assert [point.segment_ids for point in minutes.decisions] == [("s9",), ("s12",)]
    assert all(point.segment_ids for point in minutes.key_points)


def test_the_summary_is_two_to_four_readable_sentences_with_what_was_decided() -> None:
    for lines in (SCRIPT.splitlines(), RECOGNISED.splitlines()):
        minutes = minutes_of(lines)
        sentences = minutes.summary.split(". ")
        assert 2 <= len(sentences) <= 4
        assert all(sentence[0].isupper() for sentence in sentences)
        assert minutes.summary.endswith(".")
        assert "We decided to move the launch" in minutes.summary
        assert "hello" not in minutes.summary.lower()
        assert "?" not in minutes.summary
    assert (minutes.quality, minutes.engine) == ("draft", "extractive")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "we decided to move the release to the second of march",
            "We decided to move the release to the second of March.",
        ),
        ("okay so we have agreed on the blue design for the page", "We have agreed on the blue design for the page."),
        ("we'll go with the second offer from the agency", "We'll go with the second offer from the agency."),
        ("let's go with the smaller room this time", "Let's go with the smaller room this time."),
        ("it was decided that the office stays closed", "It was decided that the office stays closed."),
        ("the decision is to hire two more engineers", "The decision is to hire two more engineers."),
        ("well i think we a greed to stop the old product", "We a greed to stop the old product."),
        ("The team has approved the new budget for marketing.", "The team has approved the new budget for marketing."),
    ],
)  # fmt: skip
def test_a_decision_is_found(line: str, expected: str) -> None:
    assert [point.text for point in minutes_of([line]).decisions] == [expected]


@pytest.mark.parametrize(
    "line",
    [
        "have we decided on the colour of the page",
        "Did we agree on the price of the room?",
        "we have not decided yet what to do with it",
        "if we decided to stop now we would lose the money",
        "i think that is a good decision",
        "we decided whether it was right or wrong later",
        "he decided to go home early that day",
        "we agreed on that",
        "until we decide on the budget nothing can happen",
    ],
)
def test_talk_about_deciding_is_no_decision(line: str) -> None:
    assert minutes_of([line]).decisions == ()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("anna will send the budget to the client by friday", ("Anna", "Send the budget to the client", "2026-11-27")),
        ("peter please call the hotel by next tuesday", ("Peter", "Call the hotel", "2026-12-01")),
        ("Carol: i will write the report until the end of the week", ("Carol", "Write the report", "2026-11-27")),
        ("Carol: I'll book the room tomorrow.", ("Carol", "Book the room", "2026-11-26")),
        ("Peter, could you please check the contract?", ("Peter", "Check the contract", "")),
        ("maria to order the laptops by the third of may", ("Maria", "Order the laptops", "2027-05-03")),
        ("the design team will prepare drafts in two weeks", ("Design team", "Prepare drafts", "2026-12-09")),
        ("by friday anna will send the budget", ("Anna", "Send the budget", "2026-11-27")),
        ("we agreed that anna will send the budget by friday", ("Anna", "Send the budget", "2026-11-27")),
        ("we need to finish the tests by the end of the month", ("", "Finish the tests", "2026-11-30")),
        ("please send me your comments by december fifth", ("", "Send me your comments", "2026-12-05")),
        ("anna will send by friday the budget", ("Anna", "Send the budget", "2026-11-27")),
        ("anna will send the budget by friday to the client", ("Anna", "Send the budget to the client", "2026-11-27")),
        ("Lee has to review the plan within three days and then we will see", ("Lee", "Review the plan", "2026-11-28")),
        ("So Anna will prepare the slides, okay?", None),
    ],
)  # fmt: skip
def test_a_task_is_found_with_who_what_and_when(line: str, expected: tuple[str, str, str] | None) -> None:
    assert tasks_of(line) == ([expected] if expected else [])


def test_a_participant_is_known_by_first_name_and_may_be_named_last() -> None:
    assert tasks_of("can you review the contract by tomorrow, peter", participants=("Peter Grant",)) == [
        ("Peter", "Review the contract", "2026-11-26")
    ]
    assert tasks_of("ask anna to call the client", participants=("Anna",)) == [("Anna", "Call the client", "")]
    assert tasks_of("anna will look after the guests by monday", participants=("Anna",)) == [
        ("Anna", "Look after the guests", "2026-11-30")
    ]


def test_several_tasks_in_one_utterance_are_told_apart() -> None:
    line = (
        "anna will send the budget to the client by friday peter please write the test plan by next tuesday and "
        "james will call the hotel by monday"
    )
    assert tasks_of(line) == [
        ("Anna", "Send the budget to the client", "2026-11-27"),
        ("Peter", "Write the test plan", "2026-12-01"),
        ("James", "Call the hotel", "2026-11-30"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "it will rain by friday",
        "that will be a problem next week",
        "sales will grow next month",
        "the meeting will start on monday",
        "anna will be on holiday next week",
        "i will be in london on monday",
        "let me know by friday",
        "who will call the customers by monday",
        "if peter will send the report we can go on",
        "will anna send the report by friday",
        "we want to send the letter and we need time to write it",
        "that gives the team more time to test the software",
        "the software team needs two more weeks to finish the work",
        "today we will talk about the budget",
        "i will explain the figures now",
        "please take a seat",
        "anna will not send the budget by friday",
        "nobody will send the letters by monday",
        "the report will be sent by friday",
        "it is nice to call the customers on friday",
        "peter will send it",
        "i think you will write a lot",
    ],
)
def test_no_task_is_made_of_what_is_none(line: str) -> None:
    assert tasks_of(line, participants=("Anna", "Peter")) == []


def test_a_sentence_cut_by_a_pause_is_put_together_and_cites_both_segments() -> None:
    segments = (
        Segment("a", "x", 0.0, 2.0, "anna will send the budget"),
        Segment("b", "x", 2.6, 4.0, "to the client by friday"),
        Segment("c", "x", 5.0, 6.0, "we agreed that"),
        Segment("d", "x", 6.5, 9.0, "the office stays closed in july"),
    )
    minutes = extract(Transcript("en", WEDNESDAY, (), segments))
    assert minutes.action_items == (
        ActionItem("Send the budget to the client", "Anna", date(2026, 11, 27), ("a", "b")),
    )  # fmt: skip
    assert [(p.text, p.segment_ids) for p in minutes.decisions] == [
        ("We agreed that the office stays closed in July.", ("c", "d"))
    ]


def test_without_a_day_the_task_has_no_due_day() -> None:
    segment = Segment("a", "", 0.0, 2.0, "anna will send the budget by friday")
    [task] = extract(Transcript("en", None, (), (segment,))).action_items
    assert (task.text, task.due) == ("Send the budget", None)


def test_other_languages_get_a_summary_and_key_points_only() -> None:
    lines = [
        "Wir haben beschlossen, den Start der neuen Seite zu verschieben.",
        "Der Bericht zum Haushalt ist fertig und wurde gestern verteilt.",
        "Anna will send the budget by Friday.",
        "Die neue Seite gefällt den Kunden sehr gut.",
        "Der Haushalt der Firma reicht für dieses Jahr noch aus.",
        "Die Kunden der Firma warten auf die neue Seite.",
    ]
    minutes = minutes_of(lines, language="de-DE")
    assert minutes.summary
    assert minutes.decisions == ()
    assert minutes.action_items == ()


def test_a_silent_meeting_has_empty_minutes() -> None:
    for lines in ([], [""], ["  "]):
        minutes = minutes_of(lines)
        assert (minutes.summary, minutes.key_points, minutes.action_items) == ("", (), ())


def test_every_text_is_the_speakers_own_and_no_point_repeats_the_summary() -> None:
    minutes = minutes_of(RECOGNISED.splitlines())
    said = RECOGNISED.replace("\n", " ").lower()
    for point in (*minutes.key_points, *minutes.decisions):
        assert point.text.lower().rstrip(".") in said
        if point in minutes.key_points:
            assert point.text not in minutes.summary


def test_a_day_of_talk_takes_seconds_not_minutes() -> None:
    lines = [f"we discussed topic {n % 97} and the budget of project {n % 31} grew by {n} percent" for n in range(8000)]
    began = time.monotonic()
    minutes_of(lines)
    assert time.monotonic() - began < 15.0


@settings(max_examples=150, deadline=2000)
@given(st.lists(st.text(max_size=200), max_size=12))
def test_any_text_whatever_gives_minutes_that_cite_what_exists(lines: list[str]) -> None:
    minutes = minutes_of(lines)
    known = {f"s{number}" for number in range(len(lines))}
    cited = [point.segment_ids for point in (*minutes.key_points, *minutes.decisions)]
    for segment_ids in cited + [item.segment_ids for item in minutes.action_items]:
        assert segment_ids
        assert set(segment_ids) <= known


@pytest.mark.parametrize("text", ["!" * 5000 + "x", "anna will " * 2000, "to the " * 3000 + "by friday", "a." * 4000])
def test_odd_text_does_not_take_for_ever(text: str) -> None:
    began = time.monotonic()
    minutes_of([f"anna will send {text}", text])
    assert time.monotonic() - began < 2.0
