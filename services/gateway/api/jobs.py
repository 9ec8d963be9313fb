"""`/api/jobs`: work that goes on after its call was answered, whoever does it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from verbatim.insights.v1 import insights_pb2
from verbatim.insights.v1.insights_pb2_grpc import InsightsServiceStub
from verbatim.meetings.v1 import uploads_pb2
from verbatim.meetings.v1.uploads_pb2_grpc import UploadsServiceStub

from chassis.errors import AppError, Kind
from chassis.rpc import Peer
from services.gateway.auth import Who
from services.gateway.errors import READ, documented
from services.gateway.resources import Id, moment


class Job(BaseModel):
    """Work that goes on after its call was answered."""

    id: str
    kind: str = Field(examples=["upload", "insights"])
    status: Literal["pending", "running", "retry", "completed", "failed", "dead"]
    attempts: int
    max_attempts: int
    progress: float = Field(description="0 to 1.")
    error: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, job: insights_pb2.Job | uploads_pb2.UploadJob) -> Job:
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


def routes(meetings: Peer, insights: Peer, *, timeout_s: float) -> APIRouter:
    """Return the routes of `/api/jobs`."""
    router = APIRouter(tags=["jobs"])
    of_uploads = UploadsServiceStub(meetings.channel)
    of_insights = InsightsServiceStub(insights.channel)

    @router.get("/api/jobs/{job_id}", responses=documented(*READ))
    async def get_job(job_id: Id, who: Who) -> Job:
        """Read how far a job is."""
        asked = {"owner_id": who.account_id, "job_id": job_id}
        return await _whoever_has_it(
            meetings.call(of_uploads.GetUploadJob, uploads_pb2.GetUploadJobRequest(**asked), timeout_s=timeout_s),
            insights.call(of_insights.GetJob, insights_pb2.GetJobRequest(**asked), timeout_s=timeout_s),
        )

    @router.post("/api/jobs/{job_id}/cancel", responses=documented(*READ, Kind.CONFLICT))
    async def cancel_job(job_id: Id, who: Who) -> Job:
        """End a job that is not over. What it has not finished yet has no effect."""
        asked = {"owner_id": who.account_id, "job_id": job_id}
        return await _whoever_has_it(
            meetings.call(of_uploads.CancelUploadJob, uploads_pb2.CancelUploadJobRequest(**asked), timeout_s=timeout_s),
            insights.call(of_insights.CancelJob, insights_pb2.CancelJobRequest(**asked), timeout_s=timeout_s),
        )

    return router


async def _whoever_has_it(*calls: Awaitable[Any]) -> Job:
    """Return the job that one of those who were asked has."""
    failure: BaseException | None = None
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        if not isinstance(answer, BaseException):
            return Job.of(answer.job)
        # Of one who cannot be asked nobody knows whether the job is there.
        if failure is None or (isinstance(failure, AppError) and failure.kind is Kind.NOT_FOUND):
            failure = answer
    assert failure is not None
    raise failure
