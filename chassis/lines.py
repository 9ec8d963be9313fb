"""The lines in which the messages of one kind of job wait, one per urgency: whoever has a free hand takes the foremost
message of the most urgent line that has one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nats.aio.msg import Msg

from chassis import bus, telemetry
from chassis.jobs import JOBS, Urgency

log = telemetry.logger(__name__)

# Jobs that wait for their next attempt count as unacknowledged at the broker. Were the limit the number of workers,
# a handful of failing jobs would keep all others waiting; a worker takes no more than it has hands for anyway.
_UNACKNOWLEDGED_MAX = 1000
_WAIT_S = 2.0
_LOOK_S = 0.5
_AGAIN_S = 1.0


class Lines:
    """The lines of one kind, as one process sees them."""

    def __init__(self, broker: bus.Bus, kind: str, *, ack_wait_s: float) -> None:
        self._bus = broker
        self._kind = kind
        self._ack_wait_s = ack_wait_s
        # Each line that was empty when we looked is asked to say when it is not, for a while.
        self._asked: dict[Urgency, asyncio.Task[Msg | None]] = {}
        self._made = False

    async def run(
        self, room: Callable[[], int], begin: Callable[[Msg], asyncio.Task[None]], stopping: asyncio.Event
    ) -> None:
        """Hand messages to `begin` while there is `room`, until `stopping` is set. Survives everything of the broker's.

        What comes when there is no room any more goes back at once, to whoever has.
        """
        stop = asyncio.ensure_future(stopping.wait())
        hands: set[asyncio.Task[None]] = set()
        try:
            while not stop.done():
                bus.heed_cancellation()
                try:
                    if not self._made:
                        await self._make()
                    while room() > 0 and (message := await self._foremost()) is not None:
                        hands.add(begin(message))
                    if room() > 0:
                        self._ask()
                except bus.FAULTS as fault:
                    self._lost(fault)
                    await asyncio.wait({stop}, timeout=_AGAIN_S)
                waited: set[asyncio.Future[Any]] = {stop, *hands, *self._asked.values()}
                await asyncio.wait(waited, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                hands = {hand for hand in hands if not hand.done()}
                for message in self._answers():
                    if room() > 0 and not stop.done():
                        hands.add(begin(message))
                    else:
                        await bus.quietly(message.nak())
            await asyncio.gather(*self._asked.values(), return_exceptions=True)
            for message in self._answers():
                await bus.quietly(message.nak())
        finally:
            for task in (stop, *self._asked.values()):
                task.cancel()

    async def queued(self) -> int:
        """Return how many messages there are, those being worked on included. Raises one of FAULTS."""
        subjects = {urgency.subject(self._kind) for urgency in Urgency}
        info = await self._bus.js.stream_info(JOBS.name, subjects_filter="jobs.>")
        return sum(count for subject, count in (info.state.subjects or {}).items() if subject in subjects)

    def _durable(self, urgency: Urgency) -> str:
        return self._kind if urgency is Urgency.NORMAL else f"{self._kind}-{urgency}"

    async def _make(self) -> None:
        for urgency in Urgency:
            await self._bus.ensure_consumer(
                JOBS,
                self._durable(urgency),
                urgency.subject(self._kind),
                ack_wait_s=self._ack_wait_s,
                most=_UNACKNOWLEDGED_MAX,
            )
        self._made = True

    async def _foremost(self) -> Msg | None:
        """Take the foremost message there is now; a line that was asked to speak up has none."""
        for urgency in Urgency:
            if urgency not in self._asked:
                message = await self._bus.claim(JOBS, self._durable(urgency))
                if message is not None:
                    return message
        return None

    def _ask(self) -> None:
        for urgency in Urgency:
            if urgency not in self._asked:
                claim = self._bus.claim(JOBS, self._durable(urgency), wait_s=_WAIT_S)
                self._asked[urgency] = asyncio.create_task(claim)

    def _answers(self) -> list[Msg]:
        """Return what lines have said meanwhile, the most urgent first."""
        found: list[Msg] = []
        for urgency in Urgency:
            if urgency in self._asked and self._asked[urgency].done():
                try:
                    message = self._asked.pop(urgency).result()
                except bus.FAULTS as fault:
                    self._lost(fault)
                else:
                    found += [message] if message is not None else []
        return found

    def _lost(self, fault: BaseException) -> None:
        log.warning("no jobs from the broker", job_kind=self._kind, fault=repr(fault))
        self._made = False
