"""What the fuzzer is told: who it is, and how bytes are sent that are no JSON.

Most routes are called with an API key of an admin, which no route can end by mistake. Those that no key opens are
called by somebody who has just come in: some of them throw their caller out.
"""

from __future__ import annotations

import itertools
import re
import secrets
from typing import Any

import httpx2
import schemathesis

from dev.people import ADMIN

PASSWORD = "correct horse battery staple"
ALL_SCOPES = ["read", "write", "stream", "admin"]
PERSONS = re.compile(r"/api/auth/(me|password|logins|api-keys)")
# A change needs the version: after so many, nobody guesses that of the admin.
CHANGES = 12
TRIES_IN_PEACE_S = 3

_numbers = itertools.count(1)
_run = secrets.token_hex(4)


def who(case: Any, context: Any) -> str:
    """Return whose credential a call needs."""
    return "person" if PERSONS.match(context.operation.path) else "admin"


@schemathesis.serializer("application/offset+octet-stream")
def piece(_: Any, value: Any) -> bytes:
    """Return the body of a piece of a file."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")


@schemathesis.auth(refresh_interval=TRIES_IN_PEACE_S, cache_by_key=who)
class Callers:
    """Credentials for each kind of route."""

    def __init__(self) -> None:
        self._key = ""

    def get(self, case: Any, context: Any) -> str:
        """Return a credential that is good now."""
        base_url = str(context.operation.base_url)
        if who(case, context) == "person":
            return person(base_url)
        self._key = self._key or admin_key(base_url)
        return self._key

    def set(self, case: Any, data: str, context: Any) -> None:
        """Send it along."""
        case.headers["Authorization"] = f"Bearer {data}"


def person(base_url: str) -> str:
    """Open an account and return its access token."""
    name = f"fuzz-{_run}-{next(_numbers)}"
    with httpx2.Client(base_url=base_url, timeout=60) as http:
        wish = {"email": f"{name}@fuzz.example", "username": name, "password": PASSWORD}
        http.post("/api/auth/register", json=wish).raise_for_status()
        answer = http.post("/api/auth/login", json={"email": wish["email"], "password": PASSWORD})
        return str(answer.raise_for_status().json()["access_token"])


def admin_key(base_url: str) -> str:
    """Return an API key that may do everything that a key may."""
    with httpx2.Client(base_url=base_url, timeout=60) as http:

        def login() -> dict[str, str]:
            answer = http.post("/api/auth/login", json={"email": ADMIN.email, "password": ADMIN.password})
            return {"Authorization": f"Bearer {answer.raise_for_status().json()['access_token']}"}

        headers = login()
        account = http.get("/api/auth/me", headers=headers).raise_for_status().json()["id"]
        for _ in range(CHANGES):
            seen = http.get(f"/api/admin/accounts/{account}", headers=headers)
            version = {"If-Match": seen.raise_for_status().headers["ETag"]}
            http.patch(f"/api/admin/accounts/{account}", json={"role": "admin"}, headers=headers | version)
            headers = login()
        wish = {"name": "fuzz", "scopes": ALL_SCOPES}
        return str(http.post("/api/auth/api-keys", json=wish, headers=headers).raise_for_status().json()["key"])
