"""Every route, for every kind of caller: the table in `access.txt` against the running platform."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from verbatim_client import VerbatimClient

from chassis import ids
from dev.people import ADMIN
from dev.stack import Stack
from tests.e2e.access import HOOK, PASSWORD, TUS, WAV, World, bearer, tus_name, world
from tests.e2e.conftest import NewClient
from tests.e2e.speech import socket

Place = tuple[World, httpx2.AsyncClient]
Wish = dict[str, Any]

CALLERS = ("anonymous", "expired", "revoked", "unscoped", "other", "admin", "owner")
# After these whoever called has no login, or is gone.
LEAVING = frozenset(
    {"DELETE /api/auth/me", "DELETE /api/auth/logins", "POST /api/auth/password"}
    | {"PATCH /api/admin/accounts/{account_id}", "DELETE /api/admin/accounts/{account_id}"}
)


def table() -> dict[str, dict[str, str]]:
    """Return what each caller is answered, by route."""
    found = {}
    for line in Path(__file__).with_name("access.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            method, path, *answers = line.split()
            found[f"{method} {path}"] = dict(zip(CALLERS, answers, strict=True))
    return found


TABLE = table()
ROUTES = [route for route in TABLE if not route.startswith("WS ")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(stack: Stack) -> AsyncIterator[Place]:
    async with world(stack) as made:
        yield made


@pytest.mark.req("R-AUTH-2")
async def test_no_route_is_missing_from_the_table(place: Place) -> None:
    _, http = place
    document = (await http.get("/openapi.json")).json()
    routes = {f"{method.upper()} {path}" for path, operations in document["paths"].items() for method in operations}
    assert routes == set(ROUTES)


@pytest.mark.req("R-AUTH-1", "R-AUTH-2")
@pytest.mark.parametrize("route", ROUTES)
async def test_each_caller_is_answered_what_the_table_says(place: Place, route: str) -> None:
    made, http = place
    if route in LEAVING:
        await made.people()
    path = route.split()[1]
    things = await made.things(path)
    answers, said = {}, []
    for caller in CALLERS:
        wish = await _wish(made, route, caller)
        credential = made.credential(caller, route)
        fields = (bearer(credential) if credential else {}) | wish.pop("headers", {})
        url = re.sub(r"{(\w+)}", lambda name: things[name[1]], path)
        answer = await http.request(route.split(maxsplit=1)[0], url, headers=fields, **wish)
        answers[caller] = str(answer.status_code)
        said.append(f"{caller}: {answer.status_code} {answer.text[:300]}")
        if caller == "other" and answer.status_code == 404:
            assert not set(things.values()) & set(re.findall(r"[0-9a-f-]{36}", answer.text)), answer.text
    assert answers == TABLE[route], said
    if route in LEAVING:
        await made.people()


@pytest.mark.req("R-AUTH-2", "R-WS-1")
async def test_nobody_speaks_into_the_meeting_of_another(place: Place, stack: Stack) -> None:
    made, _ = place
    answers = {}
    for caller in CALLERS:
        meeting_id = await made.new_meeting()
        async with socket(stack.ws_url) as bare:
            token = made.credential(caller, "WS /transcribe")
            await bare.say(type="start", meeting_id=meeting_id, **({"token": token} if token else {}))
            told = await bare.hear("started", "error")
            answers[caller] = told.get("error", told["type"])
    assert answers == TABLE["WS /transcribe"]


@pytest.mark.req("R-AUTH-1", "R-VAL-1")
async def test_nothing_can_be_changed_that_is_only_told(new_client: NewClient) -> None:
    """Mass assignment: every field of an answer is sent back, alone and with an allowed one (OWASP API3:2023)."""
    client = await new_client()
    made = {
        "/api/meetings": (await client.create_meeting("Mine"), {"title": "Ours"}),
        "/api/tasks": (await client.create_task("Write"), {"title": "Read"}),
    }
    allowed = {
        "/api/meetings": {"title", "language", "participants"},
        "/api/tasks": {"title", "assignee", "due", "status"},
    }
    hidden = {"owner_id": "x", "account_id": "x", "role": "admin", "deleted": True, "disabled": False, "__proto__": {}}
    tried = 0
    for path, (thing, change) in made.items():
        where = f"{path}/{thing['id']}"
        for name, value in (thing | hidden).items():
            if name in allowed[path]:
                continue
            for body in ({name: value}, {name: value, **change}):
                answer = await _patch(client, where, thing["version"], body)
                assert answer.status_code == 422, (where, name, answer.text)
                assert [one["field"] for one in answer.json()["details"]] == [name]
                tried += 1
        assert (await _get(client, where)).json() == thing
    assert tried >= 40


@pytest.mark.req("R-AUTH-1", "R-VAL-1")
async def test_nobody_makes_himself_an_admin(new_client: NewClient) -> None:
    client = await new_client()
    for extra in ({"role": "admin"}, {"id": "x"}, {"disabled": False}, {"version": 7}):
        wish = {"email": "mass@verbatim.example", "username": "mass", "password": PASSWORD} | extra
        answer = await client._http.post("/api/auth/register", json=wish)
        assert (answer.status_code, answer.json()["details"][0]["field"]) == (422, next(iter(extra)))
    assert (await client.me())["role"] == "user"


async def _patch(client: VerbatimClient, path: str, version: int, body: Wish) -> httpx2.Response:
    fields = bearer(str(client.access_token)) | {"If-Match": f'"{version}"'}
    return await client._http.patch(path, json=body, headers=fields)


async def _get(client: VerbatimClient, path: str) -> httpx2.Response:
    return await client._http.get(path, headers=bearer(str(client.access_token)))


# -- what each route is sent ----------------------------------------------------------------------------------------


async def _wish(made: World, route: str, caller: str) -> Wish:
    make = WISHES.get(route)
    return await make(made, caller) if make else {}


def _always(**wish: Any) -> Callable[[World, str], Awaitable[Wish]]:
    async def wished(_: World, __: str) -> Wish:
        return {name: dict(value) if isinstance(value, dict) else value for name, value in wish.items()}

    return wished


async def _registration(_: World, caller: str) -> Wish:
    name = ids.new_id().replace("-", "")[-20:]
    return {"json": {"email": f"{name}@matrix.example", "username": name, "password": PASSWORD}}


async def _login(made: World, _: str) -> Wish:
    return {"json": {"email": made.accounts["owner"]["email"], "password": PASSWORD}}


async def _refresh(made: World, _: str) -> Wish:
    tokens = await made.login(made.accounts["owner"]["email"])
    return {"json": {"refresh_token": tokens["refresh_token"]}}


async def _password(_: World, caller: str) -> Wish:
    own = ADMIN.password if caller == "admin" else PASSWORD
    return {"json": {"current_password": own, "new_password": own}}


async def _minutes(made: World, _: str) -> Wish:
    return {"json": {"summary": "What a person wrote."}, "headers": {"If-Match": await made.version_of_minutes()}}


async def _task(made: World, _: str) -> Wish:
    return {"json": {"title": "Write", "meeting_id": await made.new_meeting()}}


async def _form(made: World, _: str) -> Wish:
    return {"files": {"file": ("a.wav", WAV, "audio/wav")}, "params": {"meeting_id": await made.new_meeting()}}


async def _raw(made: World, _: str) -> Wish:
    return {"content": WAV, "params": {"meeting_id": await made.new_meeting()}}


async def _announced(made: World, _: str) -> Wish:
    meeting = base64.b64encode((await made.new_meeting()).encode()).decode()
    metadata = f"{tus_name('a.wav')},meeting_id {meeting}"
    return {"headers": TUS | {"Upload-Length": str(len(WAV)), "Upload-Metadata": metadata}}


AS_READ = {"If-Match": '"1"'}
PIECE = TUS | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
WISHES: dict[str, Callable[[World, str], Awaitable[Wish]]] = {
    "POST /api/auth/register": _registration,
    "POST /api/auth/login": _login,
    "POST /api/auth/refresh": _refresh,
    "POST /api/auth/logout": _refresh,
    "POST /api/auth/password": _password,
    "POST /api/auth/api-keys": _always(json={"name": "another", "scopes": ["read"]}),
    "PATCH /api/admin/accounts/{account_id}": _always(json={"role": "user"}, headers=AS_READ),
    "DELETE /api/admin/accounts/{account_id}": _always(headers=AS_READ),
    "PUT /api/admin/controls": _always(json={"name": "feature.partials", "value": "off", "why": "A test", "for_s": 1}),
    "POST /api/admin/dlq/retry": _always(json={"kind": "nothing-of-it"}),
    "POST /api/meetings": _always(json={"title": "Planning"}),
    "PATCH /api/meetings/{meeting_id}": _always(json={"title": "Taken"}, headers=AS_READ),
    "DELETE /api/meetings/{meeting_id}": _always(headers=AS_READ),
    "PATCH /api/meetings/{meeting_id}/segments/{segment_id}": _always(json={"text": "Taken"}, headers=AS_READ),
    "PATCH /api/meetings/{meeting_id}/speakers": _always(json={"speaker": None, "name": "Taken"}, headers=AS_READ),
    "POST /api/tasks": _task,
    "PATCH /api/tasks/{task_id}": _always(json={"title": "Taken"}, headers=AS_READ),
    "DELETE /api/tasks/{task_id}": _always(headers=AS_READ),
    "PATCH /api/insights/{meeting_id}": _minutes,
    "POST /api/webhooks": _always(json={"url": HOOK}),
    "PATCH /api/webhooks/{webhook_id}": _always(json={"description": "Taken"}, headers=AS_READ),
    "DELETE /api/webhooks/{webhook_id}": _always(headers=AS_READ),
    "POST /api/webhooks/{webhook_id}/rotate-secret": _always(headers=AS_READ),
    "POST /api/uploads": _form,
    "PUT /api/uploads/{file_name}": _raw,
    "POST /api/uploads/tus": _announced,
    "HEAD /api/uploads/tus/{upload_id}": _always(headers=TUS),
    "PATCH /api/uploads/tus/{upload_id}": _always(content=WAV[:4096], headers=PIECE),
    "DELETE /api/uploads/tus/{upload_id}": _always(headers=TUS),
    "POST /v1/audio/transcriptions": _always(data={"model": "whisper-1"}, files={"file": ("a.wav", WAV, "audio/wav")}),
}
