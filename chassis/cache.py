"""Redis that may go away at any moment: who asks gets an answer from it or, within a moment, from memory.

One background task keeps the connection; no request ever waits for a connect, a probe or a retry. What was counted in
memory meanwhile is given back before Redis is asked again (docs/adr/0020-counting-without-redis.md).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from prometheus_client import Counter, Gauge
from redis.exceptions import ResponseError

from chassis import telemetry, tracing
from chassis.redis_lane import FAULTS, Away, Call, Lane

log = telemetry.logger(__name__)

_ATTEMPTS = 3
_ROUNDS_MAX = 20

_REPLICAS = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""

OPERATIONS = Counter(
    "redis_operations_total", "Operations: answered by Redis, failed, answered from memory.", ["result"]
)
FALLBACK = Gauge("redis_fallback_active", "1 while memory answers instead of Redis.")
JOURNAL = Gauge("redis_fallback_journal_size", "Counts made in memory that Redis does not know of yet.")
STATE = Gauge("redis_state", "1 for the state that the connection to Redis is in.", ["state"])
LOST = Counter("redis_connections_lost_total", "Connections to Redis that ended without our doing.")
STALLS = Counter("redis_stalls_total", "Times that Redis kept us waiting and memory answered.")
for _result in ("success", "failure", "fallback"):
    OPERATIONS.labels(_result)


class State(StrEnum):
    """What the background task does, and so who answers."""

    DISCONNECTED = "disconnected"  # nothing yet (at the start), or nothing any more (at the end): memory answers
    RECONNECTING = "reconnecting"  # it tries three times in quick succession: memory answers
    FALLBACK = "fallback"  # that was in vain; it tries every few seconds: memory answers
    CONNECTED = "connected"  # it looks every half minute: Redis answers


class Twin(Protocol):
    """Something that counts in memory while Redis is away. `scripts` are Lua sources by name."""

    scripts: Mapping[str, str]

    def pending(self) -> int:
        """Return how many counts Redis does not know of."""

    async def give_back(self, ask: Asking) -> None:
        """Tell Redis of (some of) them, in a way that may be repeated. Raises Away."""


Asking = Callable[[str, tuple[str, ...], tuple[Any, ...]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the cache is, in seconds."""

    stall_s: float = 0.04  # a reply that takes longer: memory answers
    timeout_s: float = 0.25  # no reply for so long, or no connection: Redis is away
    backoff_s: float = 0.05  # before the second of three attempts; doubles
    retry_s: tuple[float, float] = (0.5, 5.0)  # between attempts after that; doubles, with jitter
    health_s: float = 30.0  # between looks at a connection that nobody uses
    steady_s: float = 10.0  # a connection that lived shorter makes the next attempt wait


@dataclass(frozen=True, slots=True)
class Statistics:
    """What became of the operations since the process began."""

    state: State
    since: float  # Unix time
    total: int
    failed: int
    fallback: int
    success_rate: float  # of those that Redis was asked for; 1.0 if it was never asked
    last_error: str
    connections_lost: int
    journal: int
    replicas: int


