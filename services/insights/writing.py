"""The job that writes the minutes of a meeting."""

from __future__ import annotations

from datetime import date

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.insights.v1 import insights_pb2

from chassis import outbox, telemetry
from chassis.errors import AppError, Kind
from chassis.jobs import Job
from chassis.worker import Effect, Refused, Run
from services.insights import metrics, store
from services.insights.language import LanguageModel
from services.insights.minutes import Minutes, Transcript
from services.insights.transcripts import Request, Transcripts

log = telemetry.logger(__name__)

KIND = "insights"
READY = "events.insights.ready"


def payload(request: Request) -> bytes:
    """Return what a job carries. The meeting and its owner are on the job itself."""
    return orjson.dumps({"language": request.language, "day": request.day.isoformat() if request.day else ""})


def request_of(job: Job) -> Request:
    """Return what a job was asked for."""
    carried = orjson.loads(job.payload)
    day = date.fromisoformat(carried["day"]) if carried["day"] else None
    return Request(job.key, job.owner_id, carried["language"], day)


class Writer:
    """Handles jobs: reads the transcript, has minutes written, stores them and tells of them."""

    def __init__(self, transcripts: Transcripts, model: LanguageModel, fallback: LanguageModel) -> None:
        self._transcripts = transcripts
        self._model = model
        self._fallback = fallback

    async def handle(self, run: Run) -> Effect:
        """Make one attempt. Raises AppError, and Refused if the meeting is there no more."""
        job = run.job
        try:
            transcript = await self._transcripts.read(request_of(job))
        except AppError as fault:
            if fault.kind in {Kind.NOT_FOUND, Kind.PAYLOAD_TOO_LARGE}:
                raise Refused(fault.message) from fault
            raise
        await run.report(0.3)
        minutes = await self._written(transcript, last=job.last_attempt)

        async def commit(connection: AsyncConnection) -> None:
            if await store.put(connection, job.key, job.owner_id, minutes, job_id=job.id):
                ready = outbox.event(READY, _ready(job, minutes).SerializeToString(), job.key)
                await outbox.put(connection, store.OUTBOX, [ready], source=KIND)

        metrics.MADE.labels(minutes.engine, minutes.quality).inc()
        return commit

    async def _written(self, transcript: Transcript, *, last: bool) -> Minutes:
        """Have the model write; a draft instead when it cannot, or could not in all of the job's attempts."""
        if not transcript.segments:
            return await self._fallback.write_minutes(transcript)
        try:
            return await self._model.write_minutes(transcript)
        except AppError as fault:
            if fault.codes.retryable and not last:
                raise
            log.warning("draft instead of the language model's minutes", fault=str(fault))
            return await self._fallback.write_minutes(transcript)


def _ready(job: Job, minutes: Minutes) -> insights_pb2.InsightsReady:
    return insights_pb2.InsightsReady(
        meeting_id=job.key,
        owner_id=job.owner_id,
        quality=minutes.quality,
        action_items=[
            insights_pb2.ActionItem(
                text=item.text,
                assignee=item.assignee,
                due=item.due.isoformat() if item.due else "",
                segment_ids=item.segment_ids,
            )
            for item in minutes.action_items
        ],
    )
