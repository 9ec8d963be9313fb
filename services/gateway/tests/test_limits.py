"""Limits as clients meet them."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError

from chassis.limits import Quota
from services.gateway.limits import rates, route_rates
from services.gateway.settings import Settings
from services.gateway.tests.conftest import SERVICE_KEY, Gateway, Signer, problem, running

pytestmark = pytest.mark.req("R-RL-1")


async def statuses(gateway: Gateway, count: int, path: str = "/api/meetings", **headers: str) -> dict[int, int]:
    answers = await asyncio.gather(*(gateway.client.get(path, headers=headers) for _ in range(count)))
    found = [answer.status_code for answer in answers]
    return {status: found.count(status) for status in set(found)}


async def test_address_gets_a_hundred_a_minute_unless_told_otherwise() -> None:
    defaults = {name: Settings.model_fields[name].default for name in ("rate_limits_ip", "rate_limits_account")}
    async with running(**defaults) as gateway:
        # Strangers count as well: 401 is an answer, 429 is none.
        assert await statuses(gateway, 150) == {401: 100, 429: 50}
        answer = await gateway.client.get("/api/meetings")
        assert problem(answer)["error"] == "rate_limit_exceeded"
        assert 50 <= int(answer.headers["retry-after"]) <= 61
        assert answer.headers["ratelimit-policy"] == '"ip-minute";q=100;w=60, "ip-hour";q=1000;w=3600'
        assert answer.headers["ratelimit"].startswith('"ip-minute";r=0;t=')


async def test_account_has_its_own_count_whatever_addresses_it_comes_from() -> None:
    async with running(rate_limits_account="5/min", trusted_proxies="127.0.0.1") as gateway:
        ada, grace = gateway.as_account(), gateway.as_account()
        seen = [
            (await gateway.client.get("/api/meetings", headers=ada | {"X-Forwarded-For": f"203.0.113.{n}"})).status_code
            for n in range(8)
        ]
        assert seen == [200] * 5 + [429] * 3
        answer = await gateway.client.get("/api/meetings", headers=grace)
        assert answer.status_code == HTTPStatus.OK
        assert answer.headers["ratelimit"].startswith('"account-minute";r=4;t=')


async def test_invented_forwarding_opens_no_limit() -> None:
    async with running(rate_limits_ip="5/min") as gateway:
        seen = [
            (await gateway.client.get("/api/meetings", headers={"X-Forwarded-For": f"203.0.113.{n}"})).status_code
            for n in range(8)
        ]
        assert seen == [401] * 5 + [429] * 3


async def test_probes_and_pages_are_free() -> None:
    async with running(rate_limits_ip="1/min") as gateway:
        await gateway.client.get("/api/meetings")
        for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json", "/style.css"):
            answer = await gateway.client.get(path)
            assert answer.status_code == HTTPStatus.OK
            assert "ratelimit" not in answer.headers


async def test_routes_have_limits_of_their_own() -> None:
    async with running(rate_limits_routes="GET /api/tasks/{id}=2/min; POST /api/auth/login=1/15min") as gateway:
        who = gateway.as_account()
        one = "/api/tasks/019ac1de-5f9f-7c55-9d3f-1c6f0e0a5b11"
        assert await statuses(gateway, 4, one, **who) == {404: 2, 429: 2}
        assert await statuses(gateway, 4, "/api/tasks", **who) == {200: 4}
        assert await statuses(gateway, 1, one) == {401: 1}, "the count of an account is not that of an address"
        body = {"email": "ada@example.com", "password": "x" * 12}
        answers = [await gateway.client.post("/api/auth/login", json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [401, 429]
        assert 890 < int(answers[1].headers["retry-after"]) <= 902


async def test_aggressive_mode_works_at_once_and_back() -> None:
    async with running(rate_limits_ip="20/min", rate_limits_aggressive=0.25) as gateway:
        assert await statuses(gateway, 4) == {401: 4}
        gateway.aggressive = True
        assert await statuses(gateway, 4) == {401: 1, 429: 3}
        gateway.aggressive = False
        assert await statuses(gateway, 16) == {401: 15, 429: 1}


async def test_denials_are_counted_by_scope() -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("rate_limited_total", {"scope": "ip"}) or 0.0

    async with running(rate_limits_ip="1/min") as gateway:
        before = counted()
        await statuses(gateway, 3)
        assert counted() == before + 2


def test_rates_are_read_as_people_write_them() -> None:
    assert rates("100/min 1000/h", "ip") == (Quota("ip-minute", 100, 60), Quota("ip-hour", 1000, 3600))
    assert rates("5/15min", "login") == (Quota("login-900s", 5, 900),)
    assert rates("7/d", "x") == (Quota("x-day", 7, 86400),)
    assert rates("", "ip") == ()
    [(method, path, quotas)] = route_rates("GET /api/meetings/{id}/export=30/min")
    assert method == "GET"
    assert path.fullmatch("/api/meetings/x.y/export")
    assert not path.fullmatch("/api/meetings/x/y/export")
    assert quotas[0].name == "get-api-meetings-id-export-minute"


@pytest.mark.parametrize("wrong", ["100", "0/min", "-1/min", "5/week", "5 / min", "many"])
def test_nonsense_is_refused_at_the_start(wrong: str) -> None:
    known: dict[str, Any] = {
        "service_auth_key": SERVICE_KEY,
        "auth_public_key": Signer().public_pem,
        "transcriber_targets": "a:1",
        "meetings_target": "a:1",
        "insights_target": "a:1",
    }
    for name in ("rate_limits_ip", "rate_limits_account", "rate_limits_starts"):
        with pytest.raises(ValidationError, match="must be rates"):
            Settings(**{**known, name: wrong})
    with pytest.raises(ValidationError, match="must be"):
        Settings(**known, rate_limits_routes=f"GET /api={wrong}")
