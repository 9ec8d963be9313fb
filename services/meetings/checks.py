"""Checks of what a request says, field by field; the caller hears of all that is wrong at once."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Iterable

from chassis import ids
from chassis.errors import AppError, Kind, Problem

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
# What breaks lines is no part of a title; a tab is taken for a blank.
_BLANKS = re.compile(r"\s+")


def clean_line(text: str) -> str:
    """Return text as one line: control characters (also NUL, which Postgres cannot hold) and outer blanks removed."""
    visible = "".join(c for c in _BLANKS.sub(" ", text) if unicodedata.category(c) != "Cc")
    return visible.strip()


class Checks:
    """Collects problems. Each check returns the cleaned value; `done` raises if any found a problem."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def fail(self, field: str, problem: str) -> None:
        """Note a problem. It must not repeat the value."""
        self.problems.append(Problem(field, problem))

    def line(self, field: str, value: str, *, longest: int, required: bool = False) -> str:
        """Check one line of text, at most `longest` characters."""
        cleaned = clean_line(value)
        if required and not cleaned:
            self.fail(field, "must not be empty")
        if len(cleaned) > longest:
            self.fail(field, f"must have at most {longest} characters")
        return cleaned

    def lines(self, field: str, values: Iterable[str], *, most: int, longest: int) -> list[str]:
        """Check a list of lines; empty ones and repeats are left out."""
        cleaned = list(dict.fromkeys(line for line in map(clean_line, values) if line))
        if len(cleaned) > most:
            self.fail(field, f"must have at most {most} entries")
        if any(len(line) > longest for line in cleaned):
            self.fail(field, f"each must have at most {longest} characters")
        return cleaned

    def language(self, field: str, value: str) -> str:
        """Check a language tag (`en`, `pt-BR`); empty means: not known."""
        if value and not _LANGUAGE.fullmatch(value):
            self.fail(field, "must be a language tag such as en or pt-BR")
        return value

    def choice(self, field: str, value: str, allowed: tuple[str, ...]) -> str:
        """Check that the value is one of a few."""
        if value not in allowed:
            self.fail(field, f"must be one of {', '.join(allowed)}")
        return value

    def day(self, field: str, value: str) -> dt.date | None:
        """Check a calendar day; empty means none."""
        if not value:
            return None
        found = day_of(value)
        if found is None:
            self.fail(field, "must be a day such as 2026-11-27")
        return found

    def id(self, field: str, value: str) -> str:
        """Check an id that the caller chose."""
        if not ids.is_id(value):
            self.fail(field, "must be a UUID")
        return value

    def done(self) -> None:
        """Raise AppError(VALIDATION_FAILED) with every problem found."""
        if self.problems:
            raise AppError(Kind.VALIDATION_FAILED, "Some fields are not valid.", details=tuple(self.problems))


def day_of(text: str) -> dt.date | None:
    """Return the calendar day that the text says in full, or None."""
    if not _DAY.fullmatch(text):
        return None
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return None


def not_found(what: str) -> AppError:
    """Return the answer for what is not there, or another's: the same, so that nobody learns which."""
    return AppError(Kind.NOT_FOUND, f"There is no such {what}.")


def known_id(text: str, what: str) -> str:
    """Return the id of something that should exist; what is no id names nothing. Raises AppError(NOT_FOUND)."""
    if not ids.is_id(text):
        raise not_found(what)
    return text
