"""Accounts: what each has spent on language models is told to it, and forgotten when it is deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.insights.v1 import usage_pb2 as pb
from verbatim.insights.v1 import usage_pb2_grpc
from verbatim.meetings.v1.events_pb2 import AccountDeleted

from chassis import ids, telemetry
from chassis.bus import Bus
from chassis.errors import AppError, Kind
from chassis.outbox import EVENTS, event_id
from chassis.postgres import Database
from services.insights import metrics, usage_store
from services.insights.spending import period_of

log = telemetry.logger(__name__)

CONSUMER = "insights-departures"
DELETED = "events.account.deleted"


class UsageApi(usage_pb2_grpc.UsageServiceServicer):
    """verbatim.insights.v1.UsageService."""

    def __init__(
        self, database: Database, *, tokens_max: int, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """`tokens_max`: of one account in a calendar month; 0: no limit."""
        self._database = database
        self._tokens_max = tokens_max
        self._now = now

    async def GetUsage(self, request: Any, _: Any) -> pb.GetUsageResponse:  # noqa: N802 - generated name
        if not ids.is_id(request.owner_id):
            raise AppError(Kind.NOT_FOUND, "There is no such account.")
        period = period_of(self._now())
        tokens = await self._database.run(
            "usage get", lambda connection: usage_store.spent(connection, request.owner_id, period)
        )
        return pb.GetUsageResponse(tokens=tokens, tokens_max=self._tokens_max)


class DepartureConsumer:
    """Forgets what deleted accounts have spent. The rest of what is theirs goes with each of their meetings."""

    def __init__(self, database: Database, broker: Bus) -> None:
        self._database = database
        self._bus = broker

    async def run(self) -> None:
        """Consume for ever, also with others of its kind."""
        await self._bus.consume(stream=EVENTS.name, durable=CONSUMER, subject=DELETED, handle=self.handle)

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Forget each account; safe to repeat. Raises AppError if the database is away."""
        gone = []
        for message in messages:
            try:
                account_id = AccountDeleted.FromString(message.data).account_id
            except DecodeError:
                account_id = ""
            if ids.is_id(account_id):
                gone.append(account_id)
            else:
                # The meetings service puts the same event among the dead letters.
                metrics.EVENTS_REFUSED.inc()
                log.error("deletion cannot be read", event_id=event_id(message))

        async def work(connection: AsyncConnection) -> None:
            await usage_store.forget(connection, gone)

        if gone:
            await self._database.run("usage forget", work)
