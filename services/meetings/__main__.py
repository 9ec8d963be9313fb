"""Start the meetings service, or do one of its commands (`commands.py`)."""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from verbatim.meetings.v1.meetings_pb2_grpc import add_MeetingsServiceServicer_to_server
from verbatim.meetings.v1.tasks_pb2_grpc import add_TasksServiceServicer_to_server
from verbatim.meetings.v1.transcripts_pb2_grpc import add_TranscriptsServiceServicer_to_server
from verbatim.meetings.v1.uploads_pb2_grpc import add_UploadsServiceServicer_to_server
from verbatim.meetings.v1.usage_pb2_grpc import add_UsageServiceServicer_to_server

from chassis import bus, jobs, lifecycle, outbox, postgres, rpc, telemetry
from chassis import settings as environment
from chassis.controls import Controls
from chassis.dead_letters import DLQ
from chassis.idempotency import IdempotencyKeys
from chassis.migrations import Schema, migrate
from chassis.objects import Objects
from chassis.orders import Orders
from chassis.pool import Limits
from chassis.pruning import Pruner
from chassis.relay import Relay
from chassis.worker import Policy, Worker
from services.meetings import commands
from services.meetings.account_servicers import account_servicers
from services.meetings.api import MeetingsApi, TasksApi
from services.meetings.deliveries_store import DeliveriesStore
from services.meetings.departures import DepartureConsumer
from services.meetings.digesting import Digesting
from services.meetings.digests_store import DigestsStore
from services.meetings.edits_store import EditsStore
from services.meetings.entries_store import EntriesStore
from services.meetings.events import TRANSCRIPT_LOCK, InsightsConsumer, TranscriptConsumer
from services.meetings.housekeeping import Housekeeping
from services.meetings.leadership import Leadership
from services.meetings.login import utc_now
from services.meetings.meetings_store import MeetingsStore
from services.meetings.paging import Cursors
from services.meetings.passwords import passwords
from services.meetings.posting import Resolver, SystemResolver
from services.meetings.remains_store import RemainsStore
from services.meetings.resting import Resting
from services.meetings.segments_store import SegmentsStore
from services.meetings.settings import Settings
from services.meetings.store import PRUNED, REVISION, idempotency_keys, outbox_rows, streams_seen
from services.meetings.tasks_store import TasksStore
from services.meetings.transcript_store import TranscriptStore
from services.meetings.transcripts_api import TranscriptsApi
from services.meetings.upload_jobs import TranscriberPeer, UploadJobs
from services.meetings.upload_tables import job_rows
from services.meetings.uploads import BUCKET, KIND, UploadLimits
from services.meetings.uploads_api import UploadsApi
from services.meetings.uploads_store import UploadsStore
from services.meetings.usage_api import UsageApi
from services.meetings.usage_store import UsageStore
from services.meetings.webhook_events import WebhookConsumer
from services.meetings.webhook_servicers import webhook_rules, webhook_servicer, webhook_worker

SERVICE = "meetings"
MIGRATIONS = Path(__file__).parent / "migrations"

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Doors:
    """To whom jobs speak outside of this service."""

    files: TranscriberPeer
    resolver: Resolver


@dataclass(frozen=True, slots=True)
class Kinds:
    """Of what kind those are that exchange facts with the broker."""

    transcript_consumer: type[TranscriptConsumer]
    relay: type[Relay]


