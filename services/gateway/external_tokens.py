"""Tokens of another issuer (OpenID Connect), whom the operator trusts to know who somebody is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jwt
from verbatim.meetings.v1 import accounts_pb2 as pb
from verbatim.meetings.v1.accounts_pb2_grpc import AccountsServiceStub

from chassis.errors import AppError
from chassis.rpc import Peer
from services.gateway import metrics
from services.gateway.auth import Principal, refusal
from services.gateway.issuer_keys import IssuerKeys
from services.gateway.strict_json import strict_object

_LEEWAY_S = 30
_TOKEN_CHARS_MAX = 16 * 1024
_FRESH_S = 30.0
_STALE_S = 900.0
_REMEMBERED_MAX = 10_000
# Of a JWT, and of an access token (RFC 9068); a logout token, which is signed with the same keys, says another.
_TYPES = frozenset({"JWT", "AT+JWT", "APPLICATION/AT+JWT"})
_OPTIONS: Any = {"require": ["exp", "iat", "iss", "aud", "sub"], "enforce_minimum_key_length": True}


class ExternalTokens(Protocol):
    """Tokens that are not ours."""

    def issued(self, token: str) -> bool:
        """Tell whether the token says that it is of the other issuer. Proves nothing."""

    async def authenticate(self, token: str) -> Principal:
        """Return whom the token stands for. Raises AppError as auth.Recognises says."""


class NoExternalTokens:
    """There is no other issuer."""

    def issued(self, token: str) -> bool:
        return False

    async def authenticate(self, token: str) -> Principal:
        raise refusal("no other issuer")


@dataclass(frozen=True, slots=True)
class _Known:
    account: pb.Account
    asked_at: float


class OidcTokens:
    """Tokens of one OpenID Connect issuer, for one audience.

    Somebody whom the issuer names for the first time gets an account, as a user. The account's role is kept here, not
    in the token; a disabled account's tokens open nothing.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys: IssuerKeys,
        meetings: Peer,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._meetings = meetings
        self._stub = AccountsServiceStub(meetings.channel)
        self._timeout_s = timeout_s
        self._clock = clock
        self._remembered: dict[str, _Known] = {}

    def issued(self, token: str) -> bool:
        """Tell whether the token says that it is of our issuer."""
        if len(token) > _TOKEN_CHARS_MAX:
            return False
        try:
            return strict_object(token, 1).get("iss") == self._issuer
        except (ValueError, IndexError, RecursionError):
            return False

    async def authenticate(self, token: str) -> Principal:
        """Return whom the token stands for. Raises AppError: UNAUTHORIZED; UNAVAILABLE if that cannot be told now."""
        try:
            header = strict_object(token, 0)
        except (ValueError, RecursionError) as fault:
            raise refusal("unreadable") from fault
        if str(header.get("typ", "JWT")).upper() not in _TYPES:
            raise refusal("not an access token")
        key = await self._keys.key(header.get("kid"))
        try:
            claims: dict[str, Any] = jwt.decode(
                token, key.key, key.algorithms, _OPTIONS,
                audience=self._audience, issuer=self._issuer, leeway=_LEEWAY_S,
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError) as fault:
            raise refusal(type(fault).__name__) from fault
        if not isinstance(claims["sub"], str) or not claims["sub"]:
            raise refusal("names nobody")
        account = await self._account(claims)
        if account.disabled:
            raise refusal("account disabled")
        return Principal(
            account.id,
            account.role,
            float(claims["exp"]),
            issued_at=float(claims["iat"]),
            logged_in_at=float(claims.get("auth_time") or claims["iat"]),
        )

    async def _account(self, claims: dict[str, Any]) -> pb.Account:
        subject, now = claims["sub"], self._clock()
        known = self._remembered.get(subject)
        if known is not None and now < known.asked_at + _FRESH_S:
            return known.account
        who = pb.ResolveIdentityRequest(
            issuer=self._issuer,
            subject=subject,
            email=_text(claims.get("email")),
            username=_text(claims.get("preferred_username") or claims.get("name")),
        )
        try:
            answer = await self._meetings.call(self._stub.ResolveIdentity, who, timeout_s=self._timeout_s)
        except AppError as fault:
            if fault.codes.retryable and known is not None and now < known.asked_at + _STALE_S:
                metrics.STALE_CREDENTIALS.labels("external").inc()
                return known.account
            if fault.codes.retryable:
                raise
            raise refusal("nobody whom we could know") from fault
        self._remembered.pop(subject, None)
        if len(self._remembered) >= _REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[subject] = _Known(answer.account, now)
        return answer.account


def _text(claim: object) -> str:
    return claim[:254] if isinstance(claim, str) else ""
