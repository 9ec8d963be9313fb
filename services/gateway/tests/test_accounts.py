"""`/api/auth`."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.tests.conftest import Gateway, problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADA = {"email": "ada@example.com", "username": "ada", "password": "  <b>correct</b>  "}


@pytest.mark.req("R-AUTH-1")
async def test_an_account_is_made_logged_in_refreshed_and_logged_out(gateway: Gateway) -> None:
    made = await gateway.client.post("/api/auth/register", json=ADA)
    assert made.status_code == 201
    account = made.json()
    assert set(account) == {"id", "email", "username", "role", "created_at"}
    again = await gateway.client.post("/api/auth/register", json=ADA)
    assert (again.status_code, problem(again)["error"]) == (409, "conflict")

    # A password is taken as it was typed.
    credentials = {"email": ADA["email"], "password": ADA["password"]}
    tokens = (await gateway.client.post("/api/auth/login", json=credentials)).json()
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 900)
    used = {"refresh_token": tokens["refresh_token"]}
    fresh = (await gateway.client.post("/api/auth/refresh", json=used)).json()
    assert (await gateway.client.post("/api/auth/refresh", json=used)).status_code == 401
    left = {"refresh_token": fresh["refresh_token"]}
    assert (await gateway.client.post("/api/auth/logout", json=left)).status_code == 204
    assert (await gateway.client.post("/api/auth/refresh", json=left)).status_code == 401

    me = await gateway.client.get("/api/auth/me", headers=gateway.as_account(account["id"]))
    assert me.json() == account
    assert (await gateway.client.get("/api/auth/me", headers=gateway.as_account())).status_code == 404


@pytest.mark.req("R-AUTH-3")
async def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(gateway: Gateway) -> None:
    await gateway.client.post("/api/auth/register", json={**ADA, "email": "grace@example.com"})
    answers = [
        await gateway.client.post("/api/auth/login", json={"email": email, "password": "wrong"})
        for email in ("grace@example.com", "nobody@example.com")
    ]
    assert [answer.status_code for answer in answers] == [401, 401]
    bodies = [problem(answer) for answer in answers]
    for body in bodies:
        del body["request_id"]
    assert bodies[0] == bodies[1]


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("email", {"email": "ada"}),
        ("email", {"email": "ada@"}),
        ("email", {"email": "a" * 250 + "@example.com"}),
        ("email", {"email": "ada@example.com\r\nBcc: x@example.com"}),
        ("username", {"username": "a"}),
        ("username", {"username": "<script>"}),
        ("username", {"username": "../etc"}),
        ("username", {"username": "ada\n"}),
        ("username", {"username": "x" * 33}),
        ("password", {"password": "short"}),
        ("password", {"password": "x" * 129}),
        ("password", {"password": None}),
        ("role", {"role": "admin"}),
    ],
)
async def test_an_account_that_does_not_hold_is_refused_by_field(
    gateway: Gateway, field: str, changed: dict[str, Any]
) -> None:
    answer = await gateway.client.post("/api/auth/register", json={**ADA, **changed})
    assert answer.status_code == 422
    assert [one["field"] for one in problem(answer)["details"]] == [field]
