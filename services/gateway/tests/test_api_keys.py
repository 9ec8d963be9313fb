"""API keys: what a program comes in with, and what it may do."""

from __future__ import annotations

import time

import pytest

from chassis import ids
from chassis.errors import AppError, Kind
from services.gateway.api_key_checks import ApiKeyChecks
from services.gateway.tests.conftest import Gateway, problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def new_key(gateway: Gateway, owner: dict[str, str], *scopes: str) -> dict[str, str]:
    """Make a key and return the headers that speak with it."""
    wanted = {"name": "build", "scopes": list(scopes)} if scopes else {"name": "build"}
    made = await gateway.client.post("/api/auth/api-keys", json=wanted, headers=owner)
    assert made.status_code == 201, made.text
    return {"Authorization": f"Bearer {made.json()['key']}"}


@pytest.mark.req("R-AUTH-1")
async def test_key_is_shown_once_listed_without_its_secret_and_deleted(gateway: Gateway) -> None:
    owner = gateway.as_account()
    wanted = {"name": " build <b>server</b> ", "scopes": ["read"], "expires_at": "2030-01-01"}
    made = (await gateway.client.post("/api/auth/api-keys", json=wanted, headers=owner)).json()
    assert made["key"].startswith(made["prefix"])
    assert (made["name"], made["scopes"]) == ("build server", ["read"])
    assert made["expires_at"] == "2030-01-02T00:00:00Z"
    listed = await gateway.client.get("/api/auth/api-keys", headers=owner)
    assert listed.json() == {"items": [{k: v for k, v in made.items() if k != "key"}], "next_cursor": None}
    assert made["key"] not in listed.text
    url = f"/api/auth/api-keys/{made['id']}"
    assert (await gateway.client.delete(url, headers=gateway.as_account())).status_code == 404
    assert (await gateway.client.delete(url, headers=owner)).status_code == 204
    assert (await gateway.client.delete(url, headers=owner)).status_code == 404
    assert (await gateway.client.get("/api/auth/api-keys", headers=owner)).json()["items"] == []


@pytest.mark.req("R-AUTH-1", "R-AUTH-2")
async def test_key_does_what_its_scopes_say_for_its_own_account_only(gateway: Gateway) -> None:
    owner = gateway.as_account()
    meeting = await gateway.new_meeting(owner)
    reads, writes = await new_key(gateway, owner, "read"), await new_key(gateway, owner, "write")
    get = f"/api/meetings/{meeting}"
    assert (await gateway.client.get(get, headers=reads)).status_code == 200
    refused = await gateway.client.get(get, headers=writes)
    assert (refused.status_code, problem(refused)["error"]) == (403, "forbidden")
    post = {"title": "Planning"}
    assert (await gateway.client.post("/api/meetings", json=post, headers=writes)).status_code == 201
    assert (await gateway.client.post("/api/meetings", json=post, headers=reads)).status_code == 403
    stranger = await new_key(gateway, gateway.as_account(), "read")
    assert (await gateway.client.get(get, headers=stranger)).status_code == 404


@pytest.mark.req("R-AUTH-1")
async def test_no_key_opens_what_only_a_person_may_do(gateway: Gateway) -> None:
    key = await new_key(gateway, gateway.as_account(), "read", "write", "stream", "admin")
    password = {"current_password": "one password", "new_password": "another password"}
    for method, path, body in (
        ("POST", "/api/auth/api-keys", {"name": "more"}),
        ("GET", "/api/auth/api-keys", None),
        ("DELETE", f"/api/auth/api-keys/{ids.new_id()}", None),
        ("POST", "/api/auth/password", password),
        ("GET", "/api/auth/logins", None),
        ("DELETE", "/api/auth/logins", None),
        ("DELETE", f"/api/auth/logins/{ids.new_id()}", None),
        ("DELETE", "/api/auth/me", None),
    ):
        answer = await gateway.client.request(method, path, json=body, headers=key)
        assert answer.status_code == 403, (method, path)


