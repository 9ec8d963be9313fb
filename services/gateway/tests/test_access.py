"""Who may come in."""

from __future__ import annotations

import re

import pytest

from services.gateway.tests.conftest import Gateway, problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.req("R-AUTH-1")
@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "bearer", "Bearer a b", "Token {}", "{}"])
async def test_only_a_bearer_token_opens_a_route(gateway: Gateway, header: str) -> None:
    value = header.format(gateway.signer.token())
    answer = await gateway.client.get("/api/meetings", headers={"Authorization": value})
    assert answer.status_code == 401
    assert problem(answer)["error"] == "unauthorized"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.req("R-AUTH-1")
async def test_every_route_that_is_about_somebody_asks_who_is_calling(gateway: Gateway) -> None:
    schema = (await gateway.client.get("/openapi.json")).json()
    open_to_all = {
        "/api/auth/register", "/api/auth/login", "/api/auth/refresh", "/api/auth/logout", "/healthz", "/readyz"
    }  # fmt: skip
    asked = 0
    for path, operations in schema["paths"].items():
        for method in operations:
            if path not in open_to_all:
                answer = await gateway.client.request(method, re.sub(r"{\w+}", "x", path))
                assert answer.status_code == 401, (method, path, answer.text)
                asked += 1
    assert asked >= 15


@pytest.mark.req("R-AUTH-2")
async def test_what_is_anothers_is_not_found(gateway: Gateway) -> None:
    owner, other = gateway.as_account(), gateway.as_account()
    meeting = await gateway.new_meeting(owner)
    for path in (f"/api/meetings/{meeting}", f"/api/meetings/{meeting}/segments", f"/api/meetings/{meeting}/export"):
        assert (await gateway.client.get(path, headers=owner)).status_code == 200
        assert (await gateway.client.get(path, headers=other)).status_code == 404
    change = {**other, "If-Match": '"1"'}
    assert (await gateway.client.delete(f"/api/meetings/{meeting}", headers=change)).status_code == 404
