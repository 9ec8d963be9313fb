"""One connection to Redis on which commands follow each other without waiting, and which notices stalls at once.

A pool with a timeout per command would let every request of the first quarter second of an outage wait for that
timeout, each on a connection of its own. Here one watch over one connection lets all of them go together.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from chassis import ids

# What a lost or refused connection can raise; redis-py lets some OSErrors through as they are.
FAULTS = (RedisError, OSError, TimeoutError)

_TICK_S = 0.01


# A lane counts in Redis how many of its scripts were run; closing it there ends that. So after a loss it is known
# which of those without a reply had their effect, and none can have one later.
BEGIN = "redis.call('INCR', KEYS[1])\n"
_CLOSE = """
local ran = redis.call('GET', KEYS[1])
if not ran then return 0 end
local closed = string.match(ran, '^closed (%d+)')
if closed then return tonumber(closed) end
redis.call('SET', KEYS[1], 'closed ' .. ran, 'EX', 3600)
return tonumber(ran)
"""
_LIFE_S = 3600


class Away(Exception):
    """Redis does not answer (now). `sent` tells whether the command may have had its effect nevertheless."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class Call:
    """A command under way: `answer` ends with the reply, or with `Away` at the first sign of a stall.

    What becomes of it after that is told to a listener: the reply that came late, or None if it is known to have been
    run but the reply is lost. A call that never had an effect tells nothing.
    """

    __slots__ = ("_listener", "_told", "answer", "number")

    def __init__(self, answer: asyncio.Future[Any], number: int) -> None:
        self.answer = answer
        self.number = number
        self._told: list[Any] = []
        self._listener: Callable[[Any], None] | None = None

    def when_late(self, listener: Callable[[Any], None]) -> None:
        """Have told what came, or comes, after the answer ended with Away."""
        for what in self._told:
            listener(what)
        self._listener = listener

    def tell_late(self, what: Any) -> None:
        """Tell the listener, the present one or the one to come."""
        if self._listener is None:
            self._told.append(what)
        else:
            self._listener(what)


