"""What would be more than text elsewhere is text here: through every string that a route takes, with the database
compared before and after."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

from dev.stack import Stack
from tests.corpus.injections import EVERYTHING, FORGED, HEADER, LINES, PAGES, PATHS, SQL
from tests.e2e.access import PASSWORD, TUS, WAV, World, bearer, tus_name, world
from tests.e2e.speech import socket

pytestmark = pytest.mark.req("R-VAL-1")

Json = dict[str, Any]

AT_ONCE = 8
# A good body for each route that takes JSON: a string in it is replaced at a time. What is not here fails.
BODIES: dict[str, Json] = {
    "POST /api/auth/register": {"email": "in{}@inject.example", "username": "inject-{}", "password": PASSWORD,
        "captcha": "x"},
    "POST /api/auth/login": {"email": "nobody@inject.example", "password": PASSWORD, "captcha": "x"},
    "POST /api/auth/refresh": {"refresh_token": "x"},
    "POST /api/auth/logout": {"refresh_token": "x"},
    "POST /api/auth/password": {"current_password": "wrong", "new_password": "another one"},
    "POST /api/auth/api-keys": {"name": "key", "scopes": ["read"], "expires_at": "2030-01-01"},
    "PATCH /api/admin/accounts/{account_id}": {"role": "user"},
    "PUT /api/admin/controls": {"name": "feature.partials", "value": "off", "why": "A test", "for_s": 1},
    "POST /api/admin/dlq/retry": {"kind": "nothing-of-it"},
    "POST /api/meetings": {"title": "Mine", "language": "en", "participants": ["Ada"]},
    "PATCH /api/meetings/{meeting_id}": {"title": "Mine", "language": "en", "participants": ["Ada"]},
    "PATCH /api/meetings/{meeting_id}/segments/{segment_id}": {"text": "Mine", "speaker": "Ada"},
    "PATCH /api/meetings/{meeting_id}/speakers": {"speaker": "Ada", "name": "Bob"},
    "PATCH /api/insights/{meeting_id}": {"summary": "Mine"},
    "POST /api/webhooks": {"url": "https://hooks.inject.invalid/a", "events": ["insights.ready"], "description": "x"},
    "PATCH /api/webhooks/{webhook_id}": {"url": "https://hooks.inject.invalid/mine", "description": "x"},
    "POST /api/tasks": {"title": "Write", "assignee": "Ada", "due": "2030-01-01", "meeting_id": None,
        "source_segment_id": None},
    "PATCH /api/tasks/{task_id}": {"title": "Write", "assignee": "Ada", "due": "2030-01-01", "status": "open"},
}  # fmt: skip
HEADERS: dict[str, dict[str, str]] = {
    "if-match": {"If-Match": '"1"'},
    "tus-resumable": TUS,
    "upload-offset": {"Upload-Offset": "0"},
    "upload-length": {"Upload-Length": str(len(WAV))},
    "upload-metadata": {"Upload-Metadata": tus_name("a.wav")},
}
# Of these nothing goes by itself; others hold what is to be done, or what is only remembered for a while.
KEPT = frozenset(
    {"accounts", "api_keys", "gaps", "identities", "insights", "meetings", "minutes_texts", "segments", "sessions"}
    | {"tasks", "tombstones", "webhooks", "webhook_deliveries", "audio_usage"}
)


@dataclass(frozen=True)
class Target:
    """One string of one route."""

    method: str
    path: str
    where: str
    name: str


def targets(document: Json) -> Iterator[Target]:
    """Yield every string that the document knows of."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            route = f"{method.upper()} {path}"
            for parameter in operation.get("parameters", ()):
                yield Target(method.upper(), path, parameter["in"], parameter["name"])
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                for name, value in BODIES[route].items():
                    if not isinstance(value, int | float):
                        yield Target(method.upper(), path, "body", name)


