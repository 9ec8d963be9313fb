"""Watching a meeting, against a transport that answers in process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from verbatim_client import ApiError, Backoff, ConnectionGivenUpError, VerbatimClient
from verbatim_client.watch import EventParser


def event(type_: str, event_id: str = "", **fields: Any) -> bytes:
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {type_}\ndata: {json.dumps({'type': type_} | fields, ensure_ascii=False)}\n\n".encode()


class Broken(httpx2.AsyncByteStream):
    """An answer that is cut off after its bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data
        raise httpx2.ReadError("cut off")


class Platform:
    """Gives the prepared answers, one per connection, and keeps what it was asked."""

    def __init__(self, *answers: httpx2.Response) -> None:
        self._answers = list(answers)
        self.positions: list[str | None] = []
        self.tokens: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/api/auth/refresh":
            return httpx2.Response(200, json={"access_token": "fresh", "refresh_token": "next"})
        self.positions.append(request.headers.get("Last-Event-ID"))
        self.tokens.append(request.headers["Authorization"])
        return self._answers.pop(0)


def stream(*pieces: bytes, broken: bool = False) -> httpx2.Response:
    data = b"retry: 1000\n\n" + b"".join(pieces)
    return httpx2.Response(200, stream=Broken(data)) if broken else httpx2.Response(200, content=data)


async def watched(platform: Platform, last_event_id: str = "") -> list[tuple[str, str]]:
    transport = httpx2.MockTransport(platform)
    quick = Backoff(clock=lambda: 0.0, draw=lambda low, _: low)
    async with VerbatimClient("http://platform", access_token="at", refresh_token="rt", transport=transport) as client:
        return [
            (told["type"], told.get("event_id", ""))
            async for told in client.watch("m1", last_event_id=last_event_id, backoff=quick)
        ]


@pytest.mark.req("R-WS-6")
async def test_watch_goes_on_behind_the_last_event_after_a_broken_connection() -> None:
    platform = Platform(
        stream(event("segment", "1"), event("partial"), b'id: 2\nevent: segment\ndata: {"ty', broken=True),
        stream(event("segment", "2"), event("finished", "2-end")),
    )
    assert await watched(platform) == [("segment", "1"), ("partial", ""), ("segment", "2"), ("finished", "2-end")]
    assert platform.positions == [None, "1"]


@pytest.mark.req("R-WS-6")
async def test_error_that_may_be_retried_is_not_told_and_another_one_is_raised() -> None:
    restarting = event("error", error="service_unavailable", retryable=True, retry_after=0.0)
    platform = Platform(stream(event("segment", "1"), restarting), stream(event("finished", "1-end")))
    assert await watched(platform) == [("segment", "1"), ("finished", "1-end")]
    gone = event("error", error="not_found", message="There is no such meeting.", retryable=False)
    with pytest.raises(ApiError, match="not_found"):
        await watched(Platform(stream(gone)))


@pytest.mark.req("R-WS-6")
async def test_token_is_renewed_once_and_a_refusal_is_raised() -> None:
    refusal = httpx2.Response(401, json={"error": "unauthorized"})
    platform = Platform(refusal, stream(event("finished", "0-end")))
    assert await watched(platform) == [("finished", "0-end")]
    assert platform.tokens == ["Bearer at", "Bearer fresh"]
    with pytest.raises(ApiError, match="401"):
        await watched(Platform(refusal, httpx2.Response(401, json={"error": "unauthorized"})))
    with pytest.raises(ApiError, match="404"):
        await watched(Platform(httpx2.Response(404, json={"error": "not_found"})))


@pytest.mark.req("R-WS-6")
async def test_meeting_that_is_over_and_was_told_ends_at_once() -> None:
    platform = Platform(httpx2.Response(204))
    assert await watched(platform, "7-end") == []
    assert platform.positions == ["7-end"]


@pytest.mark.req("R-WS-6")
async def test_platform_that_is_away_for_long_is_given_up() -> None:
    away = [httpx2.Response(503, json={"error": "service_unavailable"}, headers={"Retry-After": "0"})] * 11
    with pytest.raises(ConnectionGivenUpError):
        await watched(Platform(*away))


@pytest.mark.req("R-WS-6")
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_read_whatever_the_pieces_and_what_was_said(size: int) -> None:
    text = "a line\u2028a page\x0c a form\x85 and ö"
    data = b": ping\n\n" + event("segment", "5", text=text) + b": ping\n\n" + event("partial", text=text)
    parser = EventParser()
    told = [one for at in range(0, len(data), size) for one in parser.feed(data[at : at + size])]
    assert told == [("5", {"type": "segment", "text": text}), ("", {"type": "partial", "text": text})]
