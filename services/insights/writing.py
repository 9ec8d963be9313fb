"""The jobs that write the minutes of a meeting: when it is over, and again when the language model is back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.insights.v1 import insights_pb2

from chassis import outbox, telemetry
from chassis.errors import AppError, Kind
from chassis.jobs import Job, Queue
from chassis.postgres import Database
from chassis.worker import Effect, Postponed, Refused, Run
from services.insights import metrics, store, usage_store
from services.insights.language import LanguageModel, ModelUnavailable
from services.insights.minutes import DRAFT, ENGINE, Minutes, Transcript
from services.insights.spending import Prices, Spend, period_of, until_next_s
from services.insights.transcripts import Request, Transcripts

log = telemetry.logger(__name__)

KIND = "insights"
HEAL = "insights-heal"
READY = "events.insights.ready"

# What the model will say of the same transcript whenever it is asked.
_HOPELESS = frozenset({Kind.PAYLOAD_TOO_LARGE})
_REFUSED_WAIT_S = 300.0
_SEARCHED_CHARS = 100_000


class OverBudget(AppError):
    """The account has spent what it may in this period: the model was not asked."""

    def __init__(self, until_s: float) -> None:
        super().__init__(Kind.RATE_LIMIT_EXCEEDED, "This month's budget is spent.", retry_after_s=until_s)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one account may spend in a period; 0: as much as it likes."""

    tokens: int = 0
    prices: Prices = field(default_factory=Prices)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


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
        budget: Budget = Budget(),
    ) -> None:
        self._transcripts = transcripts
        self._model = model
        self._fallback = fallback
        self._database = database
        self._queue = queue
        self._heal_attempts_max = heal_attempts_max
        self._budget = budget

    async def handle(self, run: Run) -> Effect:
        """Make one attempt. Raises AppError, and Refused if the meeting is there no more."""
        job = run.job
        transcript = await self._read(job)
        await run.report(0.3)
        heal, reason = False, ""
        try:
            minutes = await self._by_model(job, transcript)
            if minutes.quality == DRAFT:
                reason = "no_model" if minutes.engine == ENGINE else "healing"
        except AppError as fault:
            # A model that is known to be away is not waited for: the meeting's people are.
            waits = fault.codes.retryable and not isinstance(fault, ModelUnavailable | OverBudget)
            if waits and not job.last_attempt:
                raise
            log.warning("draft instead of the language model's minutes", fault=str(fault))
            minutes = await self._fallback.write_minutes(transcript, Spend())
            heal, reason = fault.kind not in _HOPELESS, _reason(fault)

        async def commit(connection: AsyncConnection) -> None:
            await self._store(connection, job, minutes, reason)
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
            minutes = await self._by_model(job, transcript)
        except OverBudget as fault:
            # Not an attempt: it is looked again now and then until the next period begins.
            raise Postponed(fault.retry_after_s or _REFUSED_WAIT_S) from fault
        except AppError as fault:
            if fault.kind in _HOPELESS:
                raise Refused(fault.message) from fault
            if fault.codes.retryable:
                raise
            # A refused key or an empty account: an operator mends that, and then nobody should have to ask.
            raise AppError(Kind.UNAVAILABLE, fault.message, retry_after_s=_REFUSED_WAIT_S, log=str(fault)) from fault

        reason = "healing" if minutes.quality == DRAFT else ""

        async def commit(connection: AsyncConnection) -> None:
            await self._store(connection, job, minutes, reason)

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

    async def _by_model(self, job: Job, transcript: Transcript) -> Minutes:
        """Return the model's minutes, and keep account of what they cost. Raises AppError, OverBudget among them."""
        spend = Spend(self._budget.prices)
        if not transcript.segments:
            return await self._fallback.write_minutes(transcript, spend)
        now = self._budget.clock()
        period = period_of(now)
        if self._budget.tokens:
            spent = await self._database.run(
                "usage get", lambda connection: usage_store.spent(connection, job.owner_id, period)
            )
            if spent >= self._budget.tokens:
                metrics.OVER_BUDGET.inc()
                raise OverBudget(until_next_s(now))
        try:
            minutes = await self._model.write_minutes(transcript, spend)
        finally:
            if spend.calls:  # paid for, whatever came of it and whatever becomes of the job
                await self._database.run(
                    "usage add", lambda connection: usage_store.add(connection, job.owner_id, period, spend)
                )
        # Of a transcript that will read otherwise soon, the best model's minutes are not the last word.
        return replace(minutes, quality=DRAFT) if transcript.healing else minutes

    async def _is_draft(self, job: Job) -> bool:
        """Tell whether no model has written the minutes meanwhile."""
        stored = await self._database.run(
            "insights get", lambda connection: store.get(connection, job.key, job.owner_id)
        )  # fmt: skip
        return stored is not None and stored.minutes.engine == ENGINE

    async def _store(self, connection: AsyncConnection, job: Job, minutes: Minutes, reason: str) -> None:
        version = await store.put(connection, job.key, job.owner_id, minutes, job_id=job.id, reason=reason)
        if version is not None:
            ready = outbox.event(READY, _ready(job, minutes, version).SerializeToString(), job.key)
            await outbox.put(connection, store.OUTBOX, [ready], source=KIND)


def _reason(fault: AppError) -> str:
    """Return why minutes are a draft, in a word that people's programs may read."""
    if isinstance(fault, OverBudget):
        return "budget"
    return "too_long" if fault.kind in _HOPELESS else "unavailable"


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
