"""Start the meetings service, or do one of its commands (`commands.py`)."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from pathlib import Path

from verbatim.meetings.v1.accounts_pb2_grpc import add_AccountsServiceServicer_to_server
from verbatim.meetings.v1.api_keys_pb2_grpc import add_ApiKeysServiceServicer_to_server
from verbatim.meetings.v1.logins_pb2_grpc import add_LoginsServiceServicer_to_server
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
from services.meetings import commands
from services.meetings.accounts_api import AccountsApi, ApiKeysApi, LoginsApi
from services.meetings.accounts_store import AccountsStore
from services.meetings.api import MeetingsApi, TasksApi
from services.meetings.api_keys_store import ApiKeysStore
from services.meetings.departures import DepartureConsumer
from services.meetings.devices import Devices
from services.meetings.entries_store import EntriesStore
from services.meetings.events import TRANSCRIPT_LOCK, InsightsConsumer, TranscriptConsumer
from services.meetings.guards import Rules, Slowing, Window
from services.meetings.guards_store import Guards
from services.meetings.housekeeping import Housekeeping
from services.meetings.leadership import Leadership
from services.meetings.login import Login, utc_now
from services.meetings.logins_store import Lives, LoginsStore
from services.meetings.meetings_store import MeetingsStore
from services.meetings.paging import Cursors
from services.meetings.passwords import Passwords, passwords
from services.meetings.segments_store import SegmentsStore
from services.meetings.settings import Settings
from services.meetings.store import PRUNED, REVISION, outbox_rows, streams_seen
from services.meetings.tasks_store import TasksStore
from services.meetings.tokens import AccessTokens, RefreshTokens, derived
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
    _serve_accounts(server, settings, database, cursors, hashing)
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


def _serve_accounts(
    server: rpc.Server, settings: Settings, database: postgres.Database, cursors: Cursors, hashing: Passwords
) -> None:
    key = settings.service_auth_key.get_secret_value()
    accounts = AccountsStore(database, cursors)
    logins = LoginsStore(
        database,
        Lives(
            refresh=dt.timedelta(seconds=settings.refresh_token_life_s),
            login=dt.timedelta(seconds=settings.login_life_s),
            grace=dt.timedelta(seconds=settings.refresh_grace_s),
        ),
    )
    devices = Devices(derived(key, "devices"), utc_now)
    guards = Guards(database, _rules(settings), derived(key, "tries"), devices, utc_now)
    signing = AccessTokens(settings.auth_private_key.get_secret_value(), settings.access_token_life_s)
    renewing = RefreshTokens(derived(key, "refresh tokens"))
    login = Login(accounts, logins, hashing, guards, signing, renewing, registration_open=settings.registration_open)
    server.add(add_AccountsServiceServicer_to_server, AccountsApi(login, accounts, utc_now))
    server.add(add_ApiKeysServiceServicer_to_server, ApiKeysApi(ApiKeysStore(database, cursors), accounts, utc_now))
    server.add(add_LoginsServiceServicer_to_server, LoginsApi(logins, database, utc_now))


def _rules(settings: Settings) -> Rules:
    quarter, hour = dt.timedelta(minutes=15), dt.timedelta(hours=1)
    return Rules(
        address=Window(settings.login_tries, quarter),
        pair=Slowing(
            settings.login_tries,
            first=dt.timedelta(seconds=settings.login_pause_s),
            longest=dt.timedelta(seconds=settings.login_pause_max_s),
        ),
        account=Window(settings.login_tries_of_account, quarter),
        device=Window(settings.login_tries, quarter),
        registration=Window(settings.registrations_per_hour, hour),
        guess=Window(settings.login_tries, quarter),
    )


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
        for stream in (outbox.EVENTS, DLQ):
            await broker.declared(stream)
        transcripts = transcript_consumer(TranscriptStore(database), broker, Leadership(database, TRANSCRIPT_LOCK))
        async with asyncio.TaskGroup() as group:
            group.create_task(broker.until_closed())
            controls = Controls(broker, replicas=settings.nats_replicas)
            group.create_task(controls.run())
            group.create_task(database.reset_by(controls))
            group.create_task(Pruner(database, PRUNED).run())
            group.create_task(Relay(database, outbox_rows, streams_seen, broker, (outbox.EVENTS, DLQ)).run())
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
