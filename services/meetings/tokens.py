"""Tokens: signed ones that say who calls, and opaque ones that renew them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from chassis import ids
from services.meetings.accounts import Account

ISSUER = "verbatim"
AUDIENCE = "verbatim-api"
_REFRESH_BYTES = 32
_KEY_ID_CHARS = 16


def derived(key: str, purpose: str) -> bytes:
    """Return a key for one purpose: what is signed for one is good for no other."""
    return hmac.digest(key.encode(), f"verbatim {purpose}".encode(), "sha256")


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token as its owner gets it, and the hash under which we keep it."""

    text: str
    hash: bytes


class RefreshTokens:
    """Makes refresh tokens.

    The successor of a token follows from it, for whoever knows our secret. So a client whose answer got lost gets the
    same successor when it asks again, though only hashes are kept; and a chain never has two ends, at one of which a
    thief could go on unseen.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def first(self) -> RefreshToken:
        """Return a token with 256 random bits."""
        return _token(secrets.token_bytes(_REFRESH_BYTES))

    def successor(self, token: str) -> RefreshToken:
        """Return the one token that follows."""
        return _token(hmac.digest(self._secret, token.encode(), "sha256"))


def _token(raw: bytes) -> RefreshToken:
    text = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
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
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        # While keys change, both are known to who checks; the name tells which is meant.
        self._headers = {"kid": hashlib.sha256(public).hexdigest()[:_KEY_ID_CHARS]}
        self._key = key
        self._clock = clock
        self.life_s = life_s

    def sign(self, account: Account, *, login_id: str, logged_in_at: float) -> str:
        """Return a token that says who the account is, what role it has, and since when (Unix time) it is logged in."""
        now = self._clock()
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": account.id,
            "role": account.role,
            "typ": "access",
            "jti": ids.new_id(),
            "sid": login_id,
            "auth_time": int(logged_in_at),
            # To the millisecond: what is signed right after a revocation is not what was revoked.
            "iat": round(now, 3),
            "nbf": int(now),
            "exp": int(now) + self.life_s,
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers=self._headers)
