"""API keys: what programs come in with."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from chassis import ids
from services.meetings.accounts import Role
from services.meetings.checks import Checks

# So that scanners of repositories and logs know one when they see it.
PREFIX = "vbk_"
SCOPES = ("read", "write", "stream", "admin")
KEYS_MAX = 50
NAME_LONGEST = 100
_SECRET_BYTES = 32
_SHOWN_CHARS = len(PREFIX) + 6


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as its owner sees it later: without what opens anything."""

    id: str
    account_id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: dt.datetime
    expires_at: dt.datetime | None
    last_used_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key as it is shown once, and the hash under which it is kept."""

    id: str
    name: str
    scopes: tuple[str, ...]
    expires_at: dt.datetime | None
    text: str

    @property
    def hash(self) -> bytes:
        return hash_of(self.text)

    @property
    def prefix(self) -> str:
        return self.text[:_SHOWN_CHARS]


def new_api_key(
    name: str, scopes: Iterable[str], expires_at: dt.datetime | None, *, role: str, now: dt.datetime
) -> NewApiKey:
    """Make a key. Raises AppError(VALIDATION_FAILED); only an admin's key may have the scope of admins."""
    checks = Checks()
    name = checks.line("name", name, longest=NAME_LONGEST, required=True)
    wanted = tuple(scope for scope in SCOPES if scope in set(scopes))
    if not wanted or set(scopes) - set(SCOPES):
        checks.fail("scopes", f"must be some of {', '.join(SCOPES)}")
    elif "admin" in wanted and role != Role.ADMIN:
        checks.fail("scopes", "only an admin's key may have the scope admin")
    if expires_at is not None and expires_at <= now:
        checks.fail("expires_at", "must be in the future")
    checks.done()
    return NewApiKey(ids.new_id(), name, wanted, expires_at, PREFIX + secrets.token_urlsafe(_SECRET_BYTES))


def text_of(key_id: str, secret: bytes) -> str:
    """Return the key that belongs to an id: as good as random to who does not have the secret, and the same again."""
    digest = hmac.digest(secret, key_id.encode(), hashlib.sha256)
    return PREFIX + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def hash_of(key: str) -> bytes:
    """Return the SHA-256 of a key. It has 256 random bits: a slow hash would add nothing."""
    return hashlib.sha256(key.encode()).digest()
