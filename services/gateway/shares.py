"""Links that show one meeting to whoever has them: signed, for reading only, good for a day.

A link is noted nowhere. It ends by itself, with its meeting, when its maker logs out everywhere or changes the
password, and with the API key that made it. docs/adr/0130-a-shared-meeting-is-a-signed-link.md says why.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Any

import jwt

from chassis import ids
from services.gateway.auth import READ, Principal, refusal

PREFIX = "share_"
# Not longer than revocations are remembered (revocations.py): what is older could not be ended.
LIFE_S = 86_400

_AUDIENCE = "verbatim-share"
_CHARS_MAX = 2048
_OPTIONS: Any = {"require": ["exp", "iat", "aud", "sub"], "strict_aud": True, "enforce_minimum_key_length": True}


class Shares:
    """Gives share tokens and takes them."""

    def __init__(self, key: str, clock: Callable[[], float] = time.time) -> None:
        """`key` is what all gateways share."""
        self._key = hmac.digest(key.encode(), b"verbatim shares", "sha256")
        self._clock = clock

    def issue(self, who: Principal, meeting_id: str) -> tuple[str, float]:
        """Return a token that reads a meeting of the principal's, and when it ends (Unix time)."""
        now = int(self._clock())
        claims = {"aud": _AUDIENCE, "iat": now, "exp": now + LIFE_S, "sub": who.account_id, "mid": meeting_id}
        return PREFIX + jwt.encode(claims | {"key": who.key_id}, self._key, algorithm="HS256"), float(now + LIFE_S)

    def authenticate(self, token: str) -> Principal:
        """Return what a token stands for: its maker, but in that meeting only. Raises AppError(UNAUTHORIZED)."""
        if len(token) > _CHARS_MAX:
            raise refusal("share token too long")
        try:
            claims = jwt.decode(
                token.removeprefix(PREFIX),
                self._key,
                ["HS256"],
                # The clock is ours to give, so that tests can turn it.
                _OPTIONS | {"verify_exp": False, "verify_iat": False},
                audience=_AUDIENCE,
            )
        except (jwt.PyJWTError, ValueError) as fault:
            raise refusal(f"share token: {type(fault).__name__}") from fault
        meeting_id = str(claims.get("mid", ""))
        if not ids.is_id(meeting_id):
            raise refusal("share token names no meeting")
        if claims["exp"] <= self._clock():
            raise refusal("share token expired")
        return Principal(
            claims["sub"],
            "user",
            float(claims["exp"]),
            issued_at=float(claims["iat"]),
            key_id=str(claims.get("key", "")),
            scopes=frozenset({READ}),
            meeting_id=meeting_id,
        )
