"""How times and file names are written."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import Message
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from services.gateway.api.transcripts import disposition
from services.gateway.resources import Day, Id, Since, Until


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2026-11-27", datetime(2026, 11, 27, tzinfo=UTC), datetime(2026, 11, 28, tzinfo=UTC)),
        ("2026-11-27T09:30:00Z", datetime(2026, 11, 27, 9, 30, tzinfo=UTC), datetime(2026, 11, 27, 9, 30, tzinfo=UTC)),
        (
            "2026-11-27t09:30:00.5+02:00",
            datetime(2026, 11, 27, 7, 30, 0, 500_000, tzinfo=UTC),
            datetime(2026, 11, 27, 7, 30, 0, 500_000, tzinfo=UTC),
        ),
    ],
)
def test_a_day_is_whole_and_a_time_is_exact(text: str, since: datetime, until: datetime) -> None:
    assert TypeAdapter(Since).validate_python(text) == since
    assert TypeAdapter(Until).validate_python(text) == until


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "1700000000",
        "2026-02-30",
        "2026-11-27T09:30:00",
        "27.11.2026",
        "9999-12-31T23:59:59-23:59",
        "\u0662\u0660\u0662\u0666-11-27",
        "2026-W48-5",
    ],
)
@pytest.mark.parametrize("kind", [Since, Until])
def test_what_is_no_time_is_refused(kind: Any, text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(text)


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    "text", ["", "2026-2-3", "2026-02-30", "2026-11-27T00:00:00Z", "tomorrow", "2026-11-27\n", 20261127]
)
def test_what_is_no_day_is_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Day).validate_python(text)


@pytest.mark.req("R-VAL-1")
def test_an_id_may_be_written_in_capitals() -> None:
    text = "019AC1DE-5F9F-7C55-9D3F-1C6F0E0A5B11"
    assert TypeAdapter(Id).validate_python(text) == text.lower()


@pytest.mark.req("R-API-1")
@given(st.text(max_size=300))
def test_a_file_name_is_safe_whatever_the_title(title: str) -> None:
    header = disposition(title, "srt")
    assert header.isascii()
    assert header.isprintable()
    message = Message()
    message["Content-Disposition"] = header
    name = message.get_filename() or ""
    assert name.endswith(".srt")
    assert not set(name) & set('/\\:*?"<>|\r\n\0')
    assert not name.startswith(".")
