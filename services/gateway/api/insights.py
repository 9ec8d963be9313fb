"""`/api/insights`: what a meeting came to."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from verbatim.insights.v1 import insights_pb2 as pb
from verbatim.insights.v1.insights_pb2_grpc import InsightsServiceStub

from chassis.errors import Kind
from chassis.rpc import Peer
from services.gateway.api.jobs import Job
from services.gateway.auth import Who
from services.gateway.errors import READ, documented
from services.gateway.resources import ETAG, REPLAYED, Claimed, Id, moment, tag, tag_replayed


class Point(BaseModel):
    """A sentence of the minutes with the segments that it rests on."""

    text: str
    segment_ids: list[str]


class ActionItem(BaseModel):
    """What somebody said they would do."""

    text: str
    assignee: str | None
    due: str | None = Field(description="A day.", examples=["2026-11-27"])
    segment_ids: list[str]


class Insights(BaseModel):
    """The minutes of a meeting."""

    meeting_id: str
    status: Literal["pending", "ready", "failed"]
    quality: Literal["draft", "final"] | None = Field(description="draft: extracted without a language model.")
    summary: str
    key_points: list[Point]
    decisions: list[Point]
    action_items: list[ActionItem]
    engine: str | None
    version: int
    updated_at: datetime | None

    @classmethod
    def of(cls, insights: pb.Insights) -> Insights:
        return cls(
            meeting_id=insights.meeting_id,
            status=insights.status,
            quality=insights.quality or None,
            summary=insights.summary,
            key_points=[_point(one) for one in insights.key_points],
            decisions=[_point(one) for one in insights.decisions],
            action_items=[
                ActionItem(
                    text=one.text, assignee=one.assignee or None, due=one.due or None, segment_ids=list(one.segment_ids)
                )
                for one in insights.action_items
            ],
            engine=insights.engine or None,
            version=insights.version,
            updated_at=moment(insights.updated_at) if insights.HasField("updated_at") else None,
        )


def _point(point: pb.Point) -> Point:
    return Point(text=point.text, segment_ids=list(point.segment_ids))


def routes(insights: Peer, *, timeout_s: float) -> APIRouter:
    """Return the routes of `/api/insights`."""
    router = APIRouter(tags=["insights"])
    stub = InsightsServiceStub(insights.channel)

    @router.get("/api/insights/{meeting_id}", responses={**documented(*READ), 200: {"headers": ETAG}})
    async def get_insights(meeting_id: Id, who: Who, response: Response) -> Insights:
        """Read the summary, key points, decisions and action items of a meeting."""
        request = pb.GetInsightsRequest(owner_id=who.account_id, meeting_id=meeting_id)
        answer = await insights.call(stub.GetInsights, request, timeout_s=timeout_s)
        tag(response, answer.insights.version)
        return Insights.of(answer.insights)

    @router.post(
        "/api/insights/{meeting_id}",
        status_code=202,
        responses={**documented(*READ, Kind.CONFLICT), 202: {"headers": REPLAYED}},
    )
    async def request_insights(meeting_id: Id, who: Who, claim: Claimed, response: Response) -> Job:
        """Ask for the insights to be made again."""
        request = pb.RequestInsightsRequest(owner_id=who.account_id, meeting_id=meeting_id, claim=claim)
        answer = await insights.call(stub.RequestInsights, request, timeout_s=timeout_s)
        response.headers["Location"] = f"/api/jobs/{answer.job.id}"
        tag_replayed(response, answer.replayed)
        return Job.of(answer.job)

    return router
