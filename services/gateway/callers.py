"""Where somebody who logs in comes from: the address, and the cookie that marks a device that was in before."""

from __future__ import annotations

from fastapi import Request, Response
from verbatim.meetings.v1.accounts_pb2 import Caller

_LIFE_S = 180 * 86400
_TOKEN_CHARS_MAX = 1024


class Callers:
    """Reads callers and marks their devices.

    The cookie opens nothing (services/meetings/devices.py): it keeps others from locking its owner out.
    """

    def __init__(self, *, secure: bool) -> None:
        """`secure`: browsers reach us over TLS only."""
        self._secure = secure
        self._cookie = "__Host-device" if secure else "device"

    def of(self, request: Request) -> Caller:
        """Return where a request comes from."""
        device = request.cookies.get(self._cookie, "")
        return Caller(address=address_of(request), device=device if len(device) <= _TOKEN_CHARS_MAX else "")

    def mark(self, response: Response, device: str) -> None:
        """Let the browser keep the token of its device."""
        if device:
            response.set_cookie(
                self._cookie, device, max_age=_LIFE_S, path="/", secure=self._secure, httponly=True, samesite="strict"
            )


def address_of(request: Request) -> str:
    """Return the client's address as the edge knows it; empty if there is none."""
    return request.client.host if request.client else ""