class Cache:
    """The shared Redis of a service's replicas. `run` must be running; until it has connected, memory answers."""

    def __init__(
        self, url: str, *, service: str, replica: str, replicas_min: int = 1, pace: Pace | None = None
    ) -> None:
        """`url` may be empty: then memory always answers. `replicas_min`: what to reckon with if unknown."""
        self._url = url
        self._presence = f"replicas:{service}"
        self.replica = replica
        self._replicas_min = replicas_min
        self._replicas = replicas_min
        self._pace = pace or Pace()
        self._lane: Lane | None = None
        self._before: Lane | None = None
        self._twins: list[Twin] = []
        self._wake = asyncio.Event()
        self._unsteady = 0
        self._total = self._failed = self._fallback = self._lost = 0
        self._last_error = ""
        self._set_state(State.DISCONNECTED)

    def join(self, twin: Twin) -> None:
        """Let a twin give back what it counts. Before `run`."""
        self._twins.append(twin)

    @property
    def state(self) -> State:
        return self._state

    @property
    def replicas(self) -> int:
        """How many replicas share the limits: as many as were last seen in Redis, and at least `replicas_min`."""
        return max(self._replicas, self._replicas_min)

    def wake(self) -> None:
        """Have the background task look now: a twin has something to give back."""
        self._wake.set()

    def statistics(self) -> Statistics:
        """Return the figures that operators look at."""
        asked = self._total - (self._fallback - self._failed)
        rate = (asked - self._failed) / asked if asked else 1.0
        return Statistics(
            self._state, self._since, self._total, self._failed, self._fallback, rate, self._last_error, self._lost,
            self._pending(), self.replicas,
        )  # fmt: skip

    async def start(self, script: str, keys: tuple[str, ...], arguments: tuple[Any, ...]) -> Call:
        """Send one run of a twin's script, which must begin with BEGIN. Raises Away when memory must answer."""
        self._total += 1
        lane = self._lane
        try:
            if lane is None:
                raise Away("not connected", sent=False)
            return await lane.start(script, keys, arguments)
        except Away:
            self._count_fallback()
            raise

    async def reply_of(self, call: Call) -> Any:
        """Wait for the reply to what was started.

        Raises Away when memory must answer. Its `sent` tells that Redis may have run the script nevertheless.
        """
        try:
            with tracing.step("redis", database="redis"):
                reply = await call.answer
        except Away as fault:
            self._failed += 1
            OPERATIONS.labels("failure").inc()
            self._last_error = str(fault)
            self._count_fallback()
            self._wake.set()
            raise
        except ResponseError as refusal:
            # Out of memory, read only, a key of another type: it is there, but no use.
            self._failed += 1
            OPERATIONS.labels("failure").inc()
            self._last_error = f"refused: {str(refusal)[:80]}"
            self._count_fallback()
            if self._lane is not None:
                self._lane.give_up(self._last_error)
            raise Away(self._last_error, sent=False) from refusal
        OPERATIONS.labels("success").inc()
        return reply

    def _count_fallback(self) -> None:
        self._fallback += 1
        OPERATIONS.labels("fallback").inc()

    # -- the background task -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the connection for the life of the process."""
        JOURNAL.set_function(self._pending)
        if not self._url:
            await asyncio.Event().wait()
        try:
            while True:
                lane = await self._connect()
                try:
                    await self._use(lane)
                finally:
                    self._lane, self._before = None, lane
                    await lane.close()
        finally:
            self._set_state(State.DISCONNECTED)

    async def _connect(self) -> Lane:
        self._set_state(State.RECONNECTING)
        pace, attempt = self._pace, 0
        # A server that comes and goes is tried less and less often.
        pause_s = min(pace.retry_s[1], pace.backoff_s * 2**self._unsteady) if self._unsteady else 0.0
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            try:
                lane = await Lane.open(self._url, stall_s=pace.stall_s, timeout_s=pace.timeout_s)
                try:
                    await self._settle(lane)
                except BaseException:
                    await lane.close()
                    raise
                return lane
            except (*FAULTS, Away) as fault:
                self._last_error = f"{type(fault).__name__} while connecting"
            attempt += 1
            if attempt < _ATTEMPTS:
                pause_s = pace.backoff_s * 2 ** (attempt - 1)
            else:
                self._set_state(State.FALLBACK)
                pause_s = min(pace.retry_s[1], pace.retry_s[0] * 2 ** min(attempt - _ATTEMPTS, 10))

    async def _settle(self, lane: Lane) -> None:
        """Give back what memory counted; then Redis answers."""
        async with asyncio.timeout(max(5.0, self._pace.timeout_s * 4)):
            await lane.load({"replicas": _REPLICAS})
            for twin in self._twins:
                await lane.load(twin.scripts)
            if self._before is not None:
                await lane.follow(self._before)
            await self._count_replicas(lane)
            for _ in range(_ROUNDS_MAX):
                if not self._pending():
                    break
                await self._give_back(lane)
        # Nothing is awaited between the last look and this: a count made now goes to Redis.
        self._lane = lane
        self._set_state(State.CONNECTED)

    async def _use(self, lane: Lane) -> None:
        connected_at = time.monotonic()
        lost = asyncio.ensure_future(lane.lost.wait())
        try:
            while not lane.lost.is_set():
                self._wake.clear()
                woken = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait({lost, woken}, timeout=self._pace.health_s, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                if lane.lost.is_set():
                    break
                await self._look_after(lane, lost)
        finally:
            lost.cancel()
            steady = time.monotonic() - connected_at >= self._pace.steady_s
            self._unsteady = 0 if steady else self._unsteady + 1
        self._lost += 1
        LOST.inc()
        self._last_error = lane.fault
        log.warning("redis lost", fault=lane.fault)

    async def _look_after(self, lane: Lane, lost: asyncio.Future[Any]) -> None:
        """See whether it is well, and give back what was counted while it kept us waiting."""
        if not lane.takes:
            STALLS.inc()
            flowing = asyncio.ensure_future(lane.flowing.wait())
            await asyncio.wait({lost, flowing}, return_when=asyncio.FIRST_COMPLETED)
            flowing.cancel()
        try:
            await lane.keep()
            await self._count_replicas(lane)
            if self._pending():
                await self._give_back(lane)
        except ResponseError as refusal:
            lane.give_up(f"refused: {str(refusal)[:80]}")
        except Away:
            # Lost, which the caller sees, or stalled once more.
            self._wake.set()

    async def _give_back(self, lane: Lane) -> None:
        for twin in self._twins:
            if twin.pending():
                await twin.give_back(lane.run)

    async def _count_replicas(self, lane: Lane) -> None:
        """Say that this replica is here, and see how many are."""
        life_s = 3 * self._pace.health_s
        seen = await lane.run("replicas", (self._presence,), (self.replica, math.ceil(life_s)))
        self._replicas = int(seen)

    def _pending(self) -> int:
        return sum(twin.pending() for twin in self._twins)

    def _set_state(self, state: State) -> None:
        self._state = state
        self._since = time.time()
        for each in State:
            STATE.labels(each.value).set(each is state)
        FALLBACK.set(state is not State.CONNECTED)
        log.info("redis", state=state.value, fault=self._last_error)