class Sender:
    """Sends a text in the place of a good one."""

    def __init__(self, made: World, http: httpx2.AsyncClient, document: Json) -> None:
        self._made = made
        self._http = http
        self._document = document
        self._numbers = itertools.count()
        self.things: dict[str, str] = {}
        self.sent = 0

    async def send(self, target: Target, text: str) -> httpx2.Response | None:
        """Return the answer; None for what no client can put there."""
        caller = "admin" if target.path.startswith("/api/admin") else "owner"
        operation = self._document["paths"][target.path][target.method.lower()]
        fields = bearer(self._made.credential(caller, ""))
        names = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "header"}
        for name in names:
            fields |= HEADERS.get(name.lower(), {})
        ids = self.things | ({target.name: text} if target.where == "path" else {})
        url = target.path.format(**{name: quote(one, safe="", errors="surrogatepass") for name, one in ids.items()})
        what: Json = {}
        if target.where == "query":
            url += f"?{target.name}={quote(text, safe='', errors='surrogatepass')}"
        if target.where == "header":
            encoded = text.encode("utf-8", "surrogatepass")
            if not encoded or any(byte in encoded for byte in b"\0\r\n"):
                return None  # test_callers sends these as bytes
            fields = {name: one for name, one in fields.items() if name.lower() != target.name.lower()}
            what["headers"] = [*((k.encode(), v.encode()) for k, v in fields.items()), (target.name.encode(), encoded)]
        if body := BODIES.get(f"{target.method} {target.path}"):
            number = next(self._numbers)
            whole = {name: one.format(number) if isinstance(one, str) else one for name, one in body.items()}
            if target.where == "body":
                whole[target.name] = [text] if isinstance(body[target.name], list) else text
            what["content"] = json.dumps(whole)
            fields["Content-Type"] = "application/json"
        self.sent += 1
        sent: Json = {"headers": fields} | what
        return await self._http.request(target.method, url, **sent)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(stack: Stack) -> AsyncIterator[tuple[World, httpx2.AsyncClient]]:
    async with world(stack) as made:
        yield made


async def test_every_string_of_every_route_is_only_text(place: tuple[World, httpx2.AsyncClient], stack: Stack) -> None:
    made, http = place
    document = (await http.get("/openapi.json")).json()
    sender = Sender(made, http, document)
    sender.things = await made.things(
        "{meeting_id} {segment_id} {task_id} {key_id} {login_id} {upload_id} {letter_id} {webhook_id} {delivery_id}"
    )
    sender.things["job_id"] = sender.things["meeting_id"]
    theirs = await _of_another(made)
    urls = [stack.database_url(name).replace("+psycopg", "") for name in ("meetings", "insights")]
    before = [_database(url) for url in urls]
    logs = {name: stack.log(name).stat().st_size for name in stack.plan.names()}

    gate = asyncio.Semaphore(AT_ONCE)

    async def attempt(target: Target, text: str) -> None:
        async with gate:
            answer = await sender.send(target, text)
        if answer is not None:
            _is_inert(target, text, answer, theirs)

    wanted = list(targets(document))
    assert len(wanted) >= 60
    # Every text, and every string; each pair of them only where there is time for it.
    step = 1 if os.environ.get("VERBATIM_FUZZ_ALL") else 18
    async with asyncio.TaskGroup() as group:
        for number, target in enumerate(wanted):
            for text in EVERYTHING[number % step :: step]:
                group.create_task(attempt(target, text))
    assert sender.sent > 3000 / step

    assert {name for _, _, counts in before for name in counts} >= KEPT
    for url, (schema, admins, counts) in zip(urls, before, strict=True):
        now = _database(url)
        assert now[0] == schema
        assert now[1] == admins
        assert not {
            name: (count, now[2][name]) for name, count in counts.items() if now[2][name] < count and name in KEPT
        }
    assert await _as_it_was(made, http, theirs)
    for name, start in logs.items():
        _is_lines(stack.log(name), start)


@pytest.mark.parametrize(
    "path", [f"/{one}" for one in PATHS] + ["/assets/../../../../etc/passwd", "//etc/passwd", "/\x00"]
)
async def test_no_path_leads_out_of_the_house(stack: Stack, path: str) -> None:
    where = urlsplit(stack.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:80]
    assert b"root:" not in answer


async def test_what_a_socket_is_told_first_is_only_text(place: tuple[World, httpx2.AsyncClient], stack: Stack) -> None:
    made, _ = place
    token = made.credential("owner", "")
    for text in EVERYTHING[::8]:
        for fields in ({"token": text}, {"token": token, "meeting_id": text}, {"token": token, "language": text + "<"}):
            async with socket(stack.ws_url) as bare:
                await bare.say(type="start", **fields)
                told = await bare.hear("started", "error")
                assert told["type"] == "error" and told["error"] != "internal", (fields, told)
                assert "script" not in json.dumps(told)


