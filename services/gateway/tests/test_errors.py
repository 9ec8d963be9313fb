"""How one error is written down."""

from __future__ import annotations

import pytest
from starlette.types import Scope

from chassis.errors import TABLE, AppError, Kind, Problem
from services.gateway import errors


def scope(path: str) -> Scope:
    return {"type": "http", "method": "GET", "path": path, "headers": []}


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_its_status_and_says_when_to_come_back(kind: Kind) -> None:
    answer = errors.answer(AppError(kind, "No."), scope("/api/meetings"))
    assert answer.status_code == TABLE[kind].http
    must_tell = kind in {Kind.RATE_LIMIT_EXCEEDED, Kind.UNAVAILABLE, Kind.INSUFFICIENT_STORAGE, Kind.TIMEOUT}
    assert ("retry-after" in answer.headers) >= must_tell


@pytest.mark.req("R-ERR-1")
def test_a_fraction_of_a_second_is_rounded_up_for_retry_after() -> None:
    answer = errors.answer(AppError(Kind.UNAVAILABLE, "No.", retry_after_s=0.2), scope("/"))
    assert answer.headers["retry-after"] == "1"


@pytest.mark.req("R-ERR-1")
def test_an_openai_error_names_the_field() -> None:
    error = AppError(Kind.VALIDATION_FAILED, "No.", details=(Problem("file", "Field required"),))
    assert b'"param":"file"' in bytes(errors.answer(error, scope("/v1/audio/transcriptions")).body)
