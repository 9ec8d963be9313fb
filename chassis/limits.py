"""Limits that all replicas of a service share: so much within a window, counted in Redis, or in memory without it.

The window slides: what the window before counted weighs as much as it still overlaps, rounded down. A window begins
with the first charge of its subject, so that a burst meets exactly the limit.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from prometheus_client import Counter

from chassis import ids
from chassis.cache import Asking, Cache
from chassis.limit_scripts import FORGIVE, GIVE_BACK, TAKE
from chassis.redis_lane import Away

FORGOTTEN = Counter("redis_fallback_journal_dropped_total", "Counts made in memory and given up for lack of room.")

_BATCH = 200


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` within any `window_s` seconds. The name is public (RateLimit fields) and part of the key."""

    name: str
    limit: int
    window_s: float


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call takes from a quota: of whom (any text; only its hash leaves the process), and how much."""

    quota: Quota
    subject: str
    cost: int = 1

    @property
    def key(self) -> str:
        return f"limit:{self.quota.name}:{hashlib.blake2b(self.subject.encode(), digest_size=12).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Standing:
    """How one quota stands after a call."""

    quota: Quota
    remaining: int
    reset_s: float
    """Seconds until the window ends."""
    wait_s: float
    """Seconds until the same charge would be allowed; 0 if this one does not stand in its way."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a call may go on."""

    allowed: bool
    standings: tuple[Standing, ...]

    @property
    def retry_after_s(self) -> float:
        """Return when the same call would be allowed, as far as is known now; 0 if it is."""
        return max((standing.wait_s for standing in self.standings), default=0.0)

    @property
    def denied_by(self) -> Quota | None:
        """Return the quota that the caller has to wait for longest; None if the call is allowed."""
        if self.allowed:
            return None
        return max(self.standings, key=lambda standing: standing.wait_s).quota


class Limiter:
    """Charges quotas, several in one round trip. Without Redis each replica gives out its share of what is left, as
    far as it knows: no limit is ever open."""

    scripts: Mapping[str, str] = {"take": TAKE, "give_back": GIVE_BACK, "forgive": FORGIVE}

    def __init__(self, cache: Cache, *, counts_max: int = 50_000, clock: Callable[[], float] = time.monotonic) -> None:
        """`counts_max`: how many counts are remembered for when Redis goes away; the least used are dropped."""
        self._cache = cache
        self._clock = clock
        self._counts_max = counts_max
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._unknown: dict[str, _Count] = {}
        """Those that Redis does not know all of."""
        self._unanswered: _Batch | None = None
        cache.join(self)

    async def take(self, *charges: Charge) -> Verdict:
        """Charge all, if every quota has room; else nothing."""
        return await self._run("take", charges)

    async def charge(self, *charges: Charge) -> Verdict:
        """Charge for what has happened already, room or not. The verdict tells whether there was room."""
        return await self._run("charge", charges)

    async def look(self, *charges: Charge) -> Verdict:
        """Tell whether all would be allowed now, and charge nothing."""
        return await self._run("look", charges)

    async def forgive(self, *charges: Charge) -> None:
        """Forget what was counted of these subjects. While Redis is away, only here."""
        for charge in charges:
            self._counts.pop(charge.key, None)
            self._unknown.pop(charge.key, None)
        try:
            call = await self._cache.start("forgive", tuple(charge.key for charge in charges), ())
            await self._cache.reply_of(call)
        except Away:
            return

    async def _run(self, mode: str, charges: Sequence[Charge]) -> Verdict:
        keys = tuple([charge.key for charge in charges])
        wanted = " ".join([f"{c.quota.limit} {int(c.quota.window_s * 1000)} {c.cost}" for c in charges])
        call = None
        try:
            call = await self._cache.start("take", keys, (mode, wanted))
            reply = await self._cache.reply_of(call)
        except Away as away:
            counted, verdict = self._run_here(mode, keys, charges)
            if call is not None and away.sent:
                call.when_late(partial(self._take_back, keys, charges, counted))
            return verdict
        return self._note(keys, charges, reply)

    def _note(self, keys: Sequence[str], charges: Sequence[Charge], reply: bytes) -> Verdict:
        """Remember what Redis said, for when it does not answer."""
        now, (allowed, *found) = self._clock(), map(int, reply.split())
        standings = []
        for i, (key, charge) in enumerate(zip(keys, charges, strict=True)):
            elapsed_s, before, count = found[3 * i] / 1000, found[3 * i + 1], found[3 * i + 2]
            known = self._recall(key, charge.quota.window_s, now)
            known.start, known.before, known.known = now - elapsed_s, before, count
            known.before_everywhere = before
            standings.append(_standing(charge, elapsed_s, before, count, denied=not allowed))
        return Verdict(allowed == 1, tuple(standings))

    def _run_here(self, mode: str, keys: Sequence[str], charges: Sequence[Charge]) -> tuple[bool, Verdict]:
        now, replicas = self._clock(), self._cache.replicas
        counts = []
        for key, charge in zip(keys, charges, strict=True):
            count = self._recall(key, charge.quota.window_s, now)
            count.advance(now, replicas)
            counts.append(count)
        rooms = [one.room(c.quota.limit, now, replicas) for one, c in zip(counts, charges, strict=True)]
        allowed = all(room >= c.cost for room, c in zip(rooms, charges, strict=True))
        counted = mode == "charge" or (mode == "take" and allowed)
        if counted:
            for key, charge, count in zip(keys, charges, counts, strict=True):
                count.own += charge.cost
                self._unknown[key] = count
        standings = tuple(
            replace(
                _standing(c, now - one.start, one.before_everywhere, one.everywhere(replicas), denied=not allowed),
                remaining=max(0, room - c.cost * counted),
            )
            for one, c, room in zip(counts, charges, rooms, strict=True)
        )
        return counted, Verdict(allowed, standings)

    def _take_back(self, keys: Sequence[str], charges: Sequence[Charge], counted: bool, reply: bytes | None) -> None:
        """Hear that Redis has run the script after all: what it has counted need not be told to it."""
        if counted and (reply is None or reply.startswith(b"1")):
            now, replicas = self._clock(), self._cache.replicas
            for key, charge in zip(keys, charges, strict=True):
                count = self._unknown.get(key)
                if count is None:
                    continue
                count.advance(now, replicas)
                moved = min(charge.cost, count.own)
                count.own -= moved
                count.known += moved
                if not count.own:
                    del self._unknown[key]
        if reply is not None:
            self._note(keys, charges, reply)

    def _recall(self, key: str, window_s: float, now: float) -> _Count:
        count = self._counts.get(key)
        if count is not None:
            self._counts.move_to_end(key)
            return count
        if len(self._counts) >= self._counts_max:
            oldest, _ = self._counts.popitem(last=False)
            if self._unknown.pop(oldest, None) is not None:
                FORGOTTEN.inc()
        count = self._counts[key] = _Count(window_s, now)
        return count

    # -- giving back -------------------------------------------------------------------------------------------

    def pending(self) -> int:
        """Return how many counts Redis does not know all of."""
        return len(self._unknown)

    async def give_back(self, ask: Asking) -> None:
        """Tell Redis of up to 200 counts. Raises Away; the same batch is then sent again, and counts once."""
        now = self._clock()
        if self._unanswered is None:
            self._unanswered = self._next_batch(now)
        batch = self._unanswered
        arguments: list[int] = []
        for line in batch.lines.values():
            window_ms, elapsed_ms = int(line.window_s * 1000), int((now - line.start) * 1000)
            arguments += (window_ms, elapsed_ms, line.before, line.known, line.own)
        await ask("give_back", (batch.mark, *batch.lines), tuple(arguments))
        self._unanswered = None
        for key, line in batch.lines.items():
            count = self._unknown.get(key)
            if count is None:
                continue
            # Each reply of Redis moves the start by a hair; only a new window moves it by a whole one.
            if abs(count.start - line.start) < line.window_s / 2:
                count.own -= line.own
                count.known += line.own
            if not count.own:
                del self._unknown[key]

    def _next_batch(self, now: float) -> _Batch:
        lines: dict[str, _Count] = {}
        for key in list(self._unknown)[:_BATCH]:
            count = self._unknown[key]
            count.advance(now, self._cache.replicas)
            lines[key] = count.copy()
        return _Batch(f"limit:given:{ids.new_id()}", lines)


