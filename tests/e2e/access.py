"""Callers of every kind, and things of one of them that the others may want."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import jwt

from chassis import bus, dead_letters, ids
from dev.people import ADMIN
from dev.stack import Stack
from tests.corpus import recordings as make
from tests.e2e.meetings import told

PASSWORD = "correct horse battery staple"
SCOPES = ("read", "write", "stream", "admin")
# Nobody speaks: engines have nothing to do, however busy the machine is.
WAV = make.wav(b"\0" * 16_000)
HOOK = "https://hooks.matrix.invalid/mine"
TUS = {"Tus-Resumable": "1.0.0"}
DONE_WITHIN_S = 100.0

Json = dict[str, Any]
Headers = dict[str, str]


def bearer(credential: str) -> Headers:
    """Return the field that speaks for somebody."""
    return {"Authorization": f"Bearer {credential}"}


def scope_of(route: str) -> str:
    """Return the scope that a route needs."""
    method, path = route.split()
    if path in {"/api/auth/ticket", "/transcribe"}:
        return "stream"
    if path.startswith("/api/admin"):
        return "admin"
    return "read" if method in {"GET", "HEAD"} else "write"


class World:
    """The owner, whose things they are; another; an admin; and what the owner's old tokens are worth."""

    def __init__(self, stack: Stack, http: httpx2.AsyncClient) -> None:
        self._stack = stack
        self._http = http
        self._keys: dict[str, str] = {}
        self._heard: Json = {}
        self.logins: dict[str, Json] = {}
        self.accounts: dict[str, Json] = {}
        self.expired = self.revoked = ""

    async def people(self) -> None:
        """Let everybody come in anew: some routes throw their caller out."""
        self.logins["admin"] = await self.login(ADMIN.email, ADMIN.password)
        for name in ("owner", "other"):
            await self._new_account(name)
        owner = self.accounts["owner"]
        claims = jwt.decode(self.logins["owner"]["access_token"], options={"verify_signature": False})
        key = self._stack.env("meetings")["AUTH_PRIVATE_KEY"].replace("\\n", "\n")
        past = int(time.time()) - 3600
        self.expired = jwt.encode(claims | {"iat": past, "nbf": past, "exp": past + 900}, key, algorithm="EdDSA")
        self.revoked = await self._revoked(owner["email"])
        for scope in SCOPES:
            of = "admin" if scope == "admin" else "owner"
            rest = [one for one in SCOPES if one not in {scope, "admin"}]
            made = await self.post("/api/auth/api-keys", of, json={"name": f"all but {scope}", "scopes": rest})
            self._keys[scope] = made["key"]

    async def login(self, email: str, password: str = PASSWORD) -> Json:
        """Log in and return the tokens."""
        answer = await self._http.post("/api/auth/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def credential(self, caller: str, route: str) -> str:
        """Return what a caller shows; nothing if anonymous."""
        match caller:
            case "anonymous":
                return ""
            case "expired":
                return self.expired
            case "revoked":
                return self.revoked
            case "unscoped":
                return self._keys[scope_of(route)]
        return str(self.logins[caller]["access_token"])

    async def post(self, path: str, caller: str, **what: Any) -> Json:
        """Make something that belongs to a caller."""
        credential = bearer(self.logins[caller]["access_token"])
        answer = await self._http.post(path, headers=credential | what.pop("headers", {}), **what)
        assert answer.is_success, answer.text
        return dict(answer.json())

    # -- things of the owner ------------------------------------------------------------------------------------

    async def heard(self) -> Json:
        """Return the job and the meeting of a recording of the owner's that is done, minutes and all."""
        if not self._heard or self._heard["of"] != self.accounts["owner"]["id"]:
            files = {"file": ("a.wav", WAV, "audio/wav")}
            taken = await self.post("/api/uploads", "owner", files=files)
            await self._until(f"/api/jobs/{taken['job_id']}", lambda job: job["status"] == "completed")
            await self.post(f"/api/insights/{taken['meeting_id']}", "owner")
            await self._until(f"/api/insights/{taken['meeting_id']}", lambda _: True)
            self._heard = taken | {"of": self.accounts["owner"]["id"]}
        return self._heard

    async def version_of_minutes(self) -> str:
        """Return the ETag of the owner's minutes."""
        path = f"/api/insights/{(await self.heard())['meeting_id']}"
        answer = await self._http.get(path, headers=bearer(self.logins["owner"]["access_token"]))
        return str(answer.headers["ETag"])

    async def new_meeting(self) -> str:
        """Make a meeting of the owner's."""
        return str((await self.post("/api/meetings", "owner", json={"title": "Secret"}))["id"])

    async def things(self, path: str) -> dict[str, str]:
        """Return new ids for what a path names."""
        found = {}
        if "{segment_id}" in path:
            found["meeting_id"], found["segment_id"] = await self._said()
        elif "{meeting_id}" in path:
            followed = path.endswith(("/segments", "/export", "/live")) or "/insights/" in path
            found["meeting_id"] = (await self.heard())["meeting_id"] if followed else await self.new_meeting()
        if "{task_id}" in path:
            found["task_id"] = (await self.post("/api/tasks", "owner", json={"title": "Write"}))["id"]
        if "{job_id}" in path:
            found["job_id"] = (await self.heard())["job_id"]
        if "{key_id}" in path:
            wish = {"name": "to lose", "scopes": ["read"]}
            found["key_id"] = (await self.post("/api/auth/api-keys", "owner", json=wish))["id"]
        if "{webhook_id}" in path:
            found["webhook_id"] = (await self.post("/api/webhooks", "owner", json={"url": HOOK}))["id"]
        if "{delivery_id}" in path:
            found["delivery_id"] = (await self.post(f"/api/webhooks/{found['webhook_id']}/test", "owner"))["id"]
        if "{login_id}" in path:
            tokens = await self.login(self.accounts["owner"]["email"])
            found["login_id"] = jwt.decode(tokens["access_token"], options={"verify_signature": False})["sid"]
        if "{upload_id}" in path:
            tus = TUS | {"Upload-Length": str(len(WAV)), "Upload-Metadata": tus_name("a.wav")}
            found["upload_id"] = (await self.post("/api/uploads/tus", "owner", headers=tus))["upload_id"]
        if "{letter_id}" in path:
            found["letter_id"] = await self._bury()
        # Whoever of these is changed has to log in anew.
        found["account_id"] = self.accounts["other"]["id"]
        return found | {"file_name": "a.wav", "model_id": "whisper-1"}

    async def _said(self) -> tuple[str, str]:
        """Return a meeting of the owner's in which something was said, and the segment."""
        meeting_id = await self.new_meeting()
        log = await told(self._stack, self.accounts["owner"]["id"], meeting_id, "matrix")
        await self._until(f"/api/meetings/{meeting_id}/segments", lambda page: bool(page["items"]))
        return meeting_id, log.entries[1].segment.segment_id

    async def _bury(self) -> str:
        letter = dead_letters.letter(ids.new_id(), kind="matrix", subject="jobs.matrix", payload=b"{}", error="No.")
        async with bus.connect(self._stack.plan.nats_url, name="matrix", replicas=1) as broker:
            await dead_letters.publish(broker, letter)
        return letter.id

    async def _new_account(self, name: str) -> None:
        mark = ids.new_id()[-12:]
        wish = {"email": f"{name}{mark}@matrix.example", "username": f"{name}-{mark}", "password": PASSWORD}
        answer = await self._http.post("/api/auth/register", json=wish)
        assert answer.status_code == 201, answer.text
        self.accounts[name] = answer.json()
        self.logins[name] = await self.login(wish["email"])

    async def _revoked(self, email: str) -> str:
        tokens = await self.login(email)
        ended = await self._http.post("/api/auth/logout", json={"refresh_token": tokens["refresh_token"]})
        assert ended.status_code == 204
        async with asyncio.timeout(30):
            while (await self._http.get("/api/auth/me", headers=bearer(tokens["access_token"]))).status_code != 401:
                await asyncio.sleep(0.1)
        return str(tokens["access_token"])

    async def _until(self, path: str, holds: Callable[[Json], bool]) -> None:
        async with asyncio.timeout(DONE_WITHIN_S):
            while True:
                answer = await self._http.get(path, headers=bearer(self.logins["owner"]["access_token"]))
                if answer.status_code == 200 and holds(answer.json()):
                    return
                await asyncio.sleep(0.2)


def tus_name(name: str) -> str:
    """Return the metadata that names a resumable upload."""
    return f"filename {base64.b64encode(name.encode()).decode()}"


@asynccontextmanager
async def world(stack: Stack) -> AsyncIterator[tuple[World, httpx2.AsyncClient]]:
    """Make a world and the connection that its callers share."""
    async with httpx2.AsyncClient(base_url=stack.url, timeout=60) as http:
        made = World(stack, http)
        await made.people()
        yield made, http
