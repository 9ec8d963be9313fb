"""`/api/admin/accounts`, and what else an account's own routes do."""

from __future__ import annotations

import time

import pytest

from chassis import ids
from services.gateway.tests.conftest import Gateway, problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def registered(gateway: Gateway, name: str) -> str:
    body = {"email": f"{name}@example.com", "username": name, "password": "correct horse"}
    answer = await gateway.client.post("/api/auth/register", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.mark.req("R-AUTH-1")
async def test_admin_finds_changes_and_disables_an_account(gateway: Gateway) -> None:
    account = await registered(gateway, "grace")
    admin = gateway.as_admin()
    found = await gateway.client.get("/api/admin/accounts", params={"email": "grace@example.com"}, headers=admin)
    assert [one["id"] for one in found.json()["items"]] == [account]
    url = f"/api/admin/accounts/{account}"
    read = await gateway.client.get(url, headers=admin)
    assert (read.json()["disabled"], read.headers["etag"]) == (False, '"1"')
    changed = await gateway.client.patch(url, json={"disabled": True}, headers={**admin, "If-Match": '"1"'})
    assert (changed.json()["disabled"], changed.json()["role"], changed.headers["etag"]) == (True, "user", '"2"')
    outdated = await gateway.client.patch(url, json={"role": "admin"}, headers={**admin, "If-Match": '"1"'})
    assert (outdated.status_code, problem(outdated)["version"]) == (412, 2)
    for body in ({}, {"role": "root"}, {"disabled": "maybe"}, {"email": "other@example.com"}, {"version": 7}):
        refused = await gateway.client.patch(url, json=body, headers={**admin, "If-Match": '"2"'})
        assert refused.status_code == 422, body
    unknown = f"/api/admin/accounts/{ids.new_id()}"
    assert (await gateway.client.get(unknown, headers=admin)).status_code == 404


@pytest.mark.req("R-AUTH-1")
async def test_nobody_else_learns_anything_there(gateway: Gateway) -> None:
    account = await registered(gateway, "eve")
    for method, url in (("GET", ""), ("GET", f"/{account}"), ("PATCH", f"/{account}"), ("GET", f"/{ids.new_id()}")):
        answer = await gateway.client.request(method, f"/api/admin/accounts{url}", headers=gateway.as_account(account))
        assert (answer.status_code, problem(answer)["error"]) == (403, "forbidden"), (method, url)


@pytest.mark.req("R-AUTH-1")
async def test_password_is_changed_with_the_current_one(gateway: Gateway) -> None:
    account = await registered(gateway, "linus")
    who = gateway.as_account(account)
    wrong = {"current_password": "wrong", "new_password": "another password"}
    assert (await gateway.client.post("/api/auth/password", json=wrong, headers=who)).status_code == 403
    right = {"current_password": "correct horse", "new_password": "another password"}
    assert (await gateway.client.post("/api/auth/password", json=right, headers=who)).status_code == 204
    login = {"email": "linus@example.com", "password": "another password"}
    assert (await gateway.client.post("/api/auth/login", json=login)).status_code == 200
    short = {"current_password": "another password", "new_password": "short"}
    assert (await gateway.client.post("/api/auth/password", json=short, headers=who)).status_code == 422


@pytest.mark.req("R-AUTH-1")
async def test_account_is_deleted_by_who_has_just_logged_in(gateway: Gateway) -> None:
    account = await registered(gateway, "ken")
    stale = gateway.signer.token(sub=account, auth_time=int(time.time()) - 901)
    refused = await gateway.client.delete("/api/auth/me", headers={"Authorization": f"Bearer {stale}"})
    assert (refused.status_code, problem(refused)["message"]) == (403, "Log in again to delete your account.")
    fresh = gateway.signer.token(sub=account, auth_time=int(time.time()) - 60)
    headers = {"Authorization": f"Bearer {fresh}"}
    assert (await gateway.client.delete("/api/auth/me", headers=headers)).status_code == 204
    assert "ken@example.com" not in gateway.accounts.accounts


@pytest.mark.req("R-AUTH-1")
async def test_ticket_is_given_to_who_may_stream(gateway: Gateway) -> None:
    given = await gateway.client.post("/api/auth/ticket", headers=gateway.as_account())
    assert set(given.json()) == {"ticket", "expires_in"}
    assert given.json()["expires_in"] == 30
    assert given.headers["cache-control"] == "no-store"
