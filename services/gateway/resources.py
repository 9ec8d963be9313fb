"""What all resources have in common: how ids, days, times, pages and versions are written."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Generic, TypeVar

import orjson
from fastapi import Depends, Header, Request, Response
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError
from verbatim.idempotency.v1.claim_pb2 import Claim

from chassis.errors import AppError, Kind, Problem
from services.gateway.auth import Who
from services.gateway.text import plain, plain_or_invalid

_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_VERSION = re.compile(r'"([0-9]{1,18})"')
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})")

T = TypeVar("T")


class Sent(BaseModel):
    """Something that a client sends: what we do not know is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


Id = Annotated[
    str,
    StringConstraints(pattern=_UUID, to_lower=True),
    WithJsonSchema({"type": "string", "format": "uuid", "examples": ["019ac1de-5f9f-7c55-9d3f-1c6f0e0a5b11"]}),
]

Title = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(plain_or_invalid)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(plain_or_invalid)]
Words = Annotated[str, StringConstraints(max_length=200), AfterValidator(plain)]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Z]{2})?$"), Field(examples=["en"])]


def _real_day(text: str) -> str:
    try:
        if _DAY.fullmatch(text):
            date.fromisoformat(text)
            return text
    except ValueError:
        pass
    raise PydanticCustomError("not_a_day", "Should be a day of the calendar, as 2026-11-27")


Day = Annotated[
    str,
    AfterValidator(_real_day),
    WithJsonSchema({"type": "string", "format": "date", "examples": ["2026-11-27"]}),
]


def _instant(value: object, *, day_is_over: bool) -> datetime:
    """Return the time that an RFC 3339 text names; a day is its first moment, or with `day_is_over` the one after."""
    try:
        if isinstance(value, str) and _TIME.fullmatch(value):
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        if isinstance(value, str) and _DAY.fullmatch(value):
            return datetime.fromisoformat(value).replace(tzinfo=UTC) + timedelta(days=day_is_over)
    except (ValueError, OverflowError):
        pass
    raise PydanticCustomError("not_a_time", "Should be a time with zone (RFC 3339) or a day, as 2026-11-27")


_INSTANT = WithJsonSchema({"type": "string", "examples": ["2026-11-27", "2026-11-27T09:30:00Z"]})
Since = Annotated[datetime, BeforeValidator(lambda value: _instant(value, day_is_over=False)), _INSTANT]
Until = Annotated[datetime, BeforeValidator(lambda value: _instant(value, day_is_over=True)), _INSTANT]


def moment(value: Timestamp) -> datetime:
    """Return the time of a message as a datetime in UTC."""
    return value.ToDatetime(tzinfo=UTC)


class Paging(Sent):
    """Which part of a list."""

    limit: int = Field(50, ge=1, le=200, description="Most items to answer.")
    cursor: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,512}$")] | None = Field(
        None, description="The `next_cursor` of the page before."
    )


class Page(BaseModel, Generic[T]):
    """One part of a list."""

    items: list[T]
    next_cursor: str | None = Field(description="Where the next page begins; null on the last one.")


async def _expected_version(
    _: Who,  # strangers are turned away before they are told what is missing
    if_match: Annotated[str | None, Header(description='The `ETag` that you have read: `"<version>"`.')] = None,
) -> int:
    if if_match is None:
        raise AppError(Kind.PRECONDITION_REQUIRED, "Send If-Match with the version that you have read.")
    match = _VERSION.fullmatch(if_match.strip())
    if match is None:
        problem = Problem("If-Match", 'Should be one version in quotes, as "3"')
        raise AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=(problem,))
    return int(match[1])


# The version that a changing call was made for. Answers 428 to a call that names none.
ExpectedVersion = Annotated[int, Depends(_expected_version)]


async def _key(
    _: Who,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="Any text of your own: the same call with the same key is made once, within 24 hours.",
            min_length=1,
            max_length=255,
        ),
    ] = None,
) -> str | None:
    if key is not None and not _KEY.fullmatch(key):
        problem = Problem("Idempotency-Key", "Should be visible ASCII characters, at most 255")
        raise AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=(problem,))
    return key


# The Idempotency-Key of a call that creates, None if there is none: for calls whose body is too long to be held.
IdempotencyKey = Annotated[str | None, Depends(_key)]


async def _claim(request: Request, key: IdempotencyKey) -> Claim | None:
    if key is None:
        return None
    asked = await request.body()
    with suppress(orjson.JSONDecodeError):
        # The same call may be written in another order and with other blanks.
        asked = orjson.dumps(orjson.loads(asked), option=orjson.OPT_SORT_KEYS)
    route = f"{request.method} {request.url.path}\n".encode()
    return Claim(key=key, fingerprint=hashlib.sha256(route + asked).digest())


# The Idempotency-Key of a call that creates, with a hash of what it asks for; None if there is none.
Claimed = Annotated[Claim | None, Depends(_claim)]

REPLAYED = {"Idempotent-Replayed": {"description": "`true` if it is the answer to an earlier call with the same key.",
                                    "schema": {"type": "string", "examples": ["true"]}}}  # fmt: skip


def tag_replayed(response: Response, replayed: bool) -> None:
    """Say that the answer is that of an earlier call."""
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"


ETAG = {"ETag": {"description": "The version, in quotes.", "schema": {"type": "string", "examples": ['"3"']}}}


def tag(response: Response, version: int) -> None:
    """Give the answer the ETag of the version."""
    response.headers["ETag"] = f'"{version}"'


def fields_sent(body: Sent) -> set[str]:
    """Return the fields that a change names. Raises AppError(VALIDATION_FAILED) if it names none."""
    if not body.model_fields_set:
        problem = Problem("body", "Should name at least one field to change")
        raise AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=(problem,))
    return body.model_fields_set
