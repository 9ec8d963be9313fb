"""Words of a deadline and the day that they mean."""

from __future__ import annotations

from datetime import date

import pytest

from services.insights.due import find_due

MONDAY, WEDNESDAY, FRIDAY = date(2026, 11, 23), date(2026, 11, 25), date(2026, 11, 27)


@pytest.mark.parametrize(
    ("day", "words", "expected"),
    [
        (WEDNESDAY, "by friday", "2026-11-27"),
        (WEDNESDAY, "until Friday afternoon", "2026-11-27"),
        (FRIDAY, "by friday", "2026-12-04"),
        (WEDNESDAY, "by monday", "2026-11-30"),
        (MONDAY, "by next tuesday", "2026-12-01"),
        (FRIDAY, "next tuesday", "2026-12-01"),
        (WEDNESDAY, "on friday next week", "2026-12-04"),
        (WEDNESDAY, "today", "2026-11-25"),
        (WEDNESDAY, "by tomorrow morning", "2026-11-26"),
        (WEDNESDAY, "the day after tomorrow", "2026-11-27"),
        (WEDNESDAY, "by the end of the day", "2026-11-25"),
        (WEDNESDAY, "until the end of the week", "2026-11-27"),
        (date(2026, 11, 28), "by the end of the week", "2026-12-04"),
        (WEDNESDAY, "by the end of next week", "2026-12-04"),
        (WEDNESDAY, "next week", "2026-12-04"),
        (WEDNESDAY, "by the end of the month", "2026-11-30"),
        (WEDNESDAY, "by the end of next month", "2026-12-31"),
        (WEDNESDAY, "by the end of the quarter", "2026-12-31"),
        (WEDNESDAY, "by the end of the year", "2026-12-31"),
        (WEDNESDAY, "in two weeks", "2026-12-09"),
        (WEDNESDAY, "within 10 days", "2026-12-05"),
        (FRIDAY, "within two working days", "2026-12-01"),
        (WEDNESDAY, "in a month", "2026-12-25"),
        (date(2027, 1, 31), "in a month", "2027-02-28"),
        (WEDNESDAY, "on the 3rd of may", "2027-05-03"),
        (WEDNESDAY, "by the third of may", "2027-05-03"),
        (WEDNESDAY, "may third", "2027-05-03"),
        (WEDNESDAY, "by december the twenty first", "2026-12-21"),
        (WEDNESDAY, "on 24 December", "2026-12-24"),
        (WEDNESDAY, "by March 2, 2028", "2028-03-02"),
        (WEDNESDAY, "by the fifteenth", "2026-12-15"),
        (WEDNESDAY, "by the 28th", "2026-11-28"),
        (date(2027, 1, 31), "by the 31st", "2027-03-31"),
        (WEDNESDAY, "by 2026-12-01", "2026-12-01"),
    ],
)
def test_a_deadline_is_the_day_that_people_mean(day: date, words: str, expected: str) -> None:
    due = find_due(f"send the plan {words}", day)
    assert due is not None
    assert str(due.day) == expected
    assert f"send the plan {words}"[due.start : due.end].strip() == words


@pytest.mark.parametrize(
    "words",
    ["last friday", "every monday", "on fridays", "in may we may march", "the second quarter", "in two rooms",
     "on the 31st of february", "for the first time", "since tuesday", "the 2nd version"],
)  # fmt: skip
def test_other_words_of_time_are_no_deadline(words: str) -> None:
    assert find_due(f"send the plan {words}", WEDNESDAY) is None
