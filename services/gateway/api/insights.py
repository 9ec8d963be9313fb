"""`/api/insights` and `/api/jobs`: what a meeting came to, and the work that finds it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from verbatim.insights.v1 import insights_pb2 as pb
from verbatim.insights.v1.insights_pb2_grpc import InsightsServiceStub

from chassis.errors import Kind
from chassis.rpc import Peer
from services.gateway.auth import Who
from services.gateway.errors import READ, documented
from services.gateway.resources import ETAG, Id, moment, tag


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


class Job(BaseModel):
    """Work that goes on after its call was answered."""

    id: str
    kind: str = Field(examples=["insights"])
    status: Literal["pending", "running", "retry", "completed", "failed", "dead"]
    attempts: int
    max_attempts: int
    progress: float = Field(description="0 to 1.")
    error: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, job: pb.Job) -> Job:
        return cls(
            id=job.id,
            kind=job.kind,
            status=job.status,
            attempts=job.attempts,
            max_attempts=job.max_attempts,
            progress=job.progress,
            error=job.error or None,
            created_at=moment(job.created_at),
            updated_at=moment(job.updated_at),
        )


def routes(insights: Peer, *, timeout_s: float) -> APIRouter:
    """Return the routes of `/api/insights` and `/api/jobs`."""
    router = APIRouter(tags=["insights"])
    stub = InsightsServiceStub(insights.channel)

    @router.get("/api/insights/{meeting_id}", responses={**documented(*READ), 200: {"headers": ETAG}})
    async def get_insights(meeting_id: Id, who: Who, response: Response) -> Insights:
        """Read the summary, key points, decisions and action items of a meeting."""
        request = pb.GetInsightsRequest(owner_id=who.account_id, meeting_id=meeting_id)
        answer = await insights.call(stub.GetInsights, request, timeout_s=timeout_s)
        tag(response, answer.insights.version)
        return Insights.of(answer.insights)

    @router.post("/api/insights/{meeting_id}", status_code=202, responses=documented(*READ, Kind.CONFLICT))
    async def request_insights(meeting_id: Id, who: Who, response: Response) -> Job:
        """Ask for the insights to be made again."""
        request = pb.RequestInsightsRequest(owner_id=who.account_id, meeting_id=meeting_id)
        answer = await insights.call(stub.RequestInsights, request, timeout_s=timeout_s)
        response.headers["Location"] = f"/api/jobs/{answer.job.id}"
        return Job.of(answer.job)

    @router.get("/api/jobs/{job_id}", responses=documented(*READ))
    async def get_job(job_id: Id, who: Who) -> Job:
        """Read how far a job is."""
        request = pb.GetJobRequest(owner_id=who.account_id, job_id=job_id)
        answer = await insights.call(stub.GetJob, request, timeout_s=timeout_s)
        return Job.of(answer.job)

    @router.post("/api/jobs/{job_id}/cancel", responses=documented(*READ, Kind.CONFLICT))
    async def cancel_job(job_id: Id, who: Who) -> Job:
        """End a job that is not over. What it has not finished yet has no effect."""
        request = pb.CancelJobRequest(owner_id=who.account_id, job_id=job_id)
        answer = await insights.call(stub.CancelJob, request, timeout_s=timeout_s)
        return Job.of(answer.job)

    return router
