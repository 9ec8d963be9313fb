"""Tokens: signed ones that say who calls, and opaque ones that renew them."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from chassis import ids
from services.meetings.accounts import Account

ISSUER = "verbatim"
AUDIENCE = "verbatim-api"
_REFRESH_BYTES = 32


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token as its owner gets it, and the hash under which we keep it."""

    text: str
    hash: bytes


def new_refresh_token() -> RefreshToken:
    """Return a token with 256 random bits."""
    text = secrets.token_urlsafe(_REFRESH_BYTES)
    return RefreshToken(text, hash_of(text))


def hash_of(token: str) -> bytes:
    """Return the SHA-256 of a token. It has so much chance in it that a slow hash would add nothing."""
    return hashlib.sha256(token.encode()).digest()


class AccessTokens:
    """Signs access tokens (JWT, EdDSA). Whoever has the public key can check them without asking us."""

    def __init__(self, private_key_pem: str, life_s: int, clock: Callable[[], float] = time.time) -> None:
        """Raises ValueError if the text is not an Ed25519 private key."""
        key = load_pem_private_key(private_key_pem.replace("\\n", "\n").encode(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("AUTH_PRIVATE_KEY must be an Ed25519 key")  # noqa: TRY004 - the value is wrong
        self._key = key
        self._clock = clock
        self.life_s = life_s

    def sign(self, account: Account) -> str:
        """Return a token that says who the account is and what role it has."""
        now = int(self._clock())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": account.id,
            "role": account.role,
            "typ": "access",
            "jti": ids.new_id(),
            "iat": now,
            "nbf": now,
            "exp": now + self.life_s,
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA")
