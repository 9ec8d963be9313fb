"""API keys: `meetings` is asked, now and then."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from verbatim.meetings.v1 import api_keys_pb2 as pb
from verbatim.meetings.v1.api_keys_pb2_grpc import ApiKeysServiceStub

from chassis.errors import AppError, Kind
from chassis.rpc import Peer
from services.gateway import metrics
from services.gateway.auth import Principal, refusal

PREFIX = "vbk_"

_KEY = re.compile(r"vbk_[A-Za-z0-9_-]{43}")
_FRESH_S = 15.0
# As long as an access token, which is not asked about either.
_STALE_S = 900.0
_LIFE_S = 86400.0
_REMEMBERED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    checked_at: float


class ApiKeyChecks:
    """Checks API keys.

    What is known of one holds for some seconds, and, while `meetings` does not answer, for as long as an access token
    lives. A key that is deleted is heard of at once (revocations.py).
    """

    def __init__(self, meetings: Peer, *, timeout_s: float, clock: Callable[[], float] = time.time) -> None:
        self._meetings = meetings
        self._stub = ApiKeysServiceStub(meetings.channel)
        self._timeout_s = timeout_s
        self._clock = clock
        self._remembered: dict[bytes, _Known] = {}

    def forget(self) -> None:
        """Ask about every key anew."""
        self._remembered.clear()

    async def authenticate(self, key: str) -> Principal:
        """Return whom the key stands for.

        Raises AppError: UNAUTHORIZED; UNAVAILABLE or TIMEOUT if it cannot be told.
        """
        if not _KEY.fullmatch(key):
            raise refusal("no API key")
        digest, now = hashlib.sha256(key.encode()).digest(), self._clock()
        known = self._remembered.get(digest)
        if known is not None and now < min(known.checked_at + _FRESH_S, known.principal.expires_at):
            return known.principal
        try:
            answer = await self._meetings.call(
                self._stub.CheckApiKey, pb.CheckApiKeyRequest(key=key), timeout_s=self._timeout_s
            )
        except AppError as fault:
            if fault.kind is Kind.UNAUTHORIZED:
                self._remembered.pop(digest, None)
                raise refusal("API key") from fault
            if known is not None and now < min(known.checked_at + _STALE_S, known.principal.expires_at):
                metrics.STALE_CREDENTIALS.labels("api_key").inc()
                return known.principal
            raise
        principal = _principal(answer, now)
        self._remembered.pop(digest, None)
        if len(self._remembered) >= _REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = _Known(principal, now)
        return principal


def _principal(answer: pb.CheckApiKeyResponse, now: float) -> Principal:
    key, account = answer.api_key, answer.account
    ends_at = key.expires_at.ToNanoseconds() / 1e9 if key.HasField("expires_at") else now + _LIFE_S
    return Principal(
        account.id,
        account.role,
        min(ends_at, now + _LIFE_S),
        issued_at=now,
        key_id=key.id,
        scopes=frozenset(key.scopes),
    )
