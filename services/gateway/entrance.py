"""Everything that decides who comes in, put together once."""

from __future__ import annotations

from dataclasses import dataclass

from chassis.rpc import Peer
from services.gateway.auth import Recognises
from services.gateway.callers import Callers
from services.gateway.captcha import Captcha
from services.gateway.revocations import RevocationNews, Revocations
from services.gateway.shares import Shares
from services.gateway.tickets import Tickets


@dataclass(frozen=True, slots=True)
class Entrance:
    """What routes of accounts, live sockets and viewers need to know whom they serve."""

    meetings: Peer
    credentials: Recognises
    tickets: Tickets
    shares: Shares
    revocations: Revocations
    news: RevocationNews
    callers: Callers
    captcha: Captcha
    timeout_s: float
    login_timeout_s: float
    """Longest register or login: these wait for their turn to hash a password."""
    fresh_login_s: float
    """Age of a login at which it may still do what cannot be undone."""
