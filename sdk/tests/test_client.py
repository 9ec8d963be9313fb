"""REST calls, against a transport that answers in process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx2
import pytest
from verbatim_client import ApiError, VerbatimClient

Answer = Callable[[httpx2.Request], httpx2.Response]


def client(answer: Answer, **more: str) -> VerbatimClient:
    return VerbatimClient("http://platform", transport=httpx2.MockTransport(answer), **more)  # type: ignore[arg-type]


async def test_a_login_is_carried_by_the_calls_after_it() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/api/auth/login":
            assert json.loads(request.content) == {"email": "a@b.example", "password": "long enough"}
            return httpx2.Response(200, json={"access_token": "at", "refresh_token": "rt", "expires_in": 900})
        assert request.headers["Authorization"] == "Bearer at"
        return httpx2.Response(200, json={"email": "a@b.example"})

    async with client(answer) as platform:
        await platform.login("a@b.example", "long enough")
        assert (await platform.me())["email"] == "a@b.example"
        assert platform.refresh_token == "rt"


async def test_a_refusal_is_told_whole() -> None:
    body = {"error": "rate_limit_exceeded", "message": "Slow down.", "request_id": "req_1"}

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(429, json=body, headers={"Retry-After": "12", "X-Request-ID": "req_1"})

    async with client(answer) as platform:
        with pytest.raises(ApiError) as caught:
            await platform.meeting("m1")
    error = caught.value
    assert (error.status, error.code, error.message) == (429, "rate_limit_exceeded", "Slow down.")
    assert (error.request_id, error.body, error.retry_after_s) == ("req_1", body, 12.0)


async def test_the_openai_shape_of_errors_is_understood_too() -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(404, json={"error": {"message": "No such model.", "code": "not_found", "type": "x"}})

    async with client(answer) as platform:
        with pytest.raises(ApiError, match="404 not_found: No such model"):
            await platform.call("GET", "/v1/models")


async def test_an_error_page_of_a_proxy_is_still_an_api_error() -> None:
    async with client(lambda _: httpx2.Response(502, text="<html>Bad Gateway</html>")) as platform:
        with pytest.raises(ApiError) as caught:
            await platform.me()
    assert (caught.value.status, caught.value.code) == (502, "unknown")


async def test_lists_are_read_to_their_last_page() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.params["limit"] == "100"
        pages = {
            None: {"items": [{"id": 1}, {"id": 2}], "next_cursor": "c2"},
            "c2": {"items": [{"id": 3}], "next_cursor": None},
        }
        return httpx2.Response(200, json=pages[request.url.params.get("cursor")])

    async with client(answer) as platform:
        assert [meeting["id"] async for meeting in platform.meetings()] == [1, 2, 3]


async def test_changes_name_the_version_they_are_based_on() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["If-Match"] == '"4"'
        return httpx2.Response(204) if request.method == "DELETE" else httpx2.Response(200, json={"version": 5})

    async with client(answer) as platform:
        assert (await platform.update_meeting("m1", 4, title="New"))["version"] == 5
        await platform.delete_meeting("m1", 4)


JOB = {"id": "j1", "status": "running", "progress": 0.5}


async def test_who_waits_for_a_job_has_the_patience_that_is_asked_for() -> None:
    """Looked at twice a second, a job of a minute met the limit of 100 requests a minute: the wait ended with a 429."""
    answers = [
        httpx2.Response(429, json={"error": "rate_limit_exceeded"}, headers={"Retry-After": "1"}),
        httpx2.Response(503, json={"error": "unavailable"}),
        httpx2.Response(200, json=JOB),
        httpx2.Response(200, json={**JOB, "status": "completed"}),
    ]
    seen: list[str] = []
    began = time.monotonic()
    async with client(lambda _: answers.pop(0)) as platform:
        job = await platform.job_done("j1", progress=lambda now: seen.append(now["status"]))
    assert (job["status"], seen) == ("completed", ["running", "completed"])
    assert time.monotonic() - began >= 1.0 + 2 * 0.5


@pytest.mark.parametrize(
    ("status", "headers"), [(404, {}), (429, {"Retry-After": "3000"})], ids=["it is not there", "not within the hour"]
)
async def test_what_no_patience_mends_is_told_who_waits_for_a_job(status: int, headers: dict[str, str]) -> None:
    asked = 0

    def answer(_: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1
        return httpx2.Response(status, json={"error": "any"}, headers=headers)

    async with client(answer) as platform:
        with pytest.raises(ApiError):
            await platform.job_done("j1")
    assert asked == 1
