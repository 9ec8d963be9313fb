"""Until when: the words of a deadline, and the calendar day that they mean as seen from the meeting's day. English."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

_WEEKDAYS = [name.lower() for name in calendar.day_name]
_MONTHS = [name.lower() for name in calendar.month_name]
_NUMBERS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "a couple of": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "fourteen": 14, "fifteen": 15, "twenty": 20,
    "thirty": 30,
}  # fmt: skip
_ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14, "fifteenth": 15, "sixteenth": 16,
    "seventeenth": 17, "eighteenth": 18, "nineteenth": 19, "twentieth": 20, "thirtieth": 30,
}  # fmt: skip
_ORDINALS |= {f"twenty {word}": 20 + n for word, n in _ORDINALS.items() if n < 10} | {"thirty first": 31}

# What may stand before a day.
_BY = (
    r"(?:(?:no later than|not later than|at the latest(?: by)?|latest by|due(?: by| on)?|by|until|till|before|on|for|"
    r"at|in|within)\s+)?(?:the\s+)?"
)
_DAY = "|".join(_WEEKDAYS)
_MONTH = "|".join(_MONTHS[1:])
_ORDINAL = "|".join(sorted((word.replace(" ", r"[\s-]") for word in _ORDINALS), key=len, reverse=True))
_DATE = rf"(?:\d{{1,2}}(?:st|nd|rd|th)?|{_ORDINAL})"
_COUNT = rf"(?:\d{{1,2}}|a couple of|{'|'.join(sorted((w for w in _NUMBERS if ' ' not in w), key=len, reverse=True))})"
# "Last Friday" and "every Friday" are no deadlines.
_PAST = re.compile(r"\b(?:last|past|every|each|since|from|between|than)\s+$", re.IGNORECASE)
_NEAR = 20  # characters: whatever is further away has no part in it
_AFTER = r"(?:\s+(?:at the latest|latest))?\b"


@dataclass(frozen=True, slots=True)
class Due:
    """A deadline in a text, from `start` to `end` (positions of characters); no day if the meeting's is not known."""

    start: int
    end: int
    day: date | None


Resolve = Callable[[re.Match[str], date], date | None]


def find_due(text: str, day: date | None) -> Due | None:
    """Return the first deadline in the text, or None."""
    best: Due | None = None
    for pattern, resolve in _PATTERNS:
        match = next(
            (m for m in pattern.finditer(text) if not _PAST.search(text[max(0, m.start() - _NEAR) : m.start()])), None
        )
        if match is None or (best is not None and match.start() >= best.start):
            continue
        meant = resolve(match, day) if day is not None else None
        if day is None or meant is not None:
            best = Due(match.start(), match.end(), meant)
    return best


def _past(text: str, match: re.Match[str]) -> bool:
    return _PAST.search(text[max(0, match.start() - _NEAR) : match.start()]) is not None


def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b{_BY}{words}{_AFTER}", re.IGNORECASE)


def _iso(match: re.Match[str], _: date) -> date | None:
    return _date(int(match["y"]), int(match["m"]), int(match["d"]))


def _weekday(match: re.Match[str], day: date) -> date:
    wanted = _WEEKDAYS.index(match["weekday"].lower())
    ahead = (wanted - day.weekday()) % 7 or 7
    if (match["next"] or "").lower() == "next" or match["week"]:
        # "Next Tuesday" is the Tuesday of the next week, also when this week's is still to come.
        ahead = 7 - day.weekday() + wanted
    return day + timedelta(days=ahead)


def _end(match: re.Match[str], day: date) -> date:
    later = 1 if (match["next"] or "").lower().startswith("next") else 0
    unit = match["unit"].lower()
    if unit in {"day", "business"}:
        return day
    if unit == "week":
        friday = day + timedelta(days=4 - day.weekday() + 7 * later)
        return friday if friday >= day else friday + timedelta(days=7)
    if unit == "year":
        return date(day.year + later, 12, 31)
    months = 3 - (day.month - 1) % 3 - 1 if unit == "quarter" else 0
    return _month_end(day, months + later * (3 if unit == "quarter" else 1))


