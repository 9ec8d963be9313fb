"""Calls come in: parse, call, answer."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.insights.v1 import insights_pb2, insights_pb2_grpc

from chassis import ids, jobs
from chassis.errors import AppError, Kind, Problem
from chassis.idempotency import Claim, IdempotencyKeys
from chassis.jobs import LIVE, Job, Queue
from chassis.postgres import Database
from services.insights import metrics, store
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

    async def UpdateInsights(self, request: Any, _: Any) -> insights_pb2.UpdateInsightsResponse:  # noqa: N802
        written = _written(request)

        async def known(connection: AsyncConnection) -> Stored | None:
            return await store.get(connection, request.meeting_id, request.owner_id)

        stored = await self._database.run("insights get", known)
        if stored is None:
            raise AppError(Kind.NOT_FOUND, "There are no insights for this meeting.")
        await self._check_cited(request, written, stored)

        async def work(connection: AsyncConnection) -> tuple[Stored, Job | None]:
            changed = await store.edit(
                connection, request.meeting_id, request.owner_id, request.expected_version, written
            )
            return changed, await self._queue.latest(connection, KIND, request.meeting_id)

        changed, job = await self._database.once("insights edit", work)
        metrics.EDITED.inc()
        return insights_pb2.UpdateInsightsResponse(insights=_insights(request.meeting_id, changed, job))

    async def _check_cited(self, request: Any, written: dict[str, Any], stored: Stored) -> None:
        """Raise AppError(VALIDATION_FAILED) for a point that rests on a segment that the meeting does not have."""
        cited = {
            (name, one) for name, words in written.items() if isinstance(words, tuple)
            for point in words for one in point.segment_ids
        }  # fmt: skip
        made = [*stored.minutes.key_points, *stored.minutes.decisions, *stored.minutes.action_items]
        beside = [point for points in stored.beside.values() if isinstance(points, tuple) for point in points]
        strange = cited - {(name, one) for name, _ in cited for point in (*made, *beside) for one in point.segment_ids}
        if strange:
            transcript = await self._transcripts.read(Request(request.meeting_id, request.owner_id))
            there = {segment.id for segment in transcript.segments}
            names = sorted({name for name, one in strange if one not in there})
            if names:
                details = tuple(Problem(name, "Rests on a segment that the meeting does not have") for name in names)
                raise AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=details)

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
    answer.reason = stored.reason
    answer.edited.extend(stored.edited)
    for name, made in stored.beside.items():
        if isinstance(made, str):
            answer.beside.summary = made
        else:
            getattr(answer.beside, name).points.extend(map(_point, made))
    answer.updated_at.CopyFrom(_moment(stored.updated_at))
    return answer


def _written(request: Any) -> dict[str, Any]:
    """Return what a person wrote, by field; None for a field that is given back. Raises AppError(VALIDATION_FAILED)."""
    written: dict[str, Any] = {name: None for name in request.given_back if name in store.EDITABLE}
    for name in store.EDITABLE:
        if request.HasField(name):
            value = getattr(request, name)
            written[name] = (
                value
                if isinstance(value, str)
                else tuple(Point(one.text, tuple(one.segment_ids)) for one in value.points)
            )
    if not written:
        raise AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=(Problem("body", "Names no field"),))
    return written


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
