"""`/api/usage`: what an account has used, and what it may."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from chassis.errors import Kind
from services.gateway.auth import Who
from services.gateway.budget import AudioBudget
from services.gateway.errors import documented


class Usage(BaseModel):
    """What an account has used in this calendar month (UTC)."""

    period_start: datetime
    period_end: datetime = Field(description="When it begins anew.")
    audio_seconds: float = Field(
        description="Of live sessions and recordings, also of meetings deleted since; sessions under way count by how "
        "long they are open."
    )
    audio_seconds_limit: float | None = Field(
        description="When it is reached, no session or recording can be begun; null: no limit."
    )


def routes(budget: AudioBudget) -> APIRouter:
    """Return the routes of `/api/usage`."""
    router = APIRouter(prefix="/api/usage", tags=["accounts"])

    @router.get("", responses=documented(Kind.UNAUTHORIZED))
    async def read_usage(who: Who) -> Usage:
        """Read what you have used this month, and what you may."""
        used = await budget.of(who.account_id)
        return Usage(
            period_start=used.start,
            period_end=used.end,
            audio_seconds=used.audio_s,
            audio_seconds_limit=used.audio_limit_s,
        )

    return router
