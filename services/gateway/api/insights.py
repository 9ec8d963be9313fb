"""`/api/insights`: what a meeting came to."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from verbatim.insights.v1 import insights_pb2 as pb
from verbatim.insights.v1.insights_pb2_grpc import InsightsServiceStub

from chassis.errors import Kind
from chassis.rpc import Peer
from services.gateway.api.jobs import Job
from services.gateway.auth import Who
from services.gateway.errors import BODY, CHANGE, READ, documented
from services.gateway.resources import (
    ETAG,
    REPLAYED,
    Claimed,
    ExpectedVersion,
    Id,
    Sent,
    fields_sent,
    moment,
    tag,
    tag_replayed,
)
from services.gateway.text import plain_or_invalid

Sentence = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(plain_or_invalid)]
Summary = Annotated[str, StringConstraints(min_length=1, max_length=5000), AfterValidator(plain_or_invalid)]


class NewPoint(Sent):
    """A sentence that a person wrote."""

    text: Sentence = Field(examples=["The launch moves to September."])
    segment_ids: list[Id] = Field([], max_length=100, description="The meeting's segments that it rests on, if any.")


class InsightsChange(Sent):
    """What a person writes in the place of what was made. It is never overwritten; null gives a field back."""

    summary: Summary | None = None
    key_points: list[NewPoint] | None = Field(None, max_length=100)
    decisions: list[NewPoint] | None = Field(None, max_length=100)


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


class Beside(BaseModel):
    """What was made for the fields that a person has written; null for the others."""

    summary: str | None = None
    key_points: list[Point] | None = None
    decisions: list[Point] | None = None


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
    reason: Literal["no_model", "unavailable", "budget", "too_long", "healing"] | None = Field(
        description="Why it is a draft. Of these only `too_long` and `no_model` are not made again by themselves."
    )
    edited: list[Literal["summary", "key_points", "decisions"]] = Field(
        description="Fields that hold a person's words, and are left alone when insights are made again."
    )
    beside: Beside

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
            reason=insights.reason or None,
            edited=list(insights.edited),
            beside=_beside(insights.beside),
        )


def _beside(beside: pb.Beside) -> Beside:
    return Beside(
        summary=beside.summary if beside.HasField("summary") else None,
        key_points=[_point(one) for one in beside.key_points.points] if beside.HasField("key_points") else None,
        decisions=[_point(one) for one in beside.decisions.points] if beside.HasField("decisions") else None,
    )


def _points(points: list[NewPoint] | None) -> pb.Points | None:
    if points is None:
        return None
    return pb.Points(points=[pb.Point(text=one.text, segment_ids=one.segment_ids) for one in points])


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

    @router.patch("/api/insights/{meeting_id}", responses={**documented(*BODY, *CHANGE), 200: {"headers": ETAG}})
    async def change_insights(
        meeting_id: Id, body: InsightsChange, version: ExpectedVersion, who: Who, response: Response
    ) -> Insights:
        """Write parts of the minutes yourself, if nobody has changed them since you read them."""
        sent = fields_sent(body)
        request = pb.UpdateInsightsRequest(
            owner_id=who.account_id,
            meeting_id=meeting_id,
            expected_version=version,
            summary=body.summary,
            key_points=_points(body.key_points),
            decisions=_points(body.decisions),
            given_back=sorted(name for name in sent if getattr(body, name) is None),
        )
        answer = await insights.call(stub.UpdateInsights, request, timeout_s=timeout_s)
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
