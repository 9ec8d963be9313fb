"""Figures come in as facts of the meetings service and go out as analytics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from nats.aio.msg import Msg
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.insights.v1 import analytics_pb2 as pb
from verbatim.insights.v1 import analytics_pb2_grpc
from verbatim.meetings.v1.figures_pb2 import MeetingFigures, TaskFigures

from chassis import dead_letters, ids, telemetry
from chassis.bus import Bus
from chassis.erasing import erase
from chassis.errors import AppError, Kind
from chassis.outbox import EVENTS, event_id
from chassis.postgres import Database
from services.insights import figures_store, metrics
from services.insights.figures_store import Analytics
from services.insights.periods import Period, period

log = telemetry.logger(__name__)

CONSUMER = "insights-figures"
SUBJECT = "events.figures.*"
MEETING, TASK = "events.figures.meeting", "events.figures.task"


class FiguresConsumer:
    """Takes in how meetings and tasks stand. A batch is one transaction, with one effect however often it comes."""

    def __init__(self, database: Database, broker: Bus) -> None:
        self._database = database
        self._bus = broker

    async def run(self) -> None:
        """Consume for ever, also with others of its kind."""
        await self._bus.consume(stream=EVENTS.name, durable=CONSUMER, subject=SUBJECT, handle=self.handle)

    async def handle(self, messages: list[Msg]) -> None:
        """Take facts in; what makes no sense goes to the dead letters. Raises AppError if the database is away."""
        gone: dict[str, int] = {}
        meetings: list[MeetingFigures] = []
        tasks: list[TaskFigures] = []
        for message in messages:
            try:
                if message.subject == MEETING:
                    meetings.append(_meeting(message.data))
                    if meetings[-1].deleted:
                        gone[meetings[-1].meeting_id] = message.metadata.sequence.stream
                elif message.subject == TASK:
                    tasks.append(_task(message.data))
            except (DecodeError, ValueError, OverflowError) as fault:
                await self._refuse(message, type(fault).__name__)

        async def work(connection: AsyncConnection) -> tuple[int, int]:
            return (
                await figures_store.tell_meetings(connection, meetings),
                await figures_store.tell_tasks(connection, tasks),
            )

        news = await self._database.run("tell figures", work)
        metrics.FIGURES.labels("news").inc(sum(news))
        metrics.FIGURES.labels("known").inc(len(meetings) + len(tasks) - sum(news))
        if gone:
            # What was told of them before names who spoke. Done each time that it comes, for it can be cut short.
            await erase(self._bus, EVENTS.name, MEETING, gone)

    async def _refuse(self, message: Msg, why: str) -> None:
        metrics.EVENTS_REFUSED.inc()
        log.error("figures refused", subject=message.subject, fault=why)
        letter = dead_letters.letter(
            f"{CONSUMER}/{event_id(message)}",
            kind=f"event.{CONSUMER}",
            subject=message.subject,
            payload=message.data,
            headers=message.headers,
            error=why,
        )
        await dead_letters.publish(self._bus, letter)


class AnalyticsApi(analytics_pb2_grpc.AnalyticsServiceServicer):
    """verbatim.insights.v1.AnalyticsService."""

    def __init__(self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now

    async def GetAnalytics(self, request: Any, _: Any) -> pb.GetAnalyticsResponse:  # noqa: N802 - generated name
        if not ids.is_id(request.owner_id):
            raise AppError(Kind.NOT_FOUND, "There is no such account.")
        now = self._now()
        asked = period(getattr(request, "from"), request.to, request.time_zone, now=now)
        found = await self._database.run(
            "analytics", lambda connection: figures_store.add_up(connection, request.owner_id, asked)
        )
        return pb.GetAnalyticsResponse(analytics=_analytics(asked, found, now))


def _analytics(asked: Period, found: Analytics, now: datetime) -> pb.Analytics:
    answer = pb.Analytics(
        to=_stamp(asked.end),
        time_zone=asked.zone,
        meetings=sum(day.meetings for day in found.days),
        talk_s=sum(day.talk_s for day in found.days),
        words=sum(day.words for day in found.days),
        speakers=[pb.SpeakerTalk(speaker=s.speaker, talk_s=s.talk_s, words=s.words) for s in found.speakers],
        tasks_open=sum(day.tasks_open for day in found.days),
        tasks_done=sum(day.tasks_done for day in found.days),
        days=[
            pb.DayFigures(
                day=day.day.isoformat(), meetings=day.meetings, talk_s=day.talk_s, words=day.words,
                tasks_open=day.tasks_open, tasks_done=day.tasks_done,
            )
            for day in found.days
        ],
        as_of=_stamp(now),
    )  # fmt: skip
    # The field's name is a word of Python.
    getattr(answer, "from").CopyFrom(_stamp(asked.start))
    return answer


def _meeting(data: bytes) -> MeetingFigures:
    fact = MeetingFigures.FromString(data)
    _demand(ids.is_id(fact.meeting_id) and fact.version > 0)
    if not fact.deleted:
        _demand(ids.is_id(fact.owner_id) and fact.HasField("began_at"))
        fact.began_at.ToDatetime(UTC)
    return fact


def _task(data: bytes) -> TaskFigures:
    fact = TaskFigures.FromString(data)
    _demand(ids.is_id(fact.task_id) and fact.version > 0)
    if not fact.deleted:
        _demand(ids.is_id(fact.owner_id) and fact.HasField("created_at"))
        fact.created_at.ToDatetime(UTC)
    return fact


def _demand(holds: bool) -> None:
    if not holds:
        raise ValueError("a fact without what it is about")


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