def test_control_a_statement_that_is_glued_together_is_noticed(database_url: str) -> None:
    """The same texts and the same comparison, with a statement as nobody should write it."""
    url = database_url.replace("+psycopg", "")
    changing = []
    with psycopg.connect(url, autocommit=True) as connection:
        for text in SQL:
            for table in ("accounts", "tasks"):
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table)))
            connection.execute(
                "CREATE TABLE accounts (id uuid DEFAULT gen_random_uuid(), email text, role text DEFAULT 'user')"
            )
            connection.execute("CREATE TABLE tasks (id int)")
            connection.execute("INSERT INTO accounts (email) VALUES ('ada@example.com')")
            before = _database(url)
            with suppress(psycopg.Error):
                connection.execute(f"SELECT id FROM accounts WHERE email = '{text}'".encode())  # noqa: S608
            if _database(url) != before:
                changing.append(text)
    assert [next(word for word in ("DROP", "UPDATE", "INSERT") if word in text) for text in changing] == [
        "DROP", "UPDATE", "INSERT",
    ]  # fmt: skip


def test_control_a_log_or_an_answer_that_takes_text_as_it_comes_is_noticed(tmp_path: Path) -> None:
    log = tmp_path / "naive.log"
    for text in (one for one in LINES if FORGED in one or "\x1b" in one):
        log.write_text(f"title: {text}\n")
        with pytest.raises(AssertionError):
            _is_lines(log, 0)
    target = Target("GET", "/api/meetings", "query", "q")
    fields = {"content-type": "application/json", "x-content-type-options": "nosniff"}
    for bad in (
        httpx2.Response(200, headers=fields, text=f'{{"q": "{PAGES[0]}"}}'),
        httpx2.Response(200, headers=fields | {HEADER: "1"}, text="{}"),
        httpx2.Response(200, headers=fields | {"content-type": "text/html"}, text=""),
        httpx2.Response(200, headers=fields, text="root:x:0:0"),
        httpx2.Response(500, headers=fields, text="{}"),
    ):
        with pytest.raises(AssertionError):
            _is_inert(target, PAGES[0], bad, {})
    _is_inert(target, PAGES[0], httpx2.Response(200, headers=fields, text="{}"), {})


async def _of_another(made: World) -> dict[str, Json]:
    meeting = await made.post("/api/meetings", "other", json={"title": "Not for the owner"})
    task = await made.post("/api/tasks", "other", json={"title": "Nor this", "meeting_id": meeting["id"]})
    return {f"/api/meetings/{meeting['id']}": meeting, f"/api/tasks/{task['id']}": task}


async def _as_it_was(made: World, http: httpx2.AsyncClient, theirs: dict[str, Json]) -> bool:
    fields = bearer(made.credential("other", ""))
    return all([(await http.get(path, headers=fields)).json() == thing for path, thing in theirs.items()])


def _is_inert(target: Target, text: str, answer: httpx2.Response, theirs: dict[str, Json]) -> None:
    about = (target, text, answer.status_code, answer.text[:300])
    assert answer.status_code < 500, about
    assert HEADER.lower() not in answer.headers, about
    assert answer.headers["x-content-type-options"] == "nosniff", about
    assert not answer.headers.get("content-type", "").startswith("text/html"), about
    assert "root:x:0" not in answer.text, about
    if not target.path.startswith("/api/admin"):
        assert not [thing["id"] for thing in theirs.values() if thing["id"] in answer.text], about
        assert "<script" not in answer.text and "onerror=" not in answer.text, about


def _database(url: str) -> tuple[list[Any], list[Any], dict[str, int]]:
    """Return the shape of a database, who is an admin, and how much is in each table."""
    with psycopg.connect(url) as connection:
        shape = connection.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"
            " ORDER BY 1, 2"
        ).fetchall()
        tables = sorted({row[0] for row in shape})
        counts = {}
        for name in tables:
            row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))).fetchone()
            counts[name] = row[0] if row else 0
        admins = []
        if "accounts" in tables:
            admins = connection.execute("SELECT id, email FROM accounts WHERE role = 'admin' ORDER BY 1").fetchall()
    return shape, admins, counts


def _is_lines(log: Path, start: int) -> None:
    with log.open("rb") as file:
        file.seek(start)
        for line in file.read().decode().split("\n"):
            assert not line.startswith(FORGED), line
            assert "\x1b" not in line, line
            if line.startswith("{"):
                assert json.loads(line).get("event") != FORGED
