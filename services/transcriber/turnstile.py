"""The way to the speech API: so many at one time, the urgent first, and every session its turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import IntEnum

from services.transcriber import metrics
from services.transcriber.slow_start import SlowStart, SlowStartSettings


class Lane(IntEnum):
    """What a call is for; the lower goes first."""

    LIVE = 0
    HEAL = 1
    UPLOAD = 2


class AdaptiveLimit:
    """How many calls at one time: one more after as many successes as it is, less by a third after a failure.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989). One bad moment, in which many calls fail
    together, counts once: after a decrease none follows for `settle_s`.
    """

    def __init__(self, engine: str, most: int, *, clock: Callable[[], float], settle_s: float = 1.0) -> None:
        self._engine = engine
        self._most = most
        self._clock = clock
        self._settle_s = settle_s
        self._limit = float(most)
        self._decreased_at = float("-inf")
        self._set(self._limit)

    @property
    def now(self) -> float:
        """The limit, at least 1."""
        return self._limit

    def better(self) -> None:
        """Count a call that went well."""
        self._set(min(float(self._most), self._limit + 1.0 / self._limit))

    def worse(self) -> None:
        """Count one that was refused for load, failed, or took too long."""
        now = self._clock()
        if now - self._decreased_at >= self._settle_s:
            self._decreased_at = now
            self._set(max(1.0, self._limit * 2.0 / 3.0))

    def _set(self, limit: float) -> None:
        self._limit = limit
        metrics.SPEECH_LIMIT.labels(self._engine).set(limit)


class Turnstile:
    """Lets calls through within a limit: by lane, and within a lane one session after another.

    Calls that are not live leave room for one that is: they never take the last quarter of the limit, so a live
    utterance does not wait for the end of a long one of an upload. `share` is the part of the limit that may be used
    (a breaker's ramp), `healing` says when healing may make its next call.
    """

    def __init__(
        self,
        engine: str,
        limit: AdaptiveLimit,
        *,
        share: Callable[[], float],
        clock: Callable[[], float],
        healing: SlowStart | None = None,
    ) -> None:
        self._waiting_gauges = {lane: metrics.SPEECH_WAITING.labels(engine, lane.name.lower()) for lane in Lane}
        self._limit = limit
        self._share = share
        self._clock = clock
        self._healing = healing or SlowStart(SlowStartSettings(), clock=clock)
        self._running = dict.fromkeys(Lane, 0)
        self._waiting: dict[Lane, OrderedDict[str, deque[asyncio.Future[None]]]] = {
            lane: OrderedDict() for lane in Lane
        }
        self._closed_until = 0.0
        self._reopening: asyncio.TimerHandle | None = None

    @property
    def allowed(self) -> int:
        """How many calls may run now."""
        return max(1, int(self._limit.now * self._share()))

    @property
    def running(self) -> int:
        """How many calls run now."""
        return sum(self._running.values())

    def waiting(self, lane: Lane) -> int:
        """How many calls of a lane wait."""
        return sum(len(queue) for queue in self._waiting[lane].values())

    @property
    def has_spare(self) -> bool:
        """Whether something that nobody waits for may be called without delaying what somebody does."""
        # Healing that is held back is delayed by its pace, not by what else is called.
        waits = any(self._waiting[lane] for lane in Lane if lane is not Lane.HEAL or self._healing.admits)
        return not waits and self.running < max(1, int(0.8 * self.allowed)) and self._is_open()

    def pause(self, for_s: float) -> None:
        """Let nobody through for some time: the API asked for it."""
        self._closed_until = max(self._closed_until, self._clock() + for_s)
        self._open_later()

    @asynccontextmanager
    async def passage(self, lane: Lane, session_id: str) -> AsyncIterator[None]:
        """Wait for this session's turn in its lane, and count as running inside."""
        if lane is Lane.LIVE:
            self._healing.heard_live()
        first = not any(
            self._waiting[other] for other in Lane if other == lane or (other < lane and self._may_pass(other))
        )
        if first and self._may_pass(lane):
            self._begin(lane)
        else:
            await self._wait(lane, session_id)
        try:
            yield
        finally:
            self._running[lane] -= 1
            self._let_pass()

    def _begin(self, lane: Lane) -> None:
        self._running[lane] += 1
        if lane is Lane.HEAL:
            self._healing.take()

    async def _wait(self, lane: Lane, session_id: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[lane].setdefault(session_id, deque()).append(turn)
        self._waiting_gauges[lane].inc()
        # Nothing may be running that would wake it: the ramp grows, or the pause ends, by time alone.
        self._open_later()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._running[lane] -= 1
                self._let_pass()
            else:
                self._forget(lane, session_id, turn)
            raise
        finally:
            self._waiting_gauges[lane].dec()

    def _forget(self, lane: Lane, session_id: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting[lane].get(session_id, deque())
        with suppress(ValueError):  # its turn came after it was cancelled, and was passed on
            queue.remove(turn)
        if not queue:
            self._waiting[lane].pop(session_id, None)

    def _is_open(self) -> bool:
        return self._clock() >= self._closed_until

    def _may_pass(self, lane: Lane) -> bool:
        if not self._is_open():
            return False
        allowed = self.allowed
        if lane is Lane.LIVE:
            return self.running < allowed
        if lane is Lane.HEAL and not self._healing.admits:
            return False
        others = self.running - self._running[Lane.LIVE]
        return self.running < allowed and others < max(1, int(0.75 * allowed))

    def _let_pass(self) -> None:
        """Give the free places to those who wait, the most urgent lane first, its sessions in turn."""
        for lane in Lane:
            sessions = self._waiting[lane]
            while sessions and self._may_pass(lane):
                session_id, queue = sessions.popitem(last=False)
                turn = queue.popleft()
                if queue:
                    sessions[session_id] = queue
                if not turn.done():  # else it was cancelled, and has not run since
                    self._begin(lane)
                    turn.set_result(None)
        if any(self._waiting.values()):
            self._open_later()

    def _open_later(self) -> None:
        if self._reopening is None:
            in_s = max(0.1, self._closed_until - self._clock())
            self._reopening = asyncio.get_running_loop().call_later(in_s, self._look_again)

    def _look_again(self) -> None:
        self._reopening = None
        self._let_pass()