class Lane:
    """An open connection. States: *flowing*; *stalled* (a command waits longer than usual, new ones are refused until
    a reply comes); *lost* (for good)."""

    def __init__(self, connection: Any, *, stall_s: float, timeout_s: float) -> None:
        self._connection = connection
        self._stall_ticks = math.ceil(stall_s / _TICK_S)
        self._lost_ticks = math.ceil(timeout_s / _TICK_S)
        self._loop = asyncio.get_running_loop()
        self._calls: deque[Call] = deque()
        self._shas: dict[str, str] = {}
        self._key = f"link:{ids.new_id()}"
        self._numbers = itertools.count(1)
        self._unanswered: list[Call] = []
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reader: asyncio.Task[None] | None = None
        self._stalled = False
        self.fault = ""
        self.flowing = asyncio.Event()
        self.lost = asyncio.Event()

    @classmethod
    async def open(cls, url: str, *, stall_s: float, timeout_s: float) -> Lane:
        """Connect and log in, within `timeout_s`. Raises one of FAULTS."""
        # No timeouts of its own: here one watch bounds everything. And no second try: the cache has its own pace.
        pool = redis.ConnectionPool.from_url(
            url, socket_timeout=None, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )
        connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(timeout_s):
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        lane = cls(connection, stall_s=stall_s, timeout_s=timeout_s)
        lane.flowing.set()
        lane._reader = asyncio.create_task(lane._read(), name="redis replies")
        return lane

    @property
    def takes(self) -> bool:
        """Whether a command sent now would be answered soon, as far as is known."""
        return not self._stalled and not self.lost.is_set()

    async def keep(self) -> None:
        """Keep what Redis knows of this lane for another hour. Raises Away."""
        await self.ask("EXPIRE", self._key, _LIFE_S)

    async def follow(self, before: Lane) -> None:
        """Find out, through this lane, what became of the calls that a lost one left without a reply. Raises Away."""
        ran = int(await self.ask("EVAL", _CLOSE, 1, before._key))
        unanswered, before._unanswered = before._unanswered, []
        for call in unanswered:
            if call.number <= ran:
                call.tell_late(None)

    async def load(self, scripts: Mapping[str, str]) -> None:
        """Make scripts known under their names. Raises Away."""
        for name, source in scripts.items():
            reply = await self.ask("SCRIPT LOAD", source)
            self._shas[name] = reply.decode() if isinstance(reply, bytes) else str(reply)

    async def ask(self, *command: Any) -> Any:
        """Send a command and return its reply. Raises Away, or ResponseError for one that Redis refuses."""
        return await (await self.send(*command)).answer

    async def run(self, script: str, keys: tuple[str, ...], arguments: tuple[Any, ...]) -> Any:
        """Run a loaded script and return its reply. Raises as `ask` does."""
        return await self.ask("EVALSHA", self._shas[script], len(keys), *keys, *arguments)

    async def start(self, script: str, keys: tuple[str, ...], arguments: tuple[Any, ...]) -> Call:
        """Send one run of a loaded script that begins with BEGIN. Raises Away if it was not sent."""
        command = ("EVALSHA", self._shas[script], len(keys) + 1, self._key, *keys, *arguments)
        return await self.send(*command, number=next(self._numbers))

    async def send(self, *command: Any, number: int = 0) -> Call:
        """Send a command, in the order of the calls. Raises Away if it was not sent."""
        if not self.takes:
            raise Away(self.fault or "stalled", sent=False)
        call = Call(self._loop.create_future(), number)
        self._calls.append(call)
        if self._timer is None:
            self._ticks = 0
            self._timer = self._loop.call_later(_TICK_S, self._tick)
        try:
            # Writes before its first wait, so the order of replies is the order of `_calls`.
            await self._connection.send_packed_command(self._connection.pack_command(*command), check_health=False)
        except FAULTS as fault:
            self._lose(f"{type(fault).__name__} while writing")
        return call

    def give_up(self, why: str) -> None:
        """Use it no more; what is under way gets Away."""
        self._lose(why)

    async def close(self) -> None:
        """Hang up."""
        self._lose("closed")
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        await self._connection.disconnect(nowait=True)

    async def _read(self) -> None:
        while not self.lost.is_set():
            try:
                reply = await self._connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except ResponseError as refusal:
                reply = refusal
            except FAULTS as fault:
                self._lose(type(fault).__name__)
                return
            self._settle(reply)

    def _settle(self, reply: Any) -> None:
        self._ticks = 0
        if self._stalled:
            self._stalled = False
            self.flowing.set()
        if not self._calls:
            self._lose("a reply that nobody asked for")
            return
        call = self._calls.popleft()
        if call.answer.done():
            if not isinstance(reply, ResponseError):
                call.tell_late(reply)
        elif isinstance(reply, NoScriptError):
            # Somebody flushed the scripts: a new connection brings them along. Not counted, so not `sent`.
            call.answer.set_exception(Away("scripts are gone", sent=False))
            self._lose("scripts are gone")
        elif isinstance(reply, ResponseError):
            call.answer.set_exception(reply)
        else:
            call.answer.set_result(reply)

    def _tick(self) -> None:
        """Count how often the loop came round without a reply: when the loop itself stood still, that is one round."""
        if not self._calls or self.lost.is_set():
            self._timer = None
            return
        self._ticks += 1
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        if self._ticks >= self._lost_ticks:
            self._lose("no reply in time")
        elif self._ticks == self._stall_ticks:
            self._stalled = True
            self.flowing.clear()
            self._release("stalled")

    def _lose(self, why: str) -> None:
        if self.lost.is_set():
            return
        self.fault = why
        self.lost.set()
        self._release(why)
        self._unanswered = [call for call in self._calls if call.number]
        self._calls.clear()

    def _release(self, why: str) -> None:
        for call in self._calls:
            if not call.answer.done():
                call.answer.set_exception(Away(why, sent=True))
