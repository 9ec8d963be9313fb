"""Accounts: what each has spent on language models is told to it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from verbatim.insights.v1 import usage_pb2 as pb
from verbatim.insights.v1 import usage_pb2_grpc

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.insights import usage_store
from services.insights.spending import period_of


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
