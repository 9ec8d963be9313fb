"""What happens to meetings comes in: a completed one gets its job, of a deleted one nothing is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.meetings.v1 import events_pb2

from chassis import dead_letters, ids, telemetry, tracing
from chassis.bus import Bus
from chassis.erasing import ALL, erase
from chassis.jobs import Queue
from chassis.outbox import EVENTS, event_id, first_time
from chassis.postgres import Database
from chassis.relay import withdraw
from services.insights import metrics, store
from services.insights.transcripts import Request
from services.insights.writing import HEAL, KIND, payload

log = telemetry.logger(__name__)

Effect = Callable[[AsyncConnection], Awaitable[None]]

CONSUMER = "insights"
# One consumer for both, so that a deletion is never overtaken by what happened before it.
SUBJECT = "events.meeting.*"
COMPLETED = "events.meeting.completed"
# Its transcript reads otherwise now, better heard or changed by people: minutes and tasks are made again.
HEALED = "events.meeting.healed"
EDITED = "events.meeting.edited"
DELETED = "events.meeting.deleted"
_ASKING: dict[str, Any] = {
    COMPLETED: events_pb2.MeetingCompleted,
    HEALED: events_pb2.MeetingHealed,
    EDITED: events_pb2.MeetingEdited,
}
TOLD = "events.insights.>"


class MeetingEvents:
    """The service's consumer of the meetings' events."""

    def __init__(self, database: Database, queue: Queue, broker: Bus, *, attempts_max: int) -> None:
        self._database = database
        self._queue = queue
        self._bus = broker
        self._attempts_max = attempts_max

    async def run(self) -> None:
        """Consume for the life of the process."""
        await self._bus.consume(stream=EVENTS.name, durable=CONSUMER, subject=SUBJECT, handle=self.handle)

    async def handle(self, messages: list[Msg]) -> None:
        """Take events in. One that came before has no second effect; what makes no sense goes to the dead letters.

        Raises AppError(UNAVAILABLE) if database or broker cannot be had.
        """
        gone: dict[str, int] = {}
        for message in messages:
            request = ids.accept_request_id((message.headers or {}).get("x-request-id"))
            traced = tracing.serve(
                message.subject, message.headers, kind=tracing.SpanKind.CONSUMER, destination="events"
            )
            with traced, telemetry.bound(request):
                try:
                    effect = self._effect(message)
                except (DecodeError, ValueError) as fault:
                    await self._refuse(message, type(fault).__name__)
                else:
                    if effect is not None:
                        await self._once(message, effect)
                    if message.subject == DELETED:
                        gone[events_pb2.MeetingDeleted.FromString(message.data).meeting_id] = ALL
        if gone:
            # What we told of them holds words too. Done each time that it comes, for it can be cut short.
            await erase(self._bus, EVENTS.name, TOLD, gone)

    def _effect(self, message: Msg) -> Effect | None:
        """Return what follows from an event; None if nothing does. Raises DecodeError or ValueError."""
        if message.subject in _ASKING:
            fact: Any = _ASKING[message.subject].FromString(message.data)
            day = date.fromisoformat(fact.day) if fact.day else None
            wanted = Request(_id(fact.meeting_id), _id(fact.owner_id), fact.language, day)
            return lambda connection: self._ask(connection, wanted)
        if message.subject == DELETED:
            meeting_id = _id(events_pb2.MeetingDeleted.FromString(message.data).meeting_id)
            return lambda connection: self._remove(connection, meeting_id)
        return None

    async def _once(self, message: Msg, effect: Effect) -> None:
        async def work(connection: AsyncConnection) -> None:
            if await first_time(connection, store.INBOX, CONSUMER, event_id(message)):
                await effect(connection)

        await self._database.run("meeting event", work)

    async def _ask(self, connection: AsyncConnection, wanted: Request) -> None:
        await self._queue.put(
            connection,
            KIND,
            wanted.meeting_id,
            owner_id=wanted.owner_id,
            payload=payload(wanted),
            attempts_max=self._attempts_max,
        )

    async def _remove(self, connection: AsyncConnection, meeting_id: str) -> None:
        for kind in (KIND, HEAL):
            await self._queue.forget(connection, kind, meeting_id)
        await withdraw(connection, store.OUTBOX, meeting_id)
        await store.remove(connection, meeting_id)

    async def _refuse(self, message: Msg, why: str) -> None:
        metrics.EVENTS_REFUSED.inc()
        log.error("event refused", subject=message.subject, fault=why)
        letter = dead_letters.letter(
            f"{CONSUMER}/{event_id(message)}",
            kind=f"event.{CONSUMER}",
            subject=message.subject,
            payload=message.data,
            headers=message.headers,
            error=why,
        )
        await dead_letters.publish(self._bus, letter)


def _id(text: str) -> str:
    if not ids.is_id(text):
        raise ValueError("not an id")
    return text
