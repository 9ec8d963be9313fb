"""Calls come in: parse, call, answer."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.insights.v1 import insights_pb2, insights_pb2_grpc

from chassis import ids, jobs
from chassis.errors import AppError, Kind
from chassis.idempotency import Claim, IdempotencyKeys
from chassis.jobs import LIVE, Job, Queue
from chassis.postgres import Database
from services.insights import store
from services.insights.minutes import ActionItem, Point
from services.insights.store import Stored
from services.insights.transcripts import Request, Transcripts
from services.insights.writing import KIND, payload


class InsightsApi(insights_pb2_grpc.InsightsServiceServicer):
    """InsightsService. What is another's is NOT_FOUND."""

    def __init__(self, database: Database, queue: Queue, transcripts: Transcripts, *, attempts_max: int) -> None:
        self._database = database
        self._keys = IdempotencyKeys(database, store.KEYS)
        self._queue = queue
        self._transcripts = transcripts
        self._attempts_max = attempts_max

    async def GetInsights(self, request: Any, _: Any) -> insights_pb2.GetInsightsResponse:  # noqa: N802 - generated name
        async def work(connection: AsyncConnection) -> tuple[Stored | None, Job | None]:
            stored = await store.get(connection, request.meeting_id, request.owner_id)
            job = await self._queue.latest(connection, KIND, request.meeting_id)
            return stored, job if job and job.owner_id == request.owner_id else None

        stored, job = await self._database.run("insights get", work)
        if stored is None and job is None:
            raise AppError(Kind.NOT_FOUND, "There are no insights for this meeting.")
        return insights_pb2.GetInsightsResponse(insights=_insights(request.meeting_id, stored, job))

    async def RequestInsights(self, request: Any, _: Any) -> insights_pb2.RequestInsightsResponse:  # noqa: N802
        await self._transcripts.check(request.owner_id, request.meeting_id)

        async def work(connection: AsyncConnection) -> Job:
            under_way = await self._queue.latest(connection, KIND, request.meeting_id)
            if under_way is not None and under_way.status in LIVE:
                return under_way
            return await self._queue.put(
                connection,
                KIND,
                request.meeting_id,
                owner_id=request.owner_id,
                payload=payload(Request(request.meeting_id, request.owner_id)),
                attempts_max=self._attempts_max,
            )

        kept = await self._keys.once(
            "insights request",
            Claim.of(request),
            work,
            lambda job: insights_pb2.RequestInsightsResponse(job=_job(job)),
            insights_pb2.RequestInsightsResponse,
        )
        kept.answer.replayed = kept.replayed
        return kept.answer

    async def GetJob(self, request: Any, _: Any) -> insights_pb2.GetJobResponse:  # noqa: N802 - generated name
        async def work(connection: AsyncConnection) -> Job | None:
            return await self._queue.get(connection, request.job_id)

        job = await self._database.run("job get", work) if ids.is_id(request.job_id) else None
        if job is None or job.owner_id != request.owner_id:
            raise AppError(Kind.NOT_FOUND, "There is no such job.")
        return insights_pb2.GetJobResponse(job=_job(job))

    async def CancelJob(self, request: Any, _: Any) -> insights_pb2.CancelJobResponse:  # noqa: N802 - generated name
        cancel = partial(self._queue.cancel, job_id=request.job_id, owner_id=request.owner_id)
        return insights_pb2.CancelJobResponse(job=_job(await self._database.once("job cancel", cancel)))


def _insights(meeting_id: str, stored: Stored | None, job: Job | None) -> insights_pb2.Insights:
    """Say what is known: under way while a job is, with what the one before made, if there was one."""
    over = "ready" if stored is not None else "failed"
    status = "pending" if job is not None and job.status in LIVE else over
    answer = insights_pb2.Insights(meeting_id=meeting_id, status=status)
    if stored is None:
        return answer
    minutes = stored.minutes
    answer.quality = minutes.quality
    answer.summary = minutes.summary
    answer.engine = minutes.engine
    answer.key_points.extend(map(_point, minutes.key_points))
    answer.decisions.extend(map(_point, minutes.decisions))
    answer.action_items.extend(map(_item, minutes.action_items))
    answer.version = stored.version
    answer.updated_at.CopyFrom(_moment(stored.updated_at))
    return answer


def _point(point: Point) -> insights_pb2.Point:
    return insights_pb2.Point(text=point.text, segment_ids=point.segment_ids)


def _item(item: ActionItem) -> insights_pb2.ActionItem:
    due = item.due.isoformat() if item.due else ""
    return insights_pb2.ActionItem(text=item.text, assignee=item.assignee, due=due, segment_ids=item.segment_ids)


def _job(job: jobs.Job) -> insights_pb2.Job:
    return insights_pb2.Job(
        id=job.id,
        kind=job.kind,
        status=job.status.value,
        attempts=job.attempts,
        max_attempts=job.attempts_max,
        progress=job.progress,
        error=job.error,
        created_at=_moment(job.created_at),
        updated_at=_moment(job.updated_at),
    )


def _moment(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
