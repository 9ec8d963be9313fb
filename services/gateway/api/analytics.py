"""`/api/analytics`: what a period amounts to."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

import orjson
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, StringConstraints
from verbatim.insights.v1 import analytics_pb2 as pb
from verbatim.insights.v1.analytics_pb2_grpc import AnalyticsServiceStub

from chassis.errors import AppError, Kind
from chassis.rpc import Peer
from services.gateway.auth import Who
from services.gateway.errors import documented
from services.gateway.last_known import LastKnown
from services.gateway.resources import Sent, moment

When = Annotated[str, StringConstraints(max_length=64)]
# Whoever keeps the figures is away, or cannot be reached.
_AWAY = frozenset({Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.BAD_GATEWAY, Kind.INTERNAL})


class AnalyticsQuery(Sent):
    """Which period, of at most 366 days."""

    since: When = Field(
        "", alias="from", description="A day of the zone or a time (RFC 3339); else thirty days up to `to`.",
        examples=["2026-11-01"],
    )  # fmt: skip
    until: When = Field(
        "", alias="to", description="The end: a day counts as a whole, a time does not count; else today.",
        examples=["2026-11-30"],
    )  # fmt: skip
    tz: When = Field("", description="Time zone in which days begin; else UTC.", examples=["Europe/Berlin"])


class SpeakerTalk(BaseModel):
    """What somebody said."""

    speaker: str | None = Field(description="Null: segments in which nobody is named.")
    talk_seconds: float
    words: int


class DayFigures(BaseModel):
    """The figures of one day of the zone."""

    day: date
    meetings: int
    talk_seconds: float
    words: int
    tasks_open: int
    tasks_done: int


class Analytics(BaseModel):
    """The figures of a period."""

    since: datetime = Field(alias="from")
    until: datetime = Field(alias="to", description="Exclusive.")
    tz: str
    meetings: int = Field(description="Those that began in the period; one in which nobody spoke began when created.")
    talk_seconds: float = Field(description="Of these meetings, whenever it was said.")
    words: int
    speakers: list[SpeakerTalk] = Field(description="Who talked longest comes first; at most 100.")
    tasks_open: int = Field(description="Tasks that came up in the period and are open.")
    tasks_done: int = Field(description="Tasks that came up in the period and are done.")
    days: list[DayFigures] = Field(description="Every day that the period touches.")
    stale: bool = Field(description="The figures cannot be had now: this is what was answered last.")
    as_of: datetime

    @classmethod
    def of(cls, figures: pb.Analytics) -> Analytics:
        known = {
            "from": moment(getattr(figures, "from")),
            "to": moment(figures.to),
            "tz": figures.time_zone,
            "meetings": figures.meetings,
            "talk_seconds": figures.talk_s,
            "words": figures.words,
            "speakers": [
                SpeakerTalk(speaker=s.speaker or None, talk_seconds=s.talk_s, words=s.words) for s in figures.speakers
            ],
            "tasks_open": figures.tasks_open,
            "tasks_done": figures.tasks_done,
            "days": [
                DayFigures(
                    day=date.fromisoformat(one.day), meetings=one.meetings, talk_seconds=one.talk_s, words=one.words,
                    tasks_open=one.tasks_open, tasks_done=one.tasks_done,
                )
                for one in figures.days
            ],
            "stale": False,
            "as_of": moment(figures.as_of),
        }  # fmt: skip
        return cls.model_validate(known)


def routes(insights: Peer, last: LastKnown, *, timeout_s: float) -> APIRouter:
    """Return the routes of `/api/analytics`."""
    router = APIRouter(tags=["analytics"])
    stub = AnalyticsServiceStub(insights.channel)

    @router.get("/api/analytics", responses=documented(Kind.UNAUTHORIZED, Kind.VALIDATION_FAILED))
    async def get_analytics(query: Annotated[AnalyticsQuery, Query()], who: Who) -> Analytics:
        """Tell what a period amounts to: meetings, who talked how long, words, tasks. Counts within seconds."""
        request = pb.GetAnalyticsRequest(owner_id=who.account_id, to=query.until, time_zone=query.tz)
        # The field's name is a word of Python.
        setattr(request, "from", query.since)
        question = "\n".join((query.since, query.until, query.tz))
        try:
            answer = await insights.call(stub.GetAnalytics, request, timeout_s=timeout_s)
        except AppError as fault:
            known = await last.get(who.account_id, question) if fault.kind in _AWAY else None
            if known is None:
                raise
            return Analytics.model_validate(orjson.loads(known) | {"stale": True})
        figures = Analytics.of(answer.analytics)
        await last.keep(who.account_id, question, figures.model_dump_json(by_alias=True).encode())
        return figures

    return router
