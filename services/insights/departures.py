"""Accounts that were deleted: what they spent stays in the sums, and nobody can tell any more who it was.

Their minutes go meeting by meeting (events.py), their figures too (figures.py).
"""

from __future__ import annotations

from functools import partial

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from verbatim.meetings.v1.events_pb2 import AccountDeleted

from chassis import dead_letters, ids, telemetry
from chassis.bus import Bus
from chassis.outbox import EVENTS, event_id
from chassis.postgres import Database
from services.insights import metrics, usage_store

log = telemetry.logger(__name__)

CONSUMER = "insights-departures"
DELETED = "events.account.deleted"


class DepartureConsumer:
    """Hears of accounts that are no more."""

    def __init__(self, database: Database, broker: Bus) -> None:
        self._database = database
        self._bus = broker

    async def run(self) -> None:
        """Consume for ever, also with others of its kind."""
        await self._bus.consume(stream=EVENTS.name, durable=CONSUMER, subject=DELETED, handle=self.handle)

    async def handle(self, messages: list[Msg]) -> None:
        """Forget who each was; safe to repeat. Raises AppError if database or broker cannot be had."""
        for message in messages:
            account_id = _account_id(message.data)
            if not account_id:
                await self._refuse(message)
                continue
            await self._database.run("account departs", partial(usage_store.depart, owner_id=account_id))

    async def _refuse(self, message: Msg) -> None:
        metrics.EVENTS_REFUSED.inc()
        log.error("deletion of an account cannot be read", subject=message.subject)
        letter = dead_letters.letter(
            f"{CONSUMER}/{event_id(message)}",
            kind=f"event.{CONSUMER}",
            subject=message.subject,
            payload=message.data,
            headers=message.headers,
            error="It cannot be read.",
        )
        await dead_letters.publish(self._bus, letter)


def _account_id(data: bytes) -> str:
    """Return whose deletion a message tells of; empty if it cannot be read."""
    fact = AccountDeleted()
    try:
        fact.ParseFromString(data)
    except DecodeError:
        return ""
    return fact.account_id if ids.is_id(fact.account_id) else ""
