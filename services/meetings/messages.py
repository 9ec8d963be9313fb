"""How requests say ids, times and what is not given, and how answers do."""

from __future__ import annotations

import datetime as dt
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from services.meetings.checks import Checks


def id_of(request: Any, field: str) -> str:
    """Return an id that the gateway knows to be one. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    found = checks.id(field, getattr(request, field))
    checks.done()
    return found


def given(request: Any, field: str) -> Any:
    """Return an optional field, None if it is not there."""
    return getattr(request, field) if request.HasField(field) else None


def time_of(request: Any, field: str) -> dt.datetime | None:
    """Return a time, None if it is not there. Raises AppError(VALIDATION_FAILED) for one that no calendar knows."""
    if not request.HasField(field):
        return None
    checks = Checks()
    found = None
    try:
        found = getattr(request, field).ToDatetime(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        checks.fail(field, "is no time")
    checks.done()
    return found


def stamp(at: dt.datetime | None) -> Timestamp | None:
    """Return a time as messages say it."""
    if at is None:
        return None
    said = Timestamp()
    said.FromDatetime(at)
    return said