def _ahead(match: re.Match[str], day: date) -> date:
    word = " ".join(match["count"].lower().split())
    count = int(word) if word.isdigit() else _NUMBERS[word]
    unit = match["unit"].lower()
    if unit == "month":
        end = _month_end(day, count)
        return end.replace(day=min(day.day, end.day))
    if "business" in (match["kind"] or "").lower() or "working" in (match["kind"] or "").lower():
        for _ in range(count):
            day += timedelta(days=3 if day.weekday() == 4 else 2 if day.weekday() == 5 else 1)
        return day
    return day + timedelta(days=count * (7 if unit == "week" else 1))


def _calendar_day(match: re.Match[str], day: date) -> date | None:
    number = _ordinal(match["date"])
    parts = match.groupdict()
    if month := parts.get("month"):
        year = parts.get("year")
        wanted = _MONTHS.index(month.lower())
        if year:
            return _date(int(year), wanted, number)
        this = _date(day.year, wanted, number)
        return this if this is not None and this >= day else _date(day.year + 1, wanted, number)
    for months in range(3):  # the 31st is not in every month
        end = _month_end(day, months)
        meant = _date(end.year, end.month, number)
        if meant is not None and meant > day:
            return meant
    return None


def _ordinal(words: str) -> int:
    digits = re.match(r"\d+", words)
    return int(digits.group()) if digits else _ORDINALS[re.sub(r"[\s-]+", " ", words.lower())]


def _month_end(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, calendar.monthrange(year, month + 1)[1])


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


# The longest reading first: among those that begin at the same place the first wins.
_PATTERNS: tuple[tuple[re.Pattern[str], Resolve], ...] = (
    (_pattern(r"(?P<y>20\d\d)-(?P<m>\d\d)-(?P<d>\d\d)"), _iso),
    (_pattern(r"day after tomorrow"), lambda _, day: day + timedelta(days=2)),
    (_pattern(r"tomorrow(?:\s+(?:morning|noon|afternoon|evening|night))?"), lambda _, day: day + timedelta(days=1)),
    (_pattern(r"(?:today|tonight|this (?:afternoon|evening))"), lambda _, day: day),
    (_pattern(r"(?:end|close) of (?P<next>next |this |the |)(?P<unit>day|business|week|month|quarter|year)"), _end),
    (_pattern(rf"(?:(?P<next>next|this|coming)\s+)?(?P<weekday>{_DAY})(?P<week>\s+(?:of\s+)?next week)?"
              r"(?:\s+(?:morning|noon|afternoon|evening|night))?"), _weekday),
    (_pattern(r"(?P<next>next |this )(?P<unit>week|month|quarter|year)"), _end),
    (re.compile(rf"\b(?:in|within)\s+(?:the next\s+)?(?P<count>{_COUNT})\s+(?P<kind>business\s+|working\s+)?"
                r"(?P<unit>day|week|month)s?(?:['’]?\s+time)?\b", re.IGNORECASE), _ahead),
    (_pattern(rf"(?P<date>{_DATE})\s+(?:of\s+)?(?P<month>{_MONTH})(?:,?\s+(?P<year>20\d\d))?"), _calendar_day),
    (_pattern(rf"(?P<month>{_MONTH})\s+(?:the\s+)?(?P<date>{_DATE})(?:,?\s+(?P<year>20\d\d))?"), _calendar_day),
    (re.compile(rf"\b(?:by|until|till|before|on)\s+the\s+(?P<date>\d{{1,2}}(?:st|nd|rd|th)|{_ORDINAL})\b"
                r"(?!\s+[a-z])", re.IGNORECASE), _calendar_day),
)  # fmt: skip
