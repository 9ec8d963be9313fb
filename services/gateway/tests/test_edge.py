"""What is true of every answer, whatever the route."""

from __future__ import annotations

import re

import pytest
from prometheus_client import REGISTRY

from services.gateway.tests.conftest import Gateway, problem, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
TAKEN, ANSWERED = "http_server_request_duration_seconds_count", "http_server_responses_total"


def counted(route: str, status: int) -> float:
    labels = {"http_route": route, "http_response_status_code": str(status)}
    return REGISTRY.get_sample_value(ANSWERED, labels) or 0.0


def timed(method: str, route: str) -> float:
    return REGISTRY.get_sample_value(TAKEN, {"http_request_method": method, "http_route": route}) or 0.0


@pytest.mark.req("R-SEC-1")
@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/nothing", "/api/meetings", "/openapi.json"])
async def test_every_answer_carries_the_security_headers(gateway: Gateway, path: str) -> None:
    headers = (await gateway.client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert ("script-src 'self'" in policy) == (path in {"/", "/docs"})
    assert "server" not in headers


@pytest.mark.req("R-SEC-1")
async def test_what_belongs_to_somebody_is_never_cached(gateway: Gateway) -> None:
    answer = await gateway.client.get("/api/meetings", headers=gateway.as_account())
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.req("R-SEC-1")
async def test_a_page_of_an_allowed_origin_may_call_and_no_other() -> None:
    async with running(allowed_origins="https://notes.example") as gateway:
        asked = {"Origin": "https://notes.example", "Access-Control-Request-Method": "PATCH"}
        preflight = await gateway.client.options("/api/meetings", headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://notes.example"
        assert "If-Match" in preflight.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in preflight.headers
        answer = await gateway.client.get("/api/meetings", headers={"Origin": "https://notes.example"})
        assert answer.headers["access-control-allow-origin"] == "https://notes.example"
        assert answer.headers["vary"] == "Origin"
        for stranger in ("https://notes.example.evil.example", "https://evil.example", "null", "http://notes.example"):
            refused = await gateway.client.options("/api/meetings", headers={**asked, "Origin": stranger})
            assert refused.status_code == 405
            assert "access-control-allow-origin" not in refused.headers


@pytest.mark.req("R-SVC-7")
async def test_requests_are_counted_by_route_template_and_unknown_paths_as_one(gateway: Gateway) -> None:
    who = gateway.as_account()
    meeting = await gateway.new_meeting(who)
    known = counted("/api/meetings/{meeting_id}", 200)
    unknown = counted("unmatched", 404)
    odd = counted("unmatched", 405), timed("_OTHER", "unmatched"), timed("_OTHER", "/healthz")
    await gateway.client.get(f"/api/meetings/{meeting}", headers=who)
    await gateway.client.get("/nothing/1")
    await gateway.client.get("/nothing/2")
    await gateway.client.request("PROPFIND", "/healthz")
    assert counted("/api/meetings/{meeting_id}", 200) == known + 1
    assert counted("unmatched", 404) == unknown + 2
    now = counted("unmatched", 405), timed("_OTHER", "unmatched"), timed("_OTHER", "/healthz")
    assert now == (odd[0] + 1, odd[1] + 1, odd[2])


@pytest.mark.req("R-SVC-7")
async def test_no_request_stays_active_and_the_latency_alert_finds_its_bucket(gateway: Gateway) -> None:
    await gateway.client.get("/healthz")
    assert REGISTRY.get_sample_value("http_server_active_requests", {"http_request_method": "GET"}) == 0
    labels = {"http_request_method": "GET", "http_route": "/healthz", "le": "1.0"}
    assert REGISTRY.get_sample_value("http_server_request_duration_seconds_bucket", labels)


@pytest.mark.req("R-SVC-7")
async def test_readiness_follows_the_process_and_tells_the_world_nothing_more(own_gateway: Gateway) -> None:
    assert (await own_gateway.client.get("/readyz")).json() == {"status": "ready"}
    own_gateway.faults["process"] = "draining"
    answer = await own_gateway.client.get("/readyz")
    assert answer.status_code == 503
    assert "draining" not in problem(answer)["message"]
    assert "retry-after" in answer.headers
    assert (await own_gateway.client.get("/healthz")).json() == {"status": "ok"}


@pytest.mark.req("R-SVC-7", "R-SEC-1")
async def test_what_is_not_well_is_told_to_admins_alone(own_gateway: Gateway) -> None:
    own_gateway.ailing["redis"] = "fallback"
    get, admin = own_gateway.client.get, own_gateway.as_admin()
    assert (await get("/readyz", headers=admin)).json() == {"status": "ready"}
    assert (await get("/readyz?verbose", headers=admin)).json() == {"status": "ready", "faults": {"redis": "fallback"}}
    for headers, status in ((None, 401), (own_gateway.as_account(), 403), ({"Authorization": "Bearer x"}, 401)):
        refused = await get("/readyz?verbose", headers=headers)
        assert (refused.status_code, "redis" in refused.text) == (status, False)
    own_gateway.faults["process"] = "draining"
    answer = await get("/readyz?verbose=1", headers=admin)
    assert answer.status_code == 503
    assert problem(answer)["details"] == [{"field": "process", "problem": "draining"}]


@pytest.mark.req("R-RL-1")
async def test_probes_are_free_and_questions_are_not() -> None:
    async with running(rate_limits_ip="3/min") as gateway:
        for _ in range(10):
            assert (await gateway.client.get("/readyz")).status_code == 200
        told = [(await gateway.client.get("/readyz?verbose")).status_code for _ in range(5)]
        assert told == [401, 401, 401, 429, 429]


@pytest.mark.req("R-SEC-1")
async def test_who_asks_for_another_host_is_refused() -> None:
    async with running(allowed_hosts=("Notes.example", "10.0.0.1", "[::1]")) as gateway:
        for host in ("notes.example", "NOTES.example:8443", "10.0.0.1:80", "[::1]", "[::1]:8000"):
            assert (await gateway.client.get("/api/meetings", headers={"Host": host})).status_code == 401
        for host in ("evil.example", "notes.example.evil.example", "", "evil.example:notes.example", "notes"):
            refused = await gateway.client.get("/api/meetings", headers={"Host": host})
            assert (refused.status_code, problem(refused)["error"]) == (400, "bad_request")
        assert (await gateway.client.get("/readyz", headers={"Host": "10.9.8.7:8000"})).status_code == 200
        opened = await gateway.client.get("/transcribe", headers={"Host": "evil.example", **UPGRADE})
        assert opened.status_code == 400


@pytest.mark.req("R-SEC-1")
@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_loads_nothing_from_elsewhere(gateway: Gateway, path: str) -> None:
    answer = await gateway.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "'unsafe" not in answer.headers["content-security-policy"]
    assert "://" not in answer.text
    assert " style=" not in answer.text
    assert "<style" not in answer.text
    assert re.findall(r"<script[^>]*>(?=[^<])", answer.text) == [], "an inline script would not run"
    assert (await gateway.client.get("/style.css")).headers["content-type"].startswith("text/css")
