"""Access tokens that `meetings` signed, checked here with public keys alone."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from chassis import ids
from services.gateway.auth import ROLES, Principal, refusal
from services.gateway.strict_json import strict_object

ISSUER = "verbatim"
AUDIENCE = "verbatim-api"

_LEEWAY_S = 30
_TOKEN_CHARS_MAX = 4096
_REMEMBERED_MAX = 10_000
_KEYS_MAX = 4
_KEY_ID_CHARS = 16
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_OPTIONS: Any = {"require": ["exp", "iat", "nbf", "aud", "iss", "sub", "jti"], "strict_aud": True}


def public_keys(pem: str) -> dict[str, Ed25519PublicKey]:
    """Return the keys of a PEM text by their names: the one in use and, while keys change, the one before or after.

    Raises ValueError unless there are one to four, all Ed25519.
    """
    found: dict[str, Ed25519PublicKey] = {}
    for part in _PEM.findall(pem.replace("\\n", "\n")):
        try:
            key = load_pem_public_key(part.encode())
        except ValueError:
            raise ValueError("must be a public key in PEM") from None
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("must be an Ed25519 key")  # noqa: TRY004 - the value is wrong
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        found[hashlib.sha256(der).hexdigest()[:_KEY_ID_CHARS]] = key
    if not 1 <= len(found) <= _KEYS_MAX:
        raise ValueError("must be a public key in PEM, or up to four")
    return found


class AccessTokens:
    """Checks access tokens (JWT, Ed25519 only)."""

    def __init__(self, public_key_pem: str, clock: Callable[[], float] = time.time) -> None:
        self._keys = public_keys(public_key_pem)
        self._clock = clock
        self._remembered: dict[str, tuple[float, Principal]] = {}

    def authenticate(self, token: str) -> Principal:
        """Return whom the token stands for. Raises AppError(UNAUTHORIZED).

        A token that held once is remembered until it expires: a signature check costs about as much as the rest of a
        small request.
        """
        known = self._remembered.get(token)
        if known is not None:
            if known[0] > self._clock():
                return known[1]
            del self._remembered[token]
        expires_at, principal = self._check(token)
        if expires_at + _LEEWAY_S <= self._clock():
            raise refusal("expired")
        if len(self._remembered) >= _REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[token] = (expires_at, principal)
        return principal

    def _check(self, token: str) -> tuple[float, Principal]:
        if len(token) > _TOKEN_CHARS_MAX:
            raise refusal("too long")
        try:
            claims = self._verified(token)
        except (jwt.PyJWTError, ValueError, RecursionError) as fault:
            raise refusal(type(fault).__name__) from fault
        account_id, role = claims["sub"], claims.get("role")
        if claims.get("typ") != "access":
            raise refusal("not an access token")
        if not ids.is_id(account_id) or role not in ROLES:
            raise refusal("names no account or role")
        expires_at = float(claims["exp"])
        principal = Principal(
            account_id,
            str(role),
            expires_at,
            issued_at=float(claims["iat"]),
            logged_in_at=float(claims.get("auth_time", 0)),
            # Tokens of the release before name no login; they live for minutes.
            login_id=str(claims.get("sid", "")),
        )
        return expires_at, principal

    def _verified(self, token: str) -> dict[str, Any]:
        strict_object(token, 0)
        kid = jwt.get_unverified_header(token).get("kid")
        keys = list(self._keys.values()) if kid is None else [self._keys[kid]] if kid in self._keys else []
        for key in keys:
            try:
                claims: dict[str, Any] = jwt.decode(
                    token, key, ["EdDSA"], _OPTIONS, audience=AUDIENCE, issuer=ISSUER, leeway=_LEEWAY_S
                )
            except jwt.InvalidSignatureError:
                continue
            strict_object(token, 1)
            return claims
        raise refusal("signed with no key of ours")
