"""`/api/usage`: what an account has used, and what it may."""

from __future__ import annotations

import asyncio
from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from chassis.errors import Kind
from services.gateway.auth import Who
from services.gateway.budget import AudioBudget, ModelSpending
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
    model_tokens: int | None = Field(
        description="Tokens of language models that minutes have cost, read and written; null: not known at the moment."
    )
    model_tokens_limit: int | None = Field(
        description="When it is reached, minutes are drafts until the next month; null: no limit, or not known."
    )


def routes(budget: AudioBudget, spending: ModelSpending) -> APIRouter:
    """Return the routes of `/api/usage`."""
    router = APIRouter(prefix="/api/usage", tags=["accounts"])

    @router.get("", responses=documented(Kind.UNAUTHORIZED))
    async def read_usage(who: Who) -> Usage:
        """Read what you have used this month, and what you may."""
        used, spent = await asyncio.gather(budget.of(who.account_id), spending.of(who.account_id))
        return Usage(
            period_start=used.start,
            period_end=used.end,
            audio_seconds=used.audio_s,
            audio_seconds_limit=used.audio_limit_s,
            model_tokens=spent.tokens if spent else None,
            model_tokens_limit=spent.tokens_limit if spent else None,
        )

    return router
