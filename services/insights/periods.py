"""The period of a question about figures: days of a time zone, or moments."""

from __future__ import annotations

import re
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from chassis.errors import AppError, Kind, Problem

DAYS_MOST = 366
DAYS_USUAL = 30
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_ZONE = re.compile(r"[A-Za-z0-9_+/-]{1,64}")
# Far enough from the ends of the calendar for every zone and every usual period.
_YEAR_MIN, _YEAR_MAX = 1970, 2900


@dataclass(frozen=True, slots=True)
class Period:
    """From a moment to another, exclusive; `days` of the zone that it touches, of which each begins at `begins`."""

    start: datetime
    end: datetime
    zone: str
    days: tuple[date, ...]
    begins: tuple[datetime, ...]


def period(from_: str, to: str, zone: str, *, now: datetime) -> Period:
    """Read a period: RFC 3339 times, or days of the zone, of which the last counts as a whole.

    Empty: from thirty days before the end, to the end of today, in UTC. At most 366 days.

    Raises AppError(VALIDATION_FAILED) that names the field.
    """
    info = _zone(zone)
    end = _end(to, info) if to else _midnight(now.astimezone(info).date() + timedelta(days=1), info)
    if from_:
        start = _start(from_, info)
    else:
        last = (end - timedelta(microseconds=1)).astimezone(info).date()
        start = _midnight(last - timedelta(days=DAYS_USUAL - 1), info)
    if start >= end:
        raise _problem("to", "Should be later than from")
    first, last = start.astimezone(info).date(), (end - timedelta(microseconds=1)).astimezone(info).date()
    if (last - first).days >= DAYS_MOST:
        raise _problem("to", f"Should be at most {DAYS_MOST} days after from")
    days = tuple(first + timedelta(days=number) for number in range((last - first).days + 1))
    return Period(start, end, str(info), days, tuple(_midnight(day, info) for day in days))


def _zone(name: str) -> zoneinfo.ZoneInfo:
    if not name:
        return zoneinfo.ZoneInfo("UTC")
    try:
        if _ZONE.fullmatch(name):
            return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise _problem("tz", "Should be a time zone, as Europe/Berlin")


def _start(text: str, info: zoneinfo.ZoneInfo) -> datetime:
    day = _day("from", text)
    return _midnight(day, info) if day else _moment("from", text)


def _end(text: str, info: zoneinfo.ZoneInfo) -> datetime:
    day = _day("to", text)
    return _midnight(day + timedelta(days=1), info) if day else _moment("to", text)


def _day(field: str, text: str) -> date | None:
    if not _DAY.fullmatch(text):
        return None
    try:
        return _sensible(field, date.fromisoformat(text))
    except ValueError:
        raise _problem(field, "Should be a day of the calendar, as 2026-11-27") from None


def _moment(field: str, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            _sensible(field, found)
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise _problem(field, "Should be a time with zone (RFC 3339) or a day, as 2026-11-27")


def _sensible(field: str, day: date) -> date:
    if not _YEAR_MIN <= day.year <= _YEAR_MAX:
        raise _problem(field, f"Should be in the years {_YEAR_MIN} to {_YEAR_MAX}")
    return day


def _midnight(day: date, info: zoneinfo.ZoneInfo) -> datetime:
    """Return when a day begins. Where clocks skip midnight, that is the first moment there is."""
    return datetime.combine(day, time.min, info).astimezone(UTC)


def _problem(field: str, problem: str) -> AppError:
    return AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=(Problem(field, problem),))
