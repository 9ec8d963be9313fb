"""Periods: days of a zone and moments, checked field by field."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from chassis.errors import AppError, Kind
from services.insights.periods import period

pytestmark = pytest.mark.req("R-API-4")

NOW = datetime(2026, 11, 27, 23, 30, tzinfo=UTC)


def test_days_are_days_of_the_zone_and_the_last_one_counts_as_a_whole() -> None:
    found = period("2026-11-26", "2026-11-27", "Asia/Kolkata", now=NOW)
    assert found.start == datetime(2026, 11, 25, 18, 30, tzinfo=UTC)
    assert found.end == datetime(2026, 11, 27, 18, 30, tzinfo=UTC)
    assert found.days == (date(2026, 11, 26), date(2026, 11, 27))
    assert found.begins[1] - found.begins[0] == timedelta(days=1)


def test_days_are_longer_and_shorter_where_clocks_change() -> None:
    autumn = period("2026-10-25", "2026-10-25", "Europe/Berlin", now=NOW)
    spring = period("2026-03-29", "2026-03-29", "Europe/Berlin", now=NOW)
    assert (autumn.end - autumn.start, spring.end - spring.start) == (timedelta(hours=25), timedelta(hours=23))
    # A midnight that does not exist: the day begins with its first moment.
    skipped = period("2018-11-04", "2018-11-04", "America/Sao_Paulo", now=NOW)
    assert (skipped.start.hour, skipped.end - skipped.start) == (3, timedelta(hours=23))


def test_without_an_end_it_is_today_and_without_a_beginning_thirty_days() -> None:
    found = period("", "", "", now=NOW)
    assert (found.days[0], found.days[-1], found.zone) == (date(2026, 10, 29), date(2026, 11, 27), "UTC")
    # In Tokyo it is tomorrow already.
    assert period("", "", "Asia/Tokyo", now=NOW).days[-1] == date(2026, 11, 28)
    assert period("", "2026-01-10", "", now=NOW).days[0] == date(2025, 12, 12)


def test_a_period_may_begin_and_end_in_the_middle_of_days() -> None:
    found = period("2026-11-26T22:00:00+01:00", "2026-11-27T00:00:00Z", "UTC", now=NOW)
    assert (found.start.hour, found.days) == (21, (date(2026, 11, 26),))


@pytest.mark.parametrize(
    ("from_", "to", "zone", "field"),
    [
        ("2026-02-30", "", "", "from"),
        ("yesterday", "", "", "from"),
        ("2026-11-27T10:00:00", "", "", "from"),
        ("", "27.11.2026", "", "to"),
        ("", "2026-11-27T25:00:00Z", "", "to"),
        ("0001-01-01", "", "", "from"),
        ("", "9999-12-31", "", "to"),
        ("9999-12-31T23:59:59-14:00", "", "", "from"),
        ("2026-11-28", "2026-11-27", "", "to"),
        ("2026-11-27T10:00:00Z", "2026-11-27T10:00:00Z", "", "to"),
        ("2025-11-01", "2026-11-27", "", "to"),
        ("", "", "Europe/Atlantis", "tz"),
        ("", "", "../../etc/passwd", "tz"),
        ("", "", "Europe", "tz"),
        ("", "", "x" * 65, "tz"),
    ],
)
def test_what_does_not_hold_is_told_with_its_field(from_: str, to: str, zone: str, field: str) -> None:
    with pytest.raises(AppError) as caught:
        period(from_, to, zone, now=NOW)
    assert caught.value.kind is Kind.VALIDATION_FAILED
    assert [problem.field for problem in caught.value.details] == [field]


def test_a_leap_year_is_not_too_long() -> None:
    assert len(period("2028-01-01", "2028-12-31", "", now=NOW).days) == 366