@dataclass(frozen=True, slots=True)
class _Batch:
    mark: str
    lines: dict[str, _Count]


class _Count:
    """What this replica knows of one count: what Redis said last, and what it counted itself since."""

    __slots__ = ("before", "before_everywhere", "known", "own", "start", "window_s")

    def __init__(self, window_s: float, now: float) -> None:
        self.window_s = window_s
        self.start = now
        self.before = 0
        self.before_everywhere = 0
        """The window before, if the other replicas counted as much in memory as this one."""
        self.known = 0
        self.own = 0

    def copy(self) -> _Count:
        twin = _Count(self.window_s, self.start)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

    def everywhere(self, replicas: int) -> int:
        return self.known + self.own * replicas

    def advance(self, now: float, replicas: int) -> None:
        """Go on to the window in which `now` is."""
        passed = int((now - self.start) / self.window_s)
        if passed == 1:
            self.before, self.before_everywhere = self.known + self.own, self.everywhere(replicas)
            self.start += self.window_s
        elif passed > 1:
            self.before = self.before_everywhere = 0
            self.start = now
        if passed:
            self.known = self.own = 0

    def room(self, limit: int, now: float, replicas: int) -> int:
        """Return what this replica may still give out: its share of what was left, less what it gave out."""
        faded = math.floor(self.before_everywhere * (1 - (now - self.start) / self.window_s))
        return math.ceil(max(0, limit - self.known - faded) / replicas) - self.own


def _standing(charge: Charge, elapsed_s: float, before: int, count: int, *, denied: bool) -> Standing:
    limit, window_s = charge.quota.limit, charge.quota.window_s
    remaining = max(0, limit - count - math.floor(before * (1 - elapsed_s / window_s)))
    wait_s = _wait_s(charge, elapsed_s, before, count) if denied else 0.0
    return Standing(charge.quota, remaining, max(0.0, window_s - elapsed_s), wait_s)


def _wait_s(charge: Charge, elapsed_s: float, before: int, count: int) -> float:
    """Return when the charge would fit if nobody else charged: in this window as the one before fades, or the next."""
    window_s, allowed = charge.quota.window_s, charge.quota.limit - charge.cost
    if allowed < 0:
        return 2 * window_s  # never; this is when it may be worth asking whether the limit is still the same
    if count <= allowed:
        return max(0.0, _fades_at_s(window_s, before, allowed - count) - elapsed_s)
    return window_s - elapsed_s + _fades_at_s(window_s, count, allowed)


def _fades_at_s(window_s: float, before: int, room: int) -> float:
    """Return how far into a window the one before weighs at most `room`."""
    return max(0.0, window_s * (1 - (room + 1) / before)) + 0.001 if before > room else 0.0
