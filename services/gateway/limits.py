"""How much who may ask: quotas of addresses, accounts and routes, and the fields that tell clients of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chassis.errors import AppError, Kind
from chassis.limits import Charge, Limiter, Quota, Verdict
from services.gateway.addresses import network_of
from services.gateway.metrics import RATE_LIMITED

_WINDOWS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_NAMES = {60: "minute", 3600: "hour", 86400: "day"}
_RATE = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,3})?(s|min|h|d)")
_ROUTE = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9_{}./-]*)")

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Rules:
    """The quotas of each scope."""

    address: tuple[Quota, ...] = ()
    account: tuple[Quota, ...] = ()
    routes: tuple[tuple[str, re.Pattern[str], tuple[Quota, ...]], ...] = ()
    starts: tuple[Quota, ...] = ()
    """Of an account: live sessions that it begins."""

    def scaled(self, factor: float) -> Rules:
        """Return the same rules with limits of that part; the counts stay what they are."""

        def less(quotas: tuple[Quota, ...]) -> tuple[Quota, ...]:
            return tuple(Quota(q.name, max(1, math.floor(q.limit * factor)), q.window_s) for q in quotas)

        routes = tuple((method, path, less(quotas)) for method, path, quotas in self.routes)
        return Rules(less(self.address), less(self.account), routes, less(self.starts))


def rates(text: str, scope: str) -> tuple[Quota, ...]:
    """Return the quotas that a setting names: `100/min 1000/h`, `5/15min`. Raises ValueError."""
    found = []
    for part in text.split():
        match = _RATE.fullmatch(part)
        if match is None:
            raise ValueError("must be rates such as 100/min 1000/h")
        window_s = int(match[2] or 1) * _WINDOWS[match[3]]
        found.append(Quota(f"{scope}-{_NAMES.get(window_s, f'{window_s}s')}", int(match[1]), window_s))
    return tuple(found)


def route_rates(text: str) -> tuple[tuple[str, re.Pattern[str], tuple[Quota, ...]], ...]:
    """Return the quotas of routes, as in `POST /api/uploads=30/h; GET /api/meetings/{id}=9/min`. Raises ValueError."""
    found = []
    for rule in filter(None, map(str.strip, text.split(";"))):
        route, _, wanted = rule.partition("=")
        match = _ROUTE.fullmatch(route.strip())
        if match is None or not wanted.strip():
            raise ValueError("must be routes with rates such as POST /api/uploads=30/h; GET /api/meetings/{id}=50/min")
        pieces = [re.escape(piece) for piece in re.split(r"\{[^/{}]*\}", match[2])]
        scope = re.sub(r"[^a-z0-9]+", "-", route.strip().lower()).strip("-")
        found.append((match[1], re.compile("[^/]+".join(pieces)), rates(wanted, scope)))
    return tuple(found)


class RateLimits:
    """Charges every request to its address, its account and its route, all in one round trip."""

    def __init__(
        self, limiter: Limiter, rules: Rules, *, aggressive_factor: float, is_aggressive: Callable[[], bool]
    ) -> None:
        """`is_aggressive` is asked at each request: the mode may change at any time."""
        self._limiter = limiter
        self._rules = {False: rules, True: rules.scaled(aggressive_factor)}
        self._is_aggressive = is_aggressive

    async def charge(self, method: str, path: str, address: str, account: str | None) -> Verdict:
        """Charge one request. A verdict that denies is for the caller to raise, with `refusal`."""
        rules = self._rules[self._is_aggressive()]
        network = network_of(address)
        charges = [Charge(quota, network) for quota in rules.address]
        if account is not None:
            charges += [Charge(quota, account) for quota in rules.account]
        for wanted, pattern, quotas in rules.routes:
            if wanted == method and pattern.fullmatch(path):
                charges += [Charge(quota, account or network) for quota in quotas]
        return await self._judge(charges)

    async def charge_start(self, address: str, account: str) -> Verdict:
        """Charge one new live session."""
        rules = self._rules[self._is_aggressive()]
        charges = [Charge(quota, network_of(address)) for quota in rules.address]
        charges += [Charge(quota, account) for quota in (*rules.account, *rules.starts)]
        return await self._judge(charges)

    async def _judge(self, charges: Sequence[Charge]) -> Verdict:
        if not charges:
            return Verdict(True, ())
        verdict = await self._limiter.take(*charges)
        if verdict.denied_by is not None:
            RATE_LIMITED.labels(_scope(verdict.denied_by)).inc()
        return verdict


def refusal(verdict: Verdict) -> AppError:
    """Return what to answer to a request that was denied."""
    return AppError(Kind.RATE_LIMIT_EXCEEDED, "Too many requests.", retry_after_s=math.ceil(verdict.retry_after_s))


def fields(verdict: Verdict) -> Headers:
    """Return RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10)."""
    if not verdict.standings:
        return []
    policies = [f'"{s.quota.name}";q={s.quota.limit};w={math.ceil(s.quota.window_s)}' for s in verdict.standings]
    states = [f'"{s.quota.name}";r={s.remaining};t={math.ceil(s.reset_s)}' for s in verdict.standings]
    return [
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(states).encode()),
    ]


def _scope(quota: Quota) -> str:
    first = quota.name.partition("-")[0]
    return first if first in {"ip", "account", "starts"} else "route"
