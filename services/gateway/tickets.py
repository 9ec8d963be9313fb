"""One-time tickets: what a browser opens a WebSocket with, since it can send no header there.

A ticket is signed, so any gateway can read it, and is noted at the broker when it is used, where the first note wins:
so it is good once, at whatever gateway. Redis has no part in it; without the broker no live session begins anyway.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from typing import Any

import jwt
import nats.js.errors

from chassis import bus, telemetry
from chassis.errors import AppError, Kind
from services.gateway.auth import Principal, refusal
from services.gateway.broker import Broker

log = telemetry.logger(__name__)

LIFE_S = 30

# A note must outlive its ticket, and then some, since clocks differ.
USED = bus.Stream("TICKETS", ("tickets.>",), max_bytes=64 * 1024**2, max_age_s=300.0)

_AUDIENCE = "verbatim-ticket"
_CHARS_MAX = 2048
_WRONG_LAST_SEQUENCE = 10071
_NOTE_S = 2.0
# Whoever gave the ticket may have a clock that is ahead of ours by so much.
_AHEAD_S = 60.0
_OPTIONS: Any = {
    "require": ["exp", "iat", "aud", "jti", "sub"], "strict_aud": True, "enforce_minimum_key_length": True,
    "verify_iat": False,  # by itself PyJWT refuses what was given a second in the future
}  # fmt: skip


class Tickets:
    """Gives tickets and takes them."""

    def __init__(self, key: str, broker: Broker, clock: Callable[[], float] = time.time) -> None:
        """`key` is what all gateways share."""
        self._key = hmac.digest(key.encode(), b"verbatim tickets", "sha256")
        self._broker = broker
        self._clock = clock

    def issue(self, who: Principal) -> tuple[str, int]:
        """Return a ticket that stands for the principal once, and for how many seconds."""
        now = self._clock()
        life_s = max(0, min(LIFE_S, int(who.expires_at - now)))
        claims = {
            "aud": _AUDIENCE,
            "jti": secrets.token_hex(16),
            "iat": int(now),
            "exp": int(now) + life_s,
            "sub": who.account_id,
            "role": who.role,
            "until": who.expires_at,
            "issued": who.issued_at,
            "sid": who.login_id,
            "key": who.key_id,
            "scopes": sorted(who.scopes),
        }
        return jwt.encode(claims, self._key, algorithm="HS256"), life_s

    async def redeem(self, ticket: str) -> Principal:
        """Return whom a ticket stands for, and use it up.

        Raises AppError: UNAUTHORIZED if it is wrong, expired or used; UNAVAILABLE if the broker cannot be asked.
        """
        if len(ticket) > _CHARS_MAX:
            raise refusal("ticket too long")
        try:
            claims = jwt.decode(ticket, self._key, ["HS256"], _OPTIONS, audience=_AUDIENCE)
        except (jwt.PyJWTError, ValueError) as fault:
            raise refusal(f"ticket: {type(fault).__name__}") from fault
        if not isinstance(claims["iat"], int) or claims["iat"] > self._clock() + _AHEAD_S:
            raise refusal("ticket: from the future")
        await self._use_up(str(claims["jti"]))
        return Principal(
            claims["sub"],
            claims["role"],
            claims["until"],
            issued_at=claims["issued"],
            login_id=claims["sid"],
            key_id=claims["key"],
            scopes=frozenset(claims["scopes"]),
        )

    async def _use_up(self, ticket_id: str) -> None:
        broker = self._broker.require()
        try:
            try:
                await self._note(broker, ticket_id)
            except nats.js.errors.NoStreamResponseError:
                # The first ticket of this installation, or the stream was deleted.
                await broker.declare(USED)
                await self._note(broker, ticket_id)
        except nats.js.errors.APIError as fault:
            if fault.err_code == _WRONG_LAST_SEQUENCE:
                raise refusal("ticket used before") from fault
            raise _unavailable(fault) from fault
        except bus.FAULTS as fault:
            raise _unavailable(fault) from fault

    async def _note(self, broker: bus.Bus, ticket_id: str) -> None:
        # Only the first message of its subject: of two at once, one is refused.
        first = {"Nats-Expected-Last-Subject-Sequence": "0"}
        await broker.js.publish(f"tickets.{ticket_id}", b"", timeout=_NOTE_S, headers=first)


def _unavailable(fault: Exception) -> AppError:
    return AppError(Kind.UNAVAILABLE, "The ticket cannot be checked now: get a new one.", log=f"ticket: {fault!r}")
