"""Who is calling: access tokens, checked here with the public key alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from chassis import ids
from chassis.errors import AppError, Kind

ISSUER = "verbatim"
AUDIENCE = "verbatim-api"
ROLES = frozenset({"user", "admin"})

_LEEWAY_S = 30
_TOKEN_CHARS_MAX = 4096
_REMEMBERED_MAX = 10_000
_OPTIONS: Any = {"require": ["exp", "iat", "nbf", "aud", "iss", "sub", "jti"], "strict_aud": True}


@dataclass(frozen=True, slots=True)
class Principal:
    """The account that a request speaks for."""

    account_id: str
    role: str
    expires_at: float
    """Unix time at which the token ends."""


class AccessTokens:
    """Checks access tokens (JWT, Ed25519 only)."""

    def __init__(self, public_key_pem: str, clock: Callable[[], float] = time.time) -> None:
        self._key = cast(Ed25519PublicKey, load_pem_public_key(public_key_pem.encode()))
        self._clock = clock
        self._remembered: dict[str, tuple[float, Principal]] = {}

    def authenticate(self, token: str) -> Principal:
        """Return whom the token stands for.

        Raises AppError(UNAUTHORIZED), with the same words whatever is wrong. A token that held once is remembered
        until it expires: a signature check costs about as much as the rest of a small request.
        """
        known = self._remembered.get(token)
        if known is not None:
            if known[0] > self._clock():
                return known[1]
            del self._remembered[token]
        expires_at, principal = self._check(token)
        if expires_at + _LEEWAY_S <= self._clock():
            raise _refusal("expired")
        if len(self._remembered) >= _REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[token] = (expires_at, principal)
        return principal

    def account_of(self, authorization: str) -> str | None:
        """Return whom an Authorization header speaks for; None if that is nobody known here."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            return self.authenticate(token.strip()).account_id
        except AppError:
            return None

    def _check(self, token: str) -> tuple[float, Principal]:
        if len(token) > _TOKEN_CHARS_MAX:
            raise _refusal("too long")
        try:
            claims = jwt.decode(
                token, self._key, ["EdDSA"], _OPTIONS, audience=AUDIENCE, issuer=ISSUER, leeway=_LEEWAY_S
            )
        except (jwt.PyJWTError, ValueError) as fault:
            raise _refusal(type(fault).__name__) from fault
        account_id, role = claims["sub"], claims.get("role")
        if claims.get("typ") != "access":
            raise _refusal("not an access token")
        if not ids.is_id(account_id) or role not in ROLES:
            raise _refusal("names no account or role")
        return float(claims["exp"]), Principal(account_id, role, float(claims["exp"]))


def _refusal(why: str) -> AppError:
    return AppError(Kind.UNAUTHORIZED, "The access token is missing, wrong or expired.", log=f"token refused: {why}")


_bearer = HTTPBearer(
    auto_error=False, bearerFormat="JWT", description="The `access_token` that `POST /api/auth/login` answers."
)


async def _principal(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Principal:
    if credentials is None:
        raise _refusal("no bearer token")
    tokens: AccessTokens = request.app.state.access_tokens
    return tokens.authenticate(credentials.credentials)


# A route that has a parameter of this type answers 401 to everybody else, before it looks at what was sent.
Who = Annotated[Principal, Depends(_principal)]


async def _admin(who: Who) -> Principal:
    if who.role != "admin":
        raise AppError(Kind.FORBIDDEN, "Only those who look after the platform may do this.")
    return who


# The same for those who look after the platform; answers 403 to others.
Admin = Annotated[Principal, Depends(_admin)]
