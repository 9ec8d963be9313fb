"""The queue of closed sessions with drafts: at most one message for each, on `jobs.heal.<session>`.

What is to be done is in the log, the message only says that somebody should. One that gets lost is put again by the
janitor's next round (`HealSession`).
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

import nats.js.errors
from nats.aio.msg import Msg

from chassis import bus, ids, telemetry
from chassis.errors import AppError, Kind
from chassis.jobs import JOBS
from services.transcriber.aftercare import Aftercare, Outcome

log = telemetry.logger(__name__)

_SUBJECT = "jobs.heal."
_DURABLE = "heal"
_PUBLISH_S = 5.0
_WRONG_LAST_SEQUENCE = 10071
# A healer that is killed is missed for so long.
_ACK_WAIT_S = 10.0
_WAITING_MAX = 10_000


@dataclass(frozen=True, slots=True)
class HealJobSettings:
    """How many sessions one process works on at a time, and how long one waits that could not be healed (seconds).

    One that the engine refuses waits longer each time: what is wrong with it is not over soon.
    """

    concurrency: int = 2
    again_s: float = 5.0
    again_s_max: float = 3600.0


class HealJobs:
    """Puts sessions into the queue, and works on those that come out of it whenever the engine can be used."""

    def __init__(self, broker: bus.Bus, aftercare: Aftercare, settings: HealJobSettings) -> None:
        self._bus = broker
        self._aftercare = aftercare
        self._settings = settings

    async def ask(self, session_id: str) -> bool:
        """Have a closed session healed, by any transcriber; False if there is no engine for it.

        Safe to repeat. Raises AppError(UNAVAILABLE).
        """
        if not self._aftercare.engines.heals:
            return False
        # Refused if there is a message for this session already, waiting or being worked on.
        once = {"Nats-Expected-Last-Subject-Sequence": "0", "x-request-id": telemetry.request_id()}
        try:
            await self._bus.js.publish(_SUBJECT + session_id, b"", timeout=_PUBLISH_S, headers=once)
        except nats.js.errors.APIError as fault:
            if fault.err_code != _WRONG_LAST_SEQUENCE:
                raise AppError(Kind.UNAVAILABLE, "The broker refuses.", log=repr(fault)) from fault
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return True

    async def queued(self) -> int:
        """Return how many sessions wait or are worked on. Raises AppError(UNAVAILABLE)."""
        try:
            info = await self._bus.js.stream_info(JOBS.name, subjects_filter=f"{_SUBJECT}*")
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return len(info.state.subjects or {})

    async def run(self) -> None:
        """Work for the life of the process. A session that is left off in the midst goes on elsewhere."""
        if not self._aftercare.engines.heals:
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as hands:
            for _ in range(self._settings.concurrency):
                hands.create_task(self._hand())

    async def _hand(self) -> None:
        engines = self._aftercare.engines
        await engines.until_recovered()
        deliveries = self._bus.pull(
            stream=JOBS.name, durable=_DURABLE, subject=f"{_SUBJECT}*", batch=1,
            ack_wait_s=_ACK_WAIT_S, unacknowledged_max=_WAITING_MAX,
        )  # fmt: skip
        async with aclosing(deliveries):
            async for messages in deliveries:
                for message in messages:
                    await self._take(message)
                # While the engine is away, sessions wait in the queue.
                await engines.until_recovered()

    async def _take(self, message: Msg) -> None:
        session_id = message.subject.removeprefix(_SUBJECT)
        request = ids.accept_request_id((message.headers or {}).get("x-request-id"))
        with telemetry.bound(request, session=session_id):
            outcome = Outcome.LATER
            try:
                async with bus.kept_alive([message], _ACK_WAIT_S / 3):
                    outcome = await self._aftercare.heal(session_id)
            except AppError as fault:
                log.warning("session not healed", fault=str(fault))
            except asyncio.CancelledError:
                # Not at once: the broker could hand it to another hand of this process, which is about to end too.
                await bus.quietly(message.nak(delay=1.0))
                raise
            except Exception:
                log.exception("session not healed")
                outcome = Outcome.REFUSED  # a bug of ours is not over soon either
            if outcome is Outcome.SETTLED:
                await bus.quietly(message.ack_sync(2.0))
            else:
                await bus.quietly(message.nak(delay=self._again_s(message, outcome)))

    def _again_s(self, message: Msg, outcome: Outcome) -> float:
        if outcome is Outcome.LATER:
            return self._settings.again_s
        delivered = message.metadata.num_delivered or 1
        return min(self._settings.again_s * 2.0 ** min(delivered - 1, 20), self._settings.again_s_max)
