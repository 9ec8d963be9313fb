"""A whole insights service in the test's process, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from verbatim.insights.v1 import insights_pb2, insights_pb2_grpc
from verbatim.meetings.v1 import events_pb2, meetings_pb2_grpc

from chassis import bus, ids, lifecycle, outbox, postgres, rpc
from chassis.dead_letters import DLQ
from chassis.jobs import JOBS, Queue
from chassis.migrations import migrate
from chassis.relay import Relay
from chassis.tests.servers import NatsServer
from chassis.worker import Policy, Worker
from services.insights import store
from services.insights.api import InsightsApi
from services.insights.departures import DELETED as ACCOUNT_DELETED
from services.insights.departures import DepartureConsumer
from services.insights.events import COMPLETED, DELETED, EDITED, HEALED, MeetingEvents
from services.insights.language import LanguageModel, NoLanguageModel
from services.insights.tests.fakes import FakeMeetings, serving
from services.insights.transcripts import MeetingsTranscripts
from services.insights.writing import HEAL, KIND, Budget, Writer

MIGRATIONS = Path(__file__).parents[1] / "migrations"


@dataclass
class House:
    """The service's parts, its neighbours, and the way a client sees it."""

    database: postgres.Database
    bus: bus.Bus
    queue: Queue
    meetings: FakeMeetings
    events: MeetingEvents
    door: rpc.Peer
    stub: Any
    transcripts: MeetingsTranscripts
    _tasks: asyncio.TaskGroup

    def work(
        self,
        model: LanguageModel | None = None,
        *,
        heals: bool = False,
        budget: Budget = Budget(),  # noqa: B008
    ) -> None:
        writer = Writer(
            self.transcripts, model or NoLanguageModel(), NoLanguageModel(),
            database=self.database, queue=self.queue, heal_attempts_max=50, budget=budget,
        )  # fmt: skip
        policy = Policy(delays_s=(0.1, 0.2), jitter=0.0, deadline_s=10.0)
        for kind, handle in ((KIND, writer.handle), (HEAL, writer.heal))[: 2 if heals else 1]:
            worker = Worker(kind, handle, database=self.database, queue=self.queue, broker=self.bus, policy=policy)
            self._tasks.create_task(worker.run())

    async def completed(self, owner_id: str, meeting_id: str, event_id: str | None = None) -> None:
        event = events_pb2.MeetingCompleted(
            meeting_id=meeting_id, owner_id=owner_id, language="en", day="2026-11-25"
        )  # fmt: skip
        await self.bus.publish(COMPLETED, event.SerializeToString(), message_id=event_id or ids.new_id())

    async def healed(self, owner_id: str, meeting_id: str) -> None:
        event = events_pb2.MeetingHealed(meeting_id=meeting_id, owner_id=owner_id, language="en", day="2026-11-25")
        await self.bus.publish(HEALED, event.SerializeToString(), message_id=ids.new_id())

    async def edited(self, owner_id: str, meeting_id: str) -> None:
        event = events_pb2.MeetingEdited(meeting_id=meeting_id, owner_id=owner_id, language="en", day="2026-11-25")
        await self.bus.publish(EDITED, event.SerializeToString(), message_id=ids.new_id())

    async def departed(self, account_id: str) -> None:
        event = events_pb2.AccountDeleted(account_id=account_id)
        await self.bus.publish(ACCOUNT_DELETED, event.SerializeToString(), message_id=ids.new_id())

    async def deleted(self, owner_id: str, meeting_id: str) -> None:
        event = events_pb2.MeetingDeleted(meeting_id=meeting_id, owner_id=owner_id)
        await self.bus.publish(DELETED, event.SerializeToString(), message_id=ids.new_id())

    async def insights(self, owner_id: str, meeting_id: str) -> Any:
        asked = insights_pb2.GetInsightsRequest(owner_id=owner_id, meeting_id=meeting_id)
        return (await self.door.call(self.stub.GetInsights, asked, timeout_s=5.0)).insights

    async def request(self, owner_id: str, meeting_id: str) -> Any:
        asked = insights_pb2.RequestInsightsRequest(owner_id=owner_id, meeting_id=meeting_id)
        return (await self.door.call(self.stub.RequestInsights, asked, timeout_s=5.0)).job

    async def edit(self, owner_id: str, meeting_id: str, version: int, **words: Any) -> Any:
        asked = insights_pb2.UpdateInsightsRequest(
            owner_id=owner_id, meeting_id=meeting_id, expected_version=version, **words
        )
        return (await self.door.call(self.stub.UpdateInsights, asked, timeout_s=5.0)).insights

    async def job(self, owner_id: str, job_id: str) -> Any:
        asked = insights_pb2.GetJobRequest(owner_id=owner_id, job_id=job_id)
        return (await self.door.call(self.stub.GetJob, asked, timeout_s=5.0)).job

    async def cancel(self, owner_id: str, job_id: str) -> insights_pb2.Job:
        asked = insights_pb2.CancelJobRequest(owner_id=owner_id, job_id=job_id)
        answer: insights_pb2.CancelJobResponse = await self.door.call(self.stub.CancelJob, asked, timeout_s=5.0)
        return answer.job

    async def messages(self, subject: str) -> int:
        """Count the messages of the events stream with this subject."""
        info = await self.bus.js.stream_info("EVENTS", subjects_filter=subject)
        return sum((info.state.subjects or {}).values())


async def eventually(holds: Callable[[], Awaitable[bool]], within_s: float = 15.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(within_s):
        while not await holds():
            await asyncio.sleep(0.02)


@pytest.fixture
async def house(database_url: str, nats_server: NatsServer) -> AsyncIterator[House]:
    await asyncio.to_thread(migrate, database_url, MIGRATIONS)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        database = await enter(postgres.database(database_url, production=False))
        broker = await enter(bus.connect(nats_server.url, name="test", replicas=1))
        for stream in (outbox.EVENTS, JOBS, DLQ):
            await broker.declare(stream)
        meetings = FakeMeetings()  # type: ignore[abstract]
        meetings_door = await enter(serving(meetings_pb2_grpc.add_MeetingsServiceServicer_to_server, meetings))
        transcripts = MeetingsTranscripts(meetings_door, segments_max=1000)
        queue = Queue(store.JOBS, store.OUTBOX, source="insights")
        events = MeetingEvents(database, queue, broker, attempts_max=3)
        api = InsightsApi(database, queue, transcripts, attempts_max=3)
        door = await enter(serving(insights_pb2_grpc.add_InsightsServiceServicer_to_server, api))
        stub = insights_pb2_grpc.InsightsServiceStub(door.channel)
        running: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                running += [tasks.create_task(Relay(database, store.OUTBOX, store.STREAMS, broker).run())]
                running += [tasks.create_task(events.run())]
                running += [tasks.create_task(DepartureConsumer(database, broker).run())]
                yield House(database, broker, queue, meetings, events, door, stub, transcripts, tasks)
                await lifecycle.end(list(tasks._tasks))  # those too that the test started
        except asyncio.CancelledError:
            pass
