"""Things of which one subject may have so many at once, counted over all replicas: live sessions, for one.

A seat is held by an id and lasts as long as its holder renews it, so that a killed process frees its own.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from chassis.cache import Asking, Cache
from chassis.redis_lane import BEGIN, Away

_LIFE_S = 60

_PRELUDE = """
local now = tonumber(redis.call('TIME')[1])
"""

# KEYS: the lane, seats of one subject. ARGV: life, id, limit (negative: none). Replies how many are taken then, and
# whether the id has one.
_TAKE = (
    BEGIN
    + _PRELUDE
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local limit = tonumber(ARGV[3])
local has = redis.call('ZSCORE', KEYS[2], ARGV[2])
if has or limit < 0 or redis.call('ZCARD', KEYS[2]) < limit then
  redis.call('ZADD', KEYS[2], now + ARGV[1], ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[1])
  has = true
end
return {redis.call('ZCARD', KEYS[2]), has and 1 or 0}
"""
)
# KEYS: the lane, seats. ARGV: id.
_LEAVE = BEGIN + "return redis.call('ZREM', KEYS[2], ARGV[1])"
# KEYS: seats of several subjects. ARGV: life, then for each id the number of its key and the id.
_RENEW = (
    _PRELUDE
    + """
for i = 2, #ARGV, 2 do
  local key = KEYS[tonumber(ARGV[i])]
  redis.call('ZADD', key, now + ARGV[1], ARGV[i + 1])
  redis.call('EXPIRE', key, ARGV[1])
end
local taken = {}
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  taken[i] = redis.call('ZCARD', key)
end
return taken
"""
)
_BATCH = 100


@dataclass(slots=True)
class _Held:
    """What this replica knows of one subject's seats."""

    ids: set[str] = field(default_factory=set)
    taken: int = 0
    """By everybody, as Redis said last."""
    since: int = 0
    """Given out here without Redis since then."""


class Seats:
    """Seats of one kind. `renew` must be called at least every 20 s."""

    scripts: Mapping[str, str]

    def __init__(self, cache: Cache, kind: str) -> None:
        self._cache = cache
        self._kind = kind
        self._held: defaultdict[str, _Held] = defaultdict(_Held)
        self._behind = False
        self.scripts = {f"{kind}-take": _TAKE, f"{kind}-leave": _LEAVE, f"{kind}-renew": _RENEW}
        cache.join(self)

    async def take(self, subject: str, holder: str, limit: int | None) -> bool:
        """Take a seat for a holder, who may have it already; False if there is none left. `limit` None: in any case.

        Without Redis a replica gives out its share of those that were left.
        """
        try:
            call = await self._cache.start(
                f"{self._kind}-take", (self._key(subject),), (_LIFE_S, holder, -1 if limit is None else limit)
            )
            taken, has = await self._cache.reply_of(call)
        except Away:
            return self._take_here(subject, holder, limit)
        if has:
            held = self._held[subject]
            held.ids.add(holder)
            held.taken, held.since = int(taken), 0
        return bool(has)

    def _take_here(self, subject: str, holder: str, limit: int | None) -> bool:
        held = self._held.get(subject) or _Held()
        if limit is not None and holder not in held.ids:
            share = math.ceil(max(0, limit - held.taken) / self._cache.replicas)
            if held.since >= share:
                return False
        held.since += holder not in held.ids
        held.ids.add(holder)
        self._held[subject] = held
        self._behind = True
        return True

    async def leave(self, subject: str, holder: str) -> None:
        """Give a seat back."""
        held = self._held.get(subject)
        if held is None or holder not in held.ids:
            return
        held.ids.discard(holder)
        held.taken, held.since = max(0, held.taken - 1), max(0, held.since - 1)
        if not held.ids:
            del self._held[subject]
        try:
            call = await self._cache.start(f"{self._kind}-leave", (self._key(subject),), (holder,))
            await self._cache.reply_of(call)
        except Away:
            return  # it ends by itself

    def renew(self) -> None:
        """Have the seats that are held here renewed soon."""
        self._behind = bool(self._held)
        self._cache.wake()

    def held(self) -> int:
        """Return how many seats are held here."""
        return sum(len(held.ids) for held in self._held.values())

    def pending(self) -> int:
        """Return whether Redis has to be told of the seats held here."""
        return int(self._behind)

    async def give_back(self, ask: Asking) -> None:
        """Tell Redis of every seat that is held here. Raises Away; safe to repeat."""
        subjects = list(self._held)
        for begin in range(0, len(subjects), _BATCH):
            batch = subjects[begin : begin + _BATCH]
            arguments: list[object] = [_LIFE_S]
            for number, subject in enumerate(batch, start=1):
                for holder in self._held[subject].ids if subject in self._held else ():
                    arguments += (number, holder)
            taken = await ask(f"{self._kind}-renew", tuple(map(self._key, batch)), tuple(arguments))
            for subject, count in zip(batch, taken, strict=True):
                if subject in self._held:
                    self._held[subject].taken, self._held[subject].since = int(count), 0
        self._behind = False

    def _key(self, subject: str) -> str:
        return f"seats:{self._kind}:{hashlib.blake2b(subject.encode(), digest_size=12).hexdigest()}"
