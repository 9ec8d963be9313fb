"""What an account may use in a month: asked of the durable accounts, of audio before something new begins."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from verbatim.insights.v1.usage_pb2 import GetUsageRequest as GetModelUsageRequest
from verbatim.insights.v1.usage_pb2_grpc import UsageServiceStub as ModelUsageServiceStub
from verbatim.meetings.v1.usage_pb2 import GetUsageRequest
from verbatim.meetings.v1.usage_pb2_grpc import UsageServiceStub

from chassis import telemetry
from chassis.errors import AppError, Kind
from chassis.rpc import Peer
from services.gateway.metrics import BUDGET_UNKNOWN, RATE_LIMITED

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one account in the calendar month from `start` to `end` (UTC), in seconds of audio; limit None: any."""

    start: datetime
    end: datetime
    audio_s: float
    audio_limit_s: float | None

    @property
    def used_up(self) -> bool:
        return self.audio_limit_s is not None and self.audio_s >= self.audio_limit_s


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """Tokens of language models that an account has spent in the month; limit None: any."""

    tokens: int
    tokens_limit: int | None


class ModelSpending:
    """Asks insights what was spent on language models. It keeps to that budget itself, whoever asks."""

    def __init__(self, insights: Peer, *, timeout_s: float) -> None:
        self._insights = insights
        self._usage = ModelUsageServiceStub(insights.channel)
        self._timeout_s = timeout_s

    async def of(self, account_id: str) -> ModelUsage | None:
        """Return what an account has spent; None if insights cannot be asked."""
        request = GetModelUsageRequest(owner_id=account_id)
        try:
            answer = await self._insights.call(self._usage.GetUsage, request, timeout_s=self._timeout_s)
        except AppError as fault:
            log.warning("spending not known", fault=str(fault))
            return None
        return ModelUsage(answer.tokens, answer.tokens_max or None)


class AudioBudget:
    """Asks meetings what was used, and refuses what begins when it is all used up. What is under way goes on."""

    def __init__(self, meetings: Peer, *, minutes_per_month: int, timeout_s: float) -> None:
        """0 minutes: no limit."""
        self._meetings = meetings
        self._usage = UsageServiceStub(meetings.channel)
        self._limit_s = minutes_per_month * 60.0 or None
        self._timeout_s = timeout_s

    async def of(self, account_id: str) -> Usage:
        """Return the usage of an account. Raises AppError if it cannot be had."""
        request = GetUsageRequest(owner_id=account_id)
        answer = await self._meetings.call(self._usage.GetUsage, request, timeout_s=self._timeout_s)
        start, end = (one.ToDatetime(tzinfo=UTC) for one in (answer.period_start, answer.period_end))
        return Usage(start, end, answer.audio_s, self._limit_s)

    async def check(self, account_id: str) -> None:
        """Raise AppError(RATE_LIMIT_EXCEEDED) if the account has used up its audio.

        Nobody is turned away because meetings cannot be asked: live sessions begin without its database too.
        """
        if self._limit_s is None:
            return
        try:
            usage = await self.of(account_id)
        except AppError as fault:
            BUDGET_UNKNOWN.inc()
            log.warning("budget not known", fault=str(fault))
            return
        if usage.used_up:
            RATE_LIMITED.labels("budget").inc()
            raise AppError(
                Kind.RATE_LIMIT_EXCEEDED,
                f"The account has used up its audio of this month; the next begins on {usage.end:%Y-%m-%d} (UTC).",
                retry_after_s=max(1.0, math.ceil(usage.end.timestamp() - time.time())),
            )
