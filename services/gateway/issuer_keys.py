"""The public keys of an OpenID Connect issuer: fetched, kept, and fetched anew when they change."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import jwt
import orjson

from chassis import telemetry
from chassis.errors import AppError, Kind
from services.gateway.auth import refusal

log = telemetry.logger(__name__)

_FETCH_EVERY_S = 600.0
_RETRY_EVERY_S = 15.0
_STALE_S = 86400.0
# A token with an invented key id must not make us ask the issuer with every request.
_ASK_AGAIN_S = 5.0
_ANSWER_BYTES_MAX = 256 * 1024
_WITHIN_S = 5.0
# What each kind of key signs with. A shared secret among them would let anybody sign who can read it.
_ALGORITHMS = {
    "RSA": ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
    "EC": ["ES256", "ES384", "ES512"],
    "OKP": ["EdDSA"],
}


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key, and what may be signed with it."""

    key: Any
    algorithms: list[str]


class IssuerKeys:
    """The keys of one issuer. `jwks_url` empty: as its configuration document says."""

    def __init__(
        self, http: httpx2.AsyncClient, issuer: str, jwks_url: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._http = http
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._clock = clock
        self._keys: dict[str | None, IssuerKey] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._fault: AppError | None = None
        self._fetching = asyncio.Lock()

    def forget(self) -> None:
        """Let no key hold until the issuer has been asked again."""
        self._keys, self._fetched_at, self._asked_at = {}, None, None

    async def run(self) -> None:
        """Fetch the keys now and then, for ever, so that no request waits for it."""
        while True:
            await self._fetch()
            await asyncio.sleep(random.uniform(0.8, 1.0) * (_FETCH_EVERY_S if self._fault is None else _RETRY_EVERY_S))

    async def key(self, kid: object) -> IssuerKey:
        """Return the key of this id; without an id, the only one there is.

        Raises AppError: UNAUTHORIZED if the issuer has no such key, UNAVAILABLE if it cannot be asked.
        """
        if (found := self._find(kid)) is None:
            # A new key, perhaps.
            await self._fetch()
            found = self._find(kid)
        if found is not None:
            return found
        if self._fault is not None:
            raise self._fault
        raise refusal("signed with no key of the issuer")

    def _find(self, kid: object) -> IssuerKey | None:
        if self._fetched_at is None or self._clock() - self._fetched_at > _STALE_S:
            return None
        if isinstance(kid, str):
            return self._keys.get(kid)
        return next(iter(self._keys.values())) if kid is None and len(self._keys) == 1 else None

    async def _fetch(self) -> None:
        """Ask the issuer, one at a time and not more often than every few seconds."""
        async with self._fetching:
            if self._asked_at is not None and self._clock() - self._asked_at < _ASK_AGAIN_S:
                return
            self._asked_at = self._clock()
            try:
                async with asyncio.timeout(_WITHIN_S):
                    self._keys = _keys(await self._get(await self._where()))
                self._fetched_at, self._fault = self._clock(), None
            except (httpx2.HTTPError, TimeoutError, ValueError) as fault:
                log.warning("keys of the issuer not fetched", fault=repr(fault))
                self._fault = AppError(
                    Kind.UNAVAILABLE, "The issuer of the token does not answer.", retry_after_s=_ASK_AGAIN_S
                )

    async def _where(self) -> str:
        if self._jwks_url:
            return self._jwks_url
        document = await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != self._issuer:
            raise ValueError("the configuration is of another issuer")
        return str(document.get("jwks_uri"))

    async def _get(self, url: str) -> dict[str, Any]:
        async with self._http.stream("GET", url, headers={"Accept": "application/json"}) as answer:
            answer.raise_for_status()
            body = b""
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _ANSWER_BYTES_MAX:
                    raise ValueError("the answer is too long")
        found = orjson.loads(body)
        if not isinstance(found, dict):
            raise ValueError("no object")  # noqa: TRY004 - the answer is wrong
        return found


def _keys(document: dict[str, Any]) -> dict[str | None, IssuerKey]:
    found: dict[str | None, IssuerKey] = {}
    entries = document.get("keys")
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        allowed = _ALGORITHMS.get(str(entry.get("kty")), [])
        named = [entry["alg"]] if entry.get("alg") else allowed
        algorithms = [name for name in named if name in allowed]
        if not algorithms or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry, algorithm=algorithms[0]).key
        except jwt.PyJWTError:
            # Of a curve that we do not know, say: the others are good.
            log.warning("key of the issuer not understood")
            continue
        found[entry.get("kid")] = IssuerKey(key, algorithms)
    if not found:
        raise ValueError("there is no key among the keys")
    return found