async def start(
    life: lifecycle.Lifecycle,
    settings: Settings,
    *,
    transcript_consumer: type[TranscriptConsumer] = TranscriptConsumer,
    relay: type[Relay] = Relay,
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
    hashing = life.exits.enter_context(passwords(settings))
    cursors = Cursors(key)

    identity = rpc.Identity.of(SERVICE, settings)
    transcribers = await life.exits.enter_async_context(rpc.peer(settings.transcriber_target, identity))
    queue = jobs.Queue(job_rows, outbox_rows, source=SERVICE)

    server = grpc_server(settings.grpc_host, settings.grpc_port, identity)
    keys = IdempotencyKeys(database, idempotency_keys)
    for register, servicer in account_servicers(settings, database, cursors, hashing, keys):
        server.add(register, servicer)
    server.add(
        add_MeetingsServiceServicer_to_server,
        MeetingsApi(MeetingsStore(database, cursors), SegmentsStore(database, cursors), EntriesStore(database), keys),
    )
    server.add(add_TasksServiceServicer_to_server, TasksApi(TasksStore(database, cursors), keys))
    server.add(add_TranscriptsServiceServicer_to_server, TranscriptsApi(EditsStore(database)))
    limits = _upload_limits(settings)
    server.add(add_UploadsServiceServicer_to_server, UploadsApi(UploadsStore(database, queue, limits), keys))
    server.add(*webhook_servicer(settings, database, cursors, queue, keys))
    server.add(add_UsageServiceServicer_to_server, UsageApi(UsageStore(database), utc_now))
    await server.start()

    life.require("database", schema.check)
    # Whether the broker is there makes no difference to reads: what concerns it waits for it in the background.
    workers: list[Worker] = []
    patient = database.patient()
    doors = Doors(
        TranscriberPeer(transcribers, timeout_s=settings.upload_deadline_s),
        life.exits.enter_context(closing(SystemResolver())),
    )
    life.spawn(
        converse(
            settings, patient, schema, cursors, queue, doors, workers, Kinds(transcript_consumer, relay), life.orders
        ),
        "events and jobs",
    )
    life.spawn(Housekeeping(patient, utc_now).run(), "housekeeping")
    life.ready()
    await life.until_stop()

    # What was consumed and not committed stays in the stream, what was not relayed in the outbox.
    await server.retire()
    async with asyncio.TaskGroup() as drains:
        for worker in workers:
            # Nobody waits for an upload to be heard to its end: another replica goes on with it.
            drains.create_task(worker.drain(settings.drain_s / 10))
    await server.stop(settings.drain_s / 2)


def _upload_limits(settings: Settings) -> UploadLimits:
    return UploadLimits(
        uploads_max=settings.uploads_per_account,
        bytes_max=settings.upload_bytes_per_account,
        life_s=settings.upload_life_s,
        attempts_max=settings.upload_attempts_max,
    )


async def converse(  # noqa: PLR0913, PLR0917 - what start has made
    settings: Settings,
    database: postgres.Database,
    schema: Schema,
    cursors: Cursors,
    queue: jobs.Queue,
    doors: Doors,
    workers: list[Worker],
    kinds: Kinds,
    orders: Orders,
) -> None:
    """Exchange facts with the broker and work on jobs for the life of the process; tell which `workers` do."""
    await schema.wait()
    streams = (outbox.EVENTS, jobs.JOBS, DLQ)
    policy = Policy(
        delays_s=settings.upload_retry_delays_s,
        deadline_s=settings.upload_deadline_s,
        concurrency=settings.upload_concurrency,
        ack_wait_s=15.0,
    )
    async with bus.connect(settings.nats_url, name=SERVICE, replicas=settings.nats_replicas) as broker:
        for stream in streams:
            await broker.declared(stream)
        objects = Objects(lambda: broker, BUCKET)
        uploads = UploadJobs(UploadsStore(database, queue, _upload_limits(settings)), doors.files, objects.remove)
        workers.append(Worker(KIND, uploads.handle, database=database, queue=queue, broker=broker, policy=policy))
        workers.append(webhook_worker(settings, database, cursors, queue, broker, doors.resolver))
        deliveries = DeliveriesStore(database, queue, cursors, webhook_rules(settings))
        transcripts = kinds.transcript_consumer(
            TranscriptStore(database), broker, Leadership(database, TRANSCRIPT_LOCK)
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(broker.until_closed())
            controls = Controls(broker, replicas=settings.nats_replicas)
            orders.obey(controls)
            group.create_task(controls.run())
            group.create_task(database.reset_by(controls))
            group.create_task(Pruner(database, PRUNED).run())
            group.create_task(kinds.relay(database, outbox_rows, streams_seen, broker, streams).run())
            group.create_task(transcripts.run())
            digests = DigestsStore(database, live_every_s=settings.digest_live_every_s)
            group.create_task(Digesting(digests, every_s=settings.digest_every_s).run())
            group.create_task(Resting(EditsStore(database), rest_s=settings.edits_rest_s).run())
            group.create_task(InsightsConsumer(TasksStore(database, cursors), broker).run())
            for worker in workers:
                group.create_task(worker.run())
            group.create_task(WebhookConsumer(deliveries, broker).run())
            departures = DepartureConsumer(
                MeetingsStore(database, cursors), TasksStore(database, cursors), RemainsStore(database), broker
            )
            group.create_task(departures.run())


def main() -> None:
    """Do what the command line says."""
    said = commands.parse(sys.argv[1:])
    settings = environment.load(Settings)
    if said.command == "migrate":
        direct = settings.database_direct_url_meetings.get_secret_value()
        migrate(direct or settings.database_url_meetings.get_secret_value(), MIGRATIONS)
    elif said.command == "rebuild-digests":
        commands.rebuild_digests(settings)
    elif said.command is not None:
        commands.change_account(settings, said)
    else:
        lifecycle.run(SERVICE, settings, lambda life: start(life, settings))


if __name__ == "__main__":
    main()