@pytest.mark.req("R-AUTH-1")
async def test_key_that_is_none_is_401_without_asking(gateway: Gateway) -> None:
    before = gateway.api_keys.checks
    for key in ("vbk_", "vbk_short", "vbk_" + "a" * 44, "vbk_" + "ä" * 43, "vbk_' OR 1=1 --"):
        headers = [("authorization", f"Bearer {key}".encode())]
        answer = await gateway.client.get("/api/auth/me", headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 401
    assert gateway.api_keys.checks == before
    unknown = await gateway.client.get("/api/auth/me", headers={"Authorization": "Bearer vbk_" + "a" * 43})
    assert (unknown.status_code, unknown.headers["www-authenticate"]) == (401, "Bearer")
    assert gateway.api_keys.checks == before + 1


@pytest.mark.req("R-AUTH-1")
async def test_what_is_known_of_a_key_holds_for_a_while_and_longer_while_nobody_answers(own_gateway: Gateway) -> None:
    owner = ids.new_id()
    key = (await new_key(own_gateway, own_gateway.as_account(owner)))["Authorization"].removeprefix("Bearer ")
    clock = [time.time()]
    checks = ApiKeyChecks(own_gateway.entrance.meetings, timeout_s=5.0, clock=lambda: clock[0])
    assert (await checks.authenticate(key)).account_id == owner
    clock[0] += 14
    await checks.authenticate(key)
    assert own_gateway.api_keys.checks == 1
    checks.forget()
    await checks.authenticate(key)
    assert own_gateway.api_keys.checks == 2
    clock[0] += 16
    await checks.authenticate(key)
    assert own_gateway.api_keys.checks == 3

    own_gateway.api_keys.fault = AppError(Kind.UNAVAILABLE, "The database does not answer.")
    clock[0] += 800
    assert (await checks.authenticate(key)).account_id == owner
    clock[0] += 101
    with pytest.raises(AppError) as caught:
        await checks.authenticate(key)
    assert caught.value.kind is Kind.UNAVAILABLE

    own_gateway.api_keys.fault = None
    own_gateway.api_keys.keys.clear()
    with pytest.raises(AppError) as caught:
        await checks.authenticate(key)
    assert caught.value.kind is Kind.UNAUTHORIZED
    own_gateway.api_keys.fault = AppError(Kind.UNAVAILABLE, "The database does not answer.")
    with pytest.raises(AppError):
        await checks.authenticate(key)


@pytest.mark.req("R-AUTH-1")
async def test_key_that_cannot_be_checked_is_never_called_wrong(own_gateway: Gateway) -> None:
    key = await new_key(own_gateway, own_gateway.as_account())
    for fault in (Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.INTERNAL):
        own_gateway.api_keys.fault = AppError(fault, "Not now.")
        answer = await own_gateway.client.get("/api/meetings", headers=key)
        assert answer.status_code >= 500, fault


@pytest.mark.req("R-AUTH-1")
async def test_key_ends_at_its_time_also_where_it_is_known(own_gateway: Gateway) -> None:
    made = (
        await own_gateway.client.post(
            "/api/auth/api-keys",
            json={"name": "short", "expires_at": "2030-01-01T00:00:00Z"},
            headers=own_gateway.as_account(),
        )
    ).json()
    ends_at = 1_893_456_000.0
    clock = [ends_at - 5]
    checks = ApiKeyChecks(own_gateway.entrance.meetings, timeout_s=5.0, clock=lambda: clock[0])
    assert (await checks.authenticate(made["key"])).expires_at == ends_at
    clock[0] = ends_at
    await checks.authenticate(made["key"])
    assert own_gateway.api_keys.checks == 2


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "x" * 101}),
        ("scopes.0", {"scopes": ["all"]}),
        ("scopes", {"scopes": []}),
        ("expires_at", {"expires_at": "tomorrow"}),
        ("key", {"key": "vbk_mine"}),
        ("account_id", {"account_id": ids.new_id()}),
    ],
)
async def test_key_that_does_not_hold_is_refused_by_field(
    gateway: Gateway, field: str, changed: dict[str, str]
) -> None:
    body = {"name": "build", **changed}
    answer = await gateway.client.post("/api/auth/api-keys", json=body, headers=gateway.as_account())
    assert answer.status_code == 422
    assert [one["field"] for one in problem(answer)["details"]] == [field]
