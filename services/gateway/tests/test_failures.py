"""One shape for every failure, and nothing internal in any."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator

import httpx2
import pytest
import websockets

from chassis import ids
from services.gateway.tests.conftest import Gateway, problem, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = "019ac1de-5f9f-7c55-9d3f-1c6f0e0a5b11"
JSON = {"Content-Type": "application/json"}


@pytest.mark.req("R-ERR-1")
async def test_openai_paths_speak_the_shape_that_openai_clients_read(gateway: Gateway) -> None:
    answer = await gateway.client.get("/v1/nothing")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": {
            "message": "There is nothing here.",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
            "request_id": answer.headers["x-request-id"],
        }
    }


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize("path", ["/nothing", "/api/meetings/", "/api", "/%00", "/api/..%2f..%2fetc%2fpasswd"])
async def test_an_unknown_route_is_404(gateway: Gateway, path: str) -> None:
    answer = await gateway.client.get(path)
    assert (answer.status_code, problem(answer)["error"]) == (404, "not_found")


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/meetings", "GET, POST"),
        ("POST", f"/api/meetings/{UNKNOWN}", "DELETE, GET, PATCH"),
        ("DELETE", "/", "GET"),
        ("OPTIONS", "/api/meetings", "GET, POST"),
        ("PROPFIND", "/healthz", "GET"),
    ],
)
async def test_a_wrong_method_is_405_with_those_that_are_right(
    gateway: Gateway, method: str, path: str, allowed: str
) -> None:
    answer = await gateway.client.request(method, path)
    assert (answer.status_code, problem(answer)["error"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize("body", ["{", "[1,", "{'title': 'x'}", '{"title": 1e', "[" * 100_000])
async def test_malformed_json_is_400(gateway: Gateway, body: str) -> None:
    answer = await gateway.client.post("/api/meetings", content=body, headers={**gateway.as_account(), **JSON})
    assert (answer.status_code, problem(answer)["error"]) == (400, "bad_request")


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize("media", ["text/plain", "application/xml", "multipart/form-data; boundary=x", None])
async def test_a_body_that_does_not_say_it_is_json_is_415(gateway: Gateway, media: str | None) -> None:
    headers = {**gateway.as_account(), **({"Content-Type": media} if media else {})}
    answer = await gateway.client.post("/api/meetings", content=b'{"title": "x"}', headers=headers)
    assert (answer.status_code, problem(answer)["error"]) == (415, "unsupported_media_type")


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/nothing", 404, "There is nothing here."),
        ("/api/meetings", 401, "The access token is missing"),
        ("/api/meetings/%3Cscript%3Ealert(1)", 401, "The access token is missing"),
        ("/api/auth/login", 405, "This cannot be done here."),
    ],
)
async def test_a_person_in_a_browser_gets_a_page_that_says_what_a_program_is_told(
    gateway: Gateway, path: str, status: int, told: str
) -> None:
    answer = await gateway.client.get(path, headers=BROWSER)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert told in answer.text
    assert answer.headers["x-request-id"] in answer.text
    assert "<script" not in answer.text
    program = await gateway.client.get(path, headers={"Accept": "application/json, text/html;q=0.5"})
    assert (program.status_code, problem(program)["message"].startswith(told)) == (status, True)


@pytest.mark.req("R-ERR-1")
async def test_the_page_of_a_bug_tells_nothing_of_it(own_gateway: Gateway) -> None:
    who = own_gateway.as_account()
    meeting = await own_gateway.new_meeting(who)
    own_gateway.meetings.broken = True
    answer = await own_gateway.client.get(f"/api/meetings/{meeting}", headers=who | BROWSER)
    assert (answer.status_code, answer.headers["content-type"]) == (500, "text/html; charset=utf-8")
    assert "Something went wrong on our side." in answer.text
    for secret in ("canary", "ZeroDivision", "Traceback", "services", "/"):
        assert secret not in re.sub(r"</?[a-z][^>]*>|<!doctype html>", "", answer.text), secret


@pytest.mark.req("R-ERR-1", "R-UP-4")
async def test_what_is_no_visit_of_a_page_is_answered_as_ever(gateway: Gateway) -> None:
    posted = await gateway.client.post("/api/meetings", json={}, headers=BROWSER)
    assert (posted.status_code, problem(posted)["error"]) == (401, "unauthorized")
    assert (await gateway.client.get("/v1/nothing", headers=BROWSER)).json()["error"]["code"] == "not_found"


@pytest.mark.req("R-VAL-1")
async def test_a_validation_error_names_the_field_and_never_what_was_sent(gateway: Gateway) -> None:
    sent = {
        "title": ["canary"],
        "language": "canary!",
        "participants": ["ok", "canary" * 30],
        "owner_id": "canary",
        "<canary\n>": 1,
    }
    answer = await gateway.client.post("/api/meetings", json=sent, headers=gateway.as_account())
    assert answer.status_code == 422
    body = problem(answer)
    assert body["error"] == "validation_failed"
    assert {one["field"] for one in body["details"]} == {
        "title", "language", "participants.1", "owner_id", "(unreadable name)"
    }  # fmt: skip
    assert "canary" not in answer.text


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("login", {"email": "ada@example.com"}, "password"),
        ("register", {"email": "ada@example.com", "username": "ada"}, "password"),
        ("refresh", {}, "refresh_token"),
    ],
)
async def test_half_a_character_in_a_secret_is_refused(
    gateway: Gateway, path: str, body: dict[str, str], field: str
) -> None:
    """It was a 500: nothing had noticed before the call to the service was written."""
    content = json.dumps(body | {field: "12345678\ud800"})
    answer = await gateway.client.post(
        f"/api/auth/{path}", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert problem(answer)["details"] == [{"field": field, "problem": "Should be whole characters"}]


@pytest.mark.req("R-VAL-1")
async def test_an_address_that_is_none_is_not_repeated(gateway: Gateway) -> None:
    sent = {"email": "can(ary@x", "username": "ada", "password": "12345678"}
    answer = await gateway.client.post("/api/auth/register", json=sent)
    assert problem(answer)["details"] == [{"field": "email", "problem": "Is not valid"}]


@pytest.mark.req("R-SEC-1")
@pytest.mark.parametrize("path", ["/api/meetings", "/api/auth/login", "/nothing", "/healthz"])
async def test_a_body_that_says_it_is_too_long_is_413_before_it_is_read(gateway: Gateway, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000\r\n\r\n".encode())
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"x-request-id: req_" in head


@pytest.mark.req("R-SEC-1")
async def test_a_body_of_unknown_length_is_cut_at_the_limit() -> None:
    async with running(body_bytes_max=10_000) as gateway:
        sent = 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 50_000:
                sent += 1000
                yield b" " * 1000

        answer = await gateway.client.post("/api/meetings", content=chunks(), headers={**gateway.as_account(), **JSON})
        assert (answer.status_code, problem(answer)["error"]) == (413, "payload_too_large")
        fits = await gateway.client.post(
            "/api/meetings", content=b'{"title": "x"}' + b" " * 9_000, headers={**gateway.as_account(), **JSON}
        )
        assert fits.status_code == 201


@pytest.mark.req("R-ERR-1")
async def test_a_bug_in_a_service_is_500_without_a_word_about_it(own_gateway: Gateway) -> None:
    who = own_gateway.as_account()
    meeting = await own_gateway.new_meeting(who)
    own_gateway.meetings.broken = True
    answer = await own_gateway.client.get(f"/api/meetings/{meeting}", headers=who)
    assert (answer.status_code, problem(answer)["error"]) == (500, "internal_server_error")
    assert "canary" not in answer.text
    assert "ZeroDivision" not in answer.text


@pytest.mark.req("R-ERR-1")
async def test_a_bug_in_the_gateway_is_500_and_its_trace_is_in_the_log_under_the_same_id(
    own_gateway: Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    who = own_gateway.as_account()
    meeting = await own_gateway.new_meeting(who)
    own_gateway.meetings.meetings[meeting].status = "a status that no contract knows"
    answer = await own_gateway.client.get(f"/api/meetings/{meeting}", headers=who)
    assert (answer.status_code, problem(answer)["error"]) == (500, "internal_server_error")
    log = capfd.readouterr().out
    assert "Traceback" in log
    assert answer.headers["x-request-id"] in log
    assert "status" not in answer.text


@pytest.mark.req("R-SVC-6")
async def test_a_dead_service_is_503_at_once_with_retry_after(own_gateway: Gateway) -> None:
    who = own_gateway.as_account()
    await own_gateway.backends[0].stop(0)
    started = time.monotonic()
    answer = await own_gateway.client.get("/api/tasks", headers=who)
    assert time.monotonic() - started < 2
    assert (answer.status_code, problem(answer)["error"]) == (503, "service_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert "127.0.0.1" not in answer.text


@pytest.mark.req("R-SVC-6")
async def test_a_service_that_hangs_is_504_at_the_deadline_with_retry_after() -> None:
    async with running(call_timeout_s=0.3) as gateway:
        who = gateway.as_account()
        meeting = await gateway.new_meeting(who)
        gateway.meetings.release.clear()
        started = time.monotonic()
        answer = await gateway.client.get(f"/api/meetings/{meeting}", headers=who)
        assert 0.2 < time.monotonic() - started < 1.5
        assert (answer.status_code, problem(answer)["error"]) == (504, "gateway_timeout")
        assert answer.headers["retry-after"] == "1"


@pytest.mark.req("R-SVC-6")
async def test_a_dead_insights_service_leaves_meetings_alone(own_gateway: Gateway) -> None:
    who = own_gateway.as_account()
    await own_gateway.backends[1].stop(0)
    assert (await own_gateway.client.get(f"/api/insights/{UNKNOWN}", headers=who)).status_code == 503
    assert (await own_gateway.client.get("/api/meetings", headers=who)).status_code == 200


@pytest.mark.req("R-ERR-1")
async def test_an_export_that_cannot_begin_is_an_error_and_one_that_breaks_off_is_seen_to_be_short(
    own_gateway: Gateway,
) -> None:
    who = own_gateway.as_account()
    meeting = await own_gateway.new_meeting(who)
    own_gateway.meetings.break_export_after = 0
    assert (await own_gateway.client.get(f"/api/meetings/{meeting}/export", headers=who)).status_code == 503
    own_gateway.meetings.break_export_after = 1
    with pytest.raises(httpx2.RemoteProtocolError):
        await own_gateway.client.get(f"/api/meetings/{meeting}/export", headers=who)


@pytest.mark.req("R-ERR-1")
async def test_a_handshake_on_an_unknown_path_is_refused_in_the_same_shape(gateway: Gateway) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(f"ws://127.0.0.1:{gateway.port}/nothing").__aenter__()
    response = caught.value.response
    assert response.status_code == 404
    assert response.body is not None
    assert b'"error":"not_found"' in response.body
    assert response.headers["x-request-id"].encode() in response.body


@pytest.mark.req("R-ERR-1")
async def test_a_bug_behind_a_socket_refuses_the_handshake_and_the_next_one_is_unharmed(gateway: Gateway) -> None:
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws://127.0.0.1:{gateway.port}/transcribe?break").__aenter__()
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/transcribe") as socket:
        with pytest.raises(websockets.ConnectionClosedOK):
            await socket.recv()


@pytest.mark.req("R-ERR-1")
async def test_the_request_id_is_on_every_answer_and_travels_to_the_services(gateway: Gateway) -> None:
    who = gateway.as_account()
    meeting = await gateway.new_meeting(who)
    mine = ids.new_request_id()
    for path in ("/", "/healthz", "/nothing", "/api/meetings", f"/api/meetings/{meeting}"):
        answer = await gateway.client.get(path, headers={**who, "X-Request-ID": mine})
        assert answer.headers["x-request-id"] == mine, path
    assert gateway.meetings.request_ids[-1] == mine


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize("offered", ["", "abc", "req_short", "req_" + "a" * 61, 'req_"><script>', "req_aaaaaaaa bbbb"])
async def test_a_request_id_that_is_not_well_formed_is_replaced(gateway: Gateway, offered: str) -> None:
    answer = await gateway.client.get("/healthz", headers={"X-Request-ID": offered})
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-request-id"] != offered
