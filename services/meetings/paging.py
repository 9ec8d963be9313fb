"""Pages of a list: where the last one ended, as an opaque cursor that nobody can forge."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

from chassis.errors import AppError, Kind, Problem

DEFAULT = 50
MOST = 200
_MAC_BYTES = 12

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows, and the cursor of those after them (empty: there are none)."""

    items: list[T]
    next_cursor: str


def page_size(asked: int) -> int:
    """Return how many rows to give: 50 unless asked (0), at most 200. Raises AppError(VALIDATION_FAILED)."""
    if asked > MOST:
        problem = Problem("limit", f"must be from 1 to {MOST}")
        raise AppError(Kind.VALIDATION_FAILED, "Some fields are not valid.", details=(problem,))
    return asked or DEFAULT


class Cursors:
    """Writes and reads cursors. `scope` says which list (whose, with which filter): a cursor is good for that only."""

    def __init__(self, key: str) -> None:
        self._key = hashlib.sha256(b"verbatim cursor " + key.encode()).digest()

    def seal(self, scope: tuple[str, ...], position: list[Any]) -> str:
        """Return the cursor for a position: the sort key of the last row given, JSON values."""
        body = orjson.dumps(position)
        return base64.urlsafe_b64encode(self._mac(scope, body) + body).rstrip(b"=").decode()

    def open(self, scope: tuple[str, ...], cursor: str) -> list[Any] | None:
        """Return the position, or None for an empty cursor: the beginning.

        Raises AppError(VALIDATION_FAILED) for a cursor that we did not write for this scope.
        """
        if not cursor:
            return None
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raw = b""
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(scope, body)):
            problem = Problem("cursor", "is not a cursor of this list")
            raise AppError(Kind.VALIDATION_FAILED, "Some fields are not valid.", details=(problem,))
        position: list[Any] = orjson.loads(body)
        return position

    def _mac(self, scope: tuple[str, ...], body: bytes) -> bytes:
        return hmac.digest(self._key, orjson.dumps(scope) + b"\n" + body, "sha256")[:_MAC_BYTES]
