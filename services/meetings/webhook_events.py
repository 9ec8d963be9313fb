"""Facts that webhooks are told: of meetings from here, of minutes from insights."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from verbatim.insights.v1.insights_pb2 import InsightsReady
from verbatim.meetings.v1.events_pb2 import MeetingCompleted, MeetingHealed

from chassis import bus, dead_letters, ids, outbox, telemetry
from services.meetings.deliveries_store import CONSUMER, DeliveriesStore, Fact
from services.meetings.webhooks import EventType

log = telemetry.logger(__name__)


class WebhookConsumer:
    """Makes deliveries of events, for those who want them."""

    def __init__(self, store: DeliveriesStore, broker: bus.Bus) -> None:
        self._store = store
        self._bus = broker

    async def run(self) -> None:
        """Consume for ever, also with others of its kind."""
        # One consumer for the events of both services, so that there is one place that was reached.
        await self._bus.consume(stream=outbox.EVENTS.name, durable=CONSUMER, subject="events.>", handle=self.handle)

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Have each fact told once. Raises AppError if database or broker cannot be had."""
        for message in messages:
            read = _FACTS.get(message.subject)
            if read is None:
                continue
            event_id = outbox.event_id(message)
            try:
                fact = read(message.data, _time_of(message))
            except (DecodeError, ValueError) as fault:
                log.error("event cannot be told", event_id=event_id, fault=type(fault).__name__)  # noqa: TRY400
                letter = dead_letters.letter(
                    f"{CONSUMER}-{event_id}",
                    kind="event.webhooks",
                    subject=message.subject,
                    payload=message.data,
                    headers=message.headers,
                    error="It cannot be read.",
                )
                await dead_letters.publish(self._bus, letter)
                continue
            with telemetry.bound(ids.accept_request_id((message.headers or {}).get("x-request-id"))):
                await self._store.tell(event_id, fact)


def _of_meeting(event: EventType, kind: type[MeetingCompleted] | type[MeetingHealed]) -> Callable[..., Fact]:
    def read(payload: bytes, at: dt.datetime) -> Fact:
        fact = kind.FromString(payload)
        data = {"meeting_id": _id(fact.meeting_id), "language": fact.language or None, "day": fact.day or None}
        return Fact(event, _id(fact.owner_id), fact.meeting_id, at, data)

    return read


def _of_insights(payload: bytes, at: dt.datetime) -> Fact:
    fact = InsightsReady.FromString(payload)
    data: dict[str, Any] = {
        "meeting_id": _id(fact.meeting_id),
        "quality": fact.quality,
        "version": fact.version,
        "action_items": len(fact.action_items),
    }
    return Fact(EventType.INSIGHTS_READY, _id(fact.owner_id), fact.meeting_id, at, data)


_FACTS: dict[str, Callable[[bytes, dt.datetime], Fact]] = {
    "events.meeting.completed": _of_meeting(EventType.MEETING_COMPLETED, MeetingCompleted),
    "events.meeting.healed": _of_meeting(EventType.MEETING_HEALED, MeetingHealed),
    "events.insights.ready": _of_insights,
}


def _id(text: str) -> str:
    if not ids.is_id(text):
        raise ValueError("not an id")
    return text


def _time_of(message: Msg) -> dt.datetime:
    """Return when it happened; as good as that, when the broker had it."""
    told = (message.headers or {}).get("ce-time")
    return dt.datetime.fromisoformat(told) if told else message.metadata.timestamp
