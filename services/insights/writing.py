"""The jobs that write the minutes of a meeting: when it is over, and again when the language model is back."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.insights.v1 import insights_pb2

from chassis import outbox, telemetry
from chassis.errors import AppError, Kind
from chassis.jobs import Job, Queue
from chassis.postgres import Database
from chassis.worker import Effect, Refused, Run
from services.insights import metrics, store
from services.insights.language import LanguageModel, ModelUnavailable
from services.insights.minutes import DRAFT, ENGINE, Minutes, Transcript
from services.insights.transcripts import Request, Transcripts

log = telemetry.logger(__name__)

KIND = "insights"
HEAL = "insights-heal"
READY = "events.insights.ready"

# What the model will say of the same transcript whenever it is asked.
_HOPELESS = frozenset({Kind.PAYLOAD_TOO_LARGE})
_REFUSED_WAIT_S = 300.0
_SEARCHED_CHARS = 100_000


def payload(request: Request) -> bytes:
    """Return what a job carries. The meeting and its owner are on the job itself."""
    return orjson.dumps({"language": request.language, "day": request.day.isoformat() if request.day else ""})


def request_of(job: Job) -> Request:
    """Return what a job was asked for."""
    carried = orjson.loads(job.payload)
    day = date.fromisoformat(carried["day"]) if carried["day"] else None
    return Request(job.key, job.owner_id, carried["language"], day)


class Writer:
    """Handles jobs: reads the transcript, has minutes written, stores them and tells of them.

    When the model cannot, the minutes are a draft, and a job remains that asks it again until it can.
    """

    def __init__(
        self,
        transcripts: Transcripts,
        model: LanguageModel,
        fallback: LanguageModel,
        *,
        database: Database,
        queue: Queue,
        heal_attempts_max: int,
    ) -> None:
        self._transcripts = transcripts
        self._model = model
        self._fallback = fallback
        self._database = database
        self._queue = queue
        self._heal_attempts_max = heal_attempts_max

    async def handle(self, run: Run) -> Effect:
        """Make one attempt. Raises AppError, and Refused if the meeting is there no more."""
        job = run.job
        transcript = await self._read(job)
        await run.report(0.3)
        heal = False
        try:
            minutes = await self._by_model(transcript)
        except AppError as fault:
            # A model that is known to be away is not waited for: the meeting's people are.
            waits = fault.codes.retryable and not isinstance(fault, ModelUnavailable)
            if waits and not job.last_attempt:
                raise
            log.warning("draft instead of the language model's minutes", fault=str(fault))
            minutes = await self._fallback.write_minutes(transcript)
            heal = fault.kind not in _HOPELESS

        async def commit(connection: AsyncConnection) -> None:
            await self._store(connection, job, minutes)
            if heal:
                await self._queue.put(
                    connection, HEAL, job.key,
                    owner_id=job.owner_id, payload=job.payload, attempts_max=self._heal_attempts_max,
                )  # fmt: skip

        metrics.MADE.labels(minutes.engine, minutes.quality).inc()
        return commit

    async def heal(self, run: Run) -> Effect:
        """Ask the model again for what is a draft because of it. Raises AppError until it answers, and Refused."""
        job = run.job
        if not await self._is_draft(job):
            return _nothing
        transcript = await self._read(job)
        await run.report(0.3)
        try:
            minutes = await self._by_model(transcript)
        except AppError as fault:
            if fault.kind in _HOPELESS:
                raise Refused(fault.message) from fault
            if fault.codes.retryable:
                raise
            # A refused key or an empty account: an operator mends that, and then nobody should have to ask.
            raise AppError(Kind.UNAVAILABLE, fault.message, retry_after_s=_REFUSED_WAIT_S, log=str(fault)) from fault

        async def commit(connection: AsyncConnection) -> None:
            await self._store(connection, job, minutes)

        metrics.MADE.labels(minutes.engine, minutes.quality).inc()
        metrics.HEALED.inc()
        return commit

    async def _read(self, job: Job) -> Transcript:
        try:
            return await self._transcripts.read(request_of(job))
        except AppError as fault:
            if fault.kind in {Kind.NOT_FOUND, Kind.PAYLOAD_TOO_LARGE}:
                raise Refused(fault.message) from fault
            raise

    async def _by_model(self, transcript: Transcript) -> Minutes:
        if not transcript.segments:
            return await self._fallback.write_minutes(transcript)
        minutes = await self._model.write_minutes(transcript)
        # Of a transcript that will read otherwise soon, the best model's minutes are not the last word.
        return replace(minutes, quality=DRAFT) if transcript.healing else minutes

    async def _is_draft(self, job: Job) -> bool:
        """Tell whether no model has written the minutes meanwhile."""
        stored = await self._database.run(
            "insights get", lambda connection: store.get(connection, job.key, job.owner_id)
        )  # fmt: skip
        return stored is not None and stored.minutes.engine == ENGINE

    async def _store(self, connection: AsyncConnection, job: Job, minutes: Minutes) -> None:
        version = await store.put(connection, job.key, job.owner_id, minutes, job_id=job.id)
        if version is not None:
            ready = outbox.event(READY, _ready(job, minutes, version).SerializeToString(), job.key)
            await outbox.put(connection, store.OUTBOX, [ready], source=KIND)


async def _nothing(_connection: AsyncConnection) -> None:
    """Commit nothing but the job's end."""


def _ready(job: Job, minutes: Minutes, version: int) -> insights_pb2.InsightsReady:
    return insights_pb2.InsightsReady(
        meeting_id=job.key,
        owner_id=job.owner_id,
        quality=minutes.quality,
        version=version,
        text=_searched(minutes),
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


def _searched(minutes: Minutes) -> str:
    points = [point.text for point in (*minutes.key_points, *minutes.decisions)]
    items = [item.text for item in minutes.action_items]
    return "\n".join(text for text in (minutes.summary, *points, *items) if text)[:_SEARCHED_CHARS]
