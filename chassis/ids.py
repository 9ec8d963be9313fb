"""Identifiers: UUIDv7 for things, `req_…` for requests."""

from __future__ import annotations

import hashlib
import re
import secrets

import uuid_utils

_REQUEST_ID = re.compile(r"req_[A-Za-z0-9_-]{8,60}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id() -> str:
    """Return a new UUIDv7 as text; later ids sort after earlier ones."""
    return str(uuid_utils.uuid7())


def derived_id(parent: str, *parts: object) -> str:
    """Return the UUIDv7 that always follows from a parent UUIDv7 and parts: same input, same id, also after a restart.

    Keeps the parent's 48 bit time; the other bits are a SHA-256 of the input.
    """
    digest = hashlib.sha256("/".join([parent, *map(str, parts)]).encode()).hexdigest()
    time_hex = parent.replace("-", "")[:12]
    variant = "89ab"[int(digest[3], 16) % 4]
    raw = f"{time_hex}7{digest[:3]}{variant}{digest[4:19]}"
    return f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"


def is_id(text: str) -> bool:
    """Tell whether text is a UUID in its canonical form."""
    return _UUID.fullmatch(text) is not None


def new_request_id() -> str:
    """Return a request id that nobody can guess."""
    return "req_" + secrets.token_urlsafe(16)


def accept_request_id(offered: str | None) -> str:
    """Return the offered request id if it is well-formed, else a new one."""
    return offered if offered and _REQUEST_ID.fullmatch(offered) else new_request_id()
