"""Devices that we know: a token that says from where an account was entered before.

It opens nothing. It only lets the tries of that device be counted apart from everybody else's, so that whoever storms
an account from elsewhere does not lock its owner out. After OWASP, "Slow Down Online Guessing Attacks with Device
Cookies".
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable
from typing import Any

import jwt

LIFE_S = 180 * 86400
_AUDIENCE = "verbatim-device"
_CHARS_MAX = 1024
_OPTIONS: Any = {"require": ["exp", "sub", "jti"], "strict_aud": True, "enforce_minimum_key_length": True}


class Devices:
    """Signs and reads the tokens of devices. Everybody else can only send them back."""

    def __init__(self, secret: bytes, clock: Callable[[], dt.datetime]) -> None:
        self._secret = secret
        self._clock = clock

    def sign(self, subject: bytes) -> str:
        """Return a new token for a device from which `subject` was entered."""
        expires_at = int(self._clock().timestamp()) + LIFE_S
        claims = {"sub": subject.hex(), "aud": _AUDIENCE, "jti": secrets.token_urlsafe(12), "exp": expires_at}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def nonce(self, subject: bytes, token: str) -> str:
        """Return what tells the device from others; empty if it never entered `subject`."""
        if not token or len(token) > _CHARS_MAX:
            return ""
        try:
            claims = jwt.decode(token, self._secret, ["HS256"], _OPTIONS, audience=_AUDIENCE)
        except (jwt.PyJWTError, ValueError):
            return ""
        return str(claims["jti"]) if claims["sub"] == subject.hex() else ""
