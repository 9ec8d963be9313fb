"""Start the meetings service, or do one of its commands (`commands.py`)."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from verbatim.meetings.v1.meetings_pb2_grpc import add_MeetingsServiceServicer_to_server
from verbatim.meetings.v1.tasks_pb2_grpc import add_TasksServiceServicer_to_server

from chassis import bus, jobs, lifecycle, outbox, postgres, rpc, telemetry
from chassis import settings as environment
from chassis.migrations import Schema, migrate
from chassis.pool import Limits
from chassis.relay import Relay
from services.meetings import commands
from services.meetings.account_servicers import account_servicers
from services.meetings.api import MeetingsApi, TasksApi
from services.meetings.departures import DepartureConsumer
from services.meetings.entries_store import EntriesStore
from services.meetings.events import TRANSCRIPT_LOCK, InsightsConsumer, TranscriptConsumer
from services.meetings.housekeeping import Housekeeping
from services.meetings.leadership import Leadership
from services.meetings.login import utc_now
from services.meetings.meetings_store import MeetingsStore
from services.meetings.paging import Cursors
from services.meetings.passwords import passwords
from services.meetings.segments_store import SegmentsStore
from services.meetings.settings import Settings
from services.meetings.store import REVISION, outbox_rows, streams_seen
from services.meetings.tasks_store import TasksStore
from services.meetings.transcript_store import TranscriptStore

SERVICE = "meetings"
MIGRATIONS = Path(__file__).parent / "migrations"

log = telemetry.logger(__name__)


async def start(
    life: lifecycle.Lifecycle,
    settings: Settings,
    *,
    transcript_consumer: type[TranscriptConsumer] = TranscriptConsumer,
    grpc_server: type[rpc.Server] = rpc.Server,
) -> None:
    """Live one life: start, ready, drain.

    The fault tests leave a defence out by a class of their own, to see that its absence is noticed.
    """
    key = settings.service_auth_key.get_secret_value()
    database = await life.exits.enter_async_context(
        postgres.database(
            settings.database_url_meetings.get_secret_value(),
            direct_url=settings.database_direct_url_meetings.get_secret_value(),
            limits=Limits.of(settings),
        )
    )
    schema = Schema(database, REVISION)
    hashing = life.exits.enter_context(
        passwords(workers=settings.password_workers, queue_max=settings.password_queue_max)
    )
    cursors = Cursors(key)

    server = grpc_server(settings.grpc_host, settings.grpc_port, rpc.Identity(SERVICE, key))
    for register, servicer in account_servicers(settings, database, cursors, hashing):
        server.add(register, servicer)
    server.add(
        add_MeetingsServiceServicer_to_server,
        MeetingsApi(MeetingsStore(database, cursors), SegmentsStore(database, cursors), EntriesStore(database)),
    )
    server.add(add_TasksServiceServicer_to_server, TasksApi(TasksStore(database, cursors)))
    await server.start()

    life.require("database", schema.check)
    # Whether the broker is there makes no difference to reads: what concerns it waits for it in the background.
    life.spawn(converse(settings, database.patient(), schema, cursors, transcript_consumer), "events")
    life.spawn(Housekeeping(database.patient(), utc_now).run(), "housekeeping")
    life.ready()
    await life.until_stop()

    # What was consumed and not committed stays in the stream, what was not relayed in the outbox.
    await server.retire()
    await server.stop(settings.drain_s / 2)


async def converse(
    settings: Settings,
    database: postgres.Database,
    schema: Schema,
    cursors: Cursors,
    transcript_consumer: type[TranscriptConsumer],
) -> None:
    """Exchange facts with the broker for the life of the process."""
    await schema.wait()
    async with bus.connect(settings.nats_url, name=SERVICE, replicas=settings.nats_replicas) as broker:
        for stream in (outbox.EVENTS, jobs.DLQ):
            await broker.declared(stream)
        transcripts = transcript_consumer(TranscriptStore(database), broker, Leadership(database, TRANSCRIPT_LOCK))
        async with asyncio.TaskGroup() as group:
            group.create_task(broker.until_closed())
            group.create_task(Relay(database, outbox_rows, streams_seen, broker, (outbox.EVENTS, jobs.DLQ)).run())
            group.create_task(transcripts.run())
            group.create_task(InsightsConsumer(TasksStore(database, cursors), broker).run())
            departures = DepartureConsumer(MeetingsStore(database, cursors), TasksStore(database, cursors), broker)
            group.create_task(departures.run())


def main() -> None:
    """Do what the command line says."""
    said = commands.parse(sys.argv[1:])
    settings = environment.load(Settings)
    if said.command == "migrate":
        direct = settings.database_direct_url_meetings.get_secret_value()
        migrate(direct or settings.database_url_meetings.get_secret_value(), MIGRATIONS)
    elif said.command is not None:
        commands.change_account(settings, said)
    else:
        lifecycle.run(SERVICE, settings, lambda life: start(life, settings))


if __name__ == "__main__":
    main()
