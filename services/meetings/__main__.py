"""Start the meetings service, or bring its database to the newest schema (`migrate`)."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from verbatim.meetings.v1.accounts_pb2_grpc import add_AccountsServiceServicer_to_server
from verbatim.meetings.v1.meetings_pb2_grpc import add_MeetingsServiceServicer_to_server
from verbatim.meetings.v1.tasks_pb2_grpc import add_TasksServiceServicer_to_server

from chassis import bus, lifecycle, outbox, postgres, rpc, telemetry
from chassis import settings as environment
from chassis.controls import Controls
from chassis.dead_letters import DLQ
from chassis.migrations import Schema, migrate
from chassis.pool import Limits
from chassis.pruning import Pruner
from chassis.relay import Relay
from services.meetings.accounts_store import AccountsStore
from services.meetings.api import AccountsApi, MeetingsApi, TasksApi
from services.meetings.entries_store import EntriesStore
from services.meetings.events import TRANSCRIPT_LOCK, InsightsConsumer, TranscriptConsumer
from services.meetings.leadership import Leadership
from services.meetings.login import Login
from services.meetings.meetings_store import MeetingsStore
from services.meetings.paging import Cursors
from services.meetings.passwords import passwords
from services.meetings.segments_store import SegmentsStore
from services.meetings.settings import Settings
from services.meetings.store import PRUNED, REVISION, outbox_rows, streams_seen
from services.meetings.tasks_store import TasksStore
from services.meetings.tokens import AccessTokens
from services.meetings.transcript_store import TranscriptStore

SERVICE = "meetings"
MIGRATIONS = Path(__file__).parent / "migrations"

log = telemetry.logger(__name__)


async def start(life: lifecycle.Lifecycle, settings: Settings) -> None:
    """Live one life: start, ready, drain."""
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
    signing = AccessTokens(settings.auth_private_key.get_secret_value(), settings.access_token_life_s)
    cursors = Cursors(key)
    accounts = AccountsStore(database)
    login = Login(accounts, hashing, signing, refresh_life_s=settings.refresh_token_life_s)

    server = rpc.Server(settings.grpc_host, settings.grpc_port, rpc.Identity(SERVICE, key))
    server.add(add_AccountsServiceServicer_to_server, AccountsApi(login, accounts))
    server.add(
        add_MeetingsServiceServicer_to_server,
        MeetingsApi(MeetingsStore(database, cursors), SegmentsStore(database, cursors), EntriesStore(database)),
    )
    server.add(add_TasksServiceServicer_to_server, TasksApi(TasksStore(database, cursors)))
    await server.start()

    life.require("database", schema.check)
    # Whether the broker is there makes no difference to reads: what concerns it waits for it in the background.
    life.spawn(converse(settings, database.patient(), schema, cursors), "events")
    life.ready()
    await life.until_stop()

    # What was consumed and not committed stays in the stream, what was not relayed in the outbox.
    await server.retire()
    await server.stop(settings.drain_s / 2)


async def converse(settings: Settings, database: postgres.Database, schema: Schema, cursors: Cursors) -> None:
    """Exchange facts with the broker for the life of the process."""
    await schema.wait()
    async with bus.connect(settings.nats_url, name=SERVICE, replicas=settings.nats_replicas) as broker:
        for stream in (outbox.EVENTS, DLQ):
            await broker.declared(stream)
        transcripts = TranscriptConsumer(TranscriptStore(database), broker, Leadership(database, TRANSCRIPT_LOCK))
        async with asyncio.TaskGroup() as group:
            group.create_task(broker.until_closed())
            controls = Controls(broker, replicas=settings.nats_replicas)
            group.create_task(controls.run())
            group.create_task(database.reset_by(controls))
            group.create_task(Pruner(database, PRUNED).run())
            group.create_task(Relay(database, outbox_rows, streams_seen, broker, (outbox.EVENTS, DLQ)).run())
            group.create_task(transcripts.run())
            group.create_task(InsightsConsumer(TasksStore(database, cursors), broker).run())


def main() -> None:
    """Do what the command line says."""
    settings = environment.load(Settings)
    if sys.argv[1:] == ["migrate"]:
        direct = settings.database_direct_url_meetings.get_secret_value()
        migrate(direct or settings.database_url_meetings.get_secret_value(), MIGRATIONS)
    elif sys.argv[1:]:
        raise SystemExit("usage: python -m services.meetings [migrate]")
    else:
        lifecycle.run(SERVICE, settings, lambda life: start(life, settings))


if __name__ == "__main__":
    main()
