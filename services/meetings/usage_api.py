"""Calls about what accounts have used come in: parse, call, answer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from verbatim.meetings.v1 import usage_pb2 as pb

from services.meetings.messages import id_of, stamp
from services.meetings.usage_store import UsageStore


class UsageApi:
    """verbatim.meetings.v1.UsageService."""

    def __init__(self, store: UsageStore, clock: Callable[[], dt.datetime]) -> None:
        self._store = store
        self._clock = clock

    async def GetUsage(self, request: pb.GetUsageRequest, _: Any) -> pb.GetUsageResponse:  # noqa: N802
        used = await self._store.of(id_of(request, "owner_id"), self._clock())
        return pb.GetUsageResponse(period_start=stamp(used.start), period_end=stamp(used.end), audio_s=used.audio_s)
