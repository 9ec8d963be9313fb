"""Start the insights service, or bring its database up to date: `python -m services.insights [migrate]`."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from verbatim.insights.v1 import analytics_pb2_grpc, insights_pb2_grpc, usage_pb2_grpc

from chassis import bus, lifecycle, outbox, postgres, rpc
from chassis.breaker import Breaker, BreakerSettings
from chassis.controls import Controls
from chassis.dead_letters import DLQ
from chassis.jobs import JOBS, Queue
from chassis.migrations import Schema, migrate
from chassis.orders import Orders
from chassis.pool import Limits
from chassis.pruning import Pruner
from chassis.relay import Relay
from chassis.settings import load
from chassis.worker import Policy, Worker
from services.insights import figures_store, store, usage_store
from services.insights.accounts import UsageApi
from services.insights.api import InsightsApi
from services.insights.departures import DepartureConsumer
from services.insights.events import MeetingEvents
from services.insights.figures import AnalyticsApi, FiguresConsumer
from services.insights.language import (
    DEPENDENCY,
    GuardedLanguageModel,
    LanguageModel,
    NoLanguageModel,
    OpenAILanguageModel,
    Reading,
)
from services.insights.settings import Settings
from services.insights.spending import Prices
from services.insights.transcripts import MeetingsTranscripts
from services.insights.writing import HEAL, KIND, Budget, Writer

SERVICE = "insights"
MIGRATIONS = Path(__file__).parent / "migrations"
_STOP_S = 5.0


async def start(life: lifecycle.Lifecycle, settings: Settings) -> None:
    """Connect, work until told to stop, drain."""
    enter = life.exits.enter_async_context
    identity = rpc.Identity.of(SERVICE, settings)
    database = await enter(
        postgres.database(
            settings.database_url_insights.get_secret_value(),
            direct_url=settings.database_direct_url_insights.get_secret_value(),
            limits=Limits.of(settings),
        )
    )
    schema = Schema(database, store.REVISION)
    meetings = await enter(rpc.peer(settings.meetings_target, identity))
    transcripts = MeetingsTranscripts(meetings, segments_max=settings.segments_max)
    queue = Queue(store.JOBS, store.OUTBOX, source=SERVICE)
    model: LanguageModel = NoLanguageModel()
    breaker = Breaker(DEPENDENCY, _breaker_settings(settings), clock=time.monotonic, chance=random.random)
    if settings.language_model_configured:
        model = GuardedLanguageModel(await enter(aclosing(_openai(settings))), breaker)

    server = rpc.Server(settings.grpc_host, settings.grpc_port, identity)
    server.add(
        insights_pb2_grpc.add_InsightsServiceServicer_to_server,
        InsightsApi(database, queue, transcripts, attempts_max=settings.job_attempts_max),
    )
    server.add(analytics_pb2_grpc.add_AnalyticsServiceServicer_to_server, AnalyticsApi(database))
    server.add(
        usage_pb2_grpc.add_UsageServiceServicer_to_server, UsageApi(database, tokens_max=settings.llm_budget_tokens)
    )
    await server.start()

    life.require("database", schema.check)
    # Whether the broker is there makes no difference to reads: what concerns it waits for it in the background.
    workers: list[Worker] = []
    writer = Writer(
        transcripts, model, NoLanguageModel(),
        database=database, queue=queue, heal_attempts_max=settings.heal_attempts_max,
        budget=Budget(settings.llm_budget_tokens, Prices(settings.llm_input_price, settings.llm_output_price)),
    )  # fmt: skip
    conversation = converse(settings, database.patient(), schema, queue, writer, workers, breaker, life.orders)
    life.spawn(conversation, "events and jobs")
    life.ready()

    await life.until_stop()
    await server.retire()
    for worker in workers:
        await worker.drain(max(settings.drain_s - 2 * _STOP_S, 0.0))
    await server.stop(_STOP_S)


async def converse(
    settings: Settings,
    database: postgres.Database,
    schema: Schema,
    queue: Queue,
    writer: Writer,
    workers: list[Worker],
    breaker: Breaker,
    orders: Orders,
) -> None:
    """Exchange facts with the broker and work on jobs for the life of the process; tell which `workers` do."""
    await schema.wait()
    async with bus.connect(settings.nats_url, name=SERVICE, replicas=settings.nats_replicas) as broker:
        for stream in (outbox.EVENTS, JOBS, DLQ):
            await broker.declared(stream)
        attempts_max = settings.job_attempts_max
        policy = Policy(
            delays_s=settings.job_retry_delays_s,
            # Every piece may take its time, and one answer in each may have to be asked for twice.
            deadline_s=settings.llm_timeout_s * 2 * settings.llm_pieces_max + 120.0,
            concurrency=settings.job_concurrency,
        )
        heal_policy = replace(policy, delays_s=settings.heal_retry_delays_s, concurrency=1)
        handlers = [(KIND, writer.handle, policy)]
        if settings.language_model_configured:
            handlers.append((HEAL, writer.heal, heal_policy))
        workers += (
            Worker(kind, handle, database=database, queue=queue, broker=broker, policy=of)
            for kind, handle, of in handlers
        )
        controls = Controls(broker, replicas=settings.nats_replicas)
        controls.watch(breaker.obey)
        orders.obey(controls)
        async with asyncio.TaskGroup() as group:
            group.create_task(broker.until_closed())
            group.create_task(database.reset_by(controls))
            group.create_task(Pruner(database, [*store.PRUNED, *figures_store.PRUNED, *usage_store.PRUNED]).run())
            group.create_task(Relay(database, store.OUTBOX, store.STREAMS, broker, (outbox.EVENTS, JOBS, DLQ)).run())
            group.create_task(MeetingEvents(database, queue, broker, attempts_max=attempts_max).run())
            group.create_task(FiguresConsumer(database, broker).run())
            group.create_task(DepartureConsumer(database, broker).run())
            group.create_task(controls.run())
            for worker in workers:
                group.create_task(worker.run())
            await asyncio.Event().wait()  # workers that were told to stop end; the rest goes on until the process does


def _breaker_settings(settings: Settings) -> BreakerSettings:
    return BreakerSettings(
        failures_in_row=settings.llm_breaker_failures,
        open_s=settings.llm_breaker_open_s,
        slow_s=settings.llm_timeout_s,
        window_s=300.0,  # minutes are rare
        probes=1,
        probes_needed=1,
    )


def _openai(settings: Settings) -> OpenAILanguageModel:
    return OpenAILanguageModel(
        api_key=settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url or None,
        model=settings.llm_model,
        timeout_s=settings.llm_timeout_s,
        reading=Reading(settings.llm_context_tokens, settings.llm_answer_tokens, settings.llm_pieces_max),
    )


def main(arguments: list[str]) -> None:
    """Run the service or one of its commands."""
    settings = load(Settings)
    match arguments:
        case []:
            lifecycle.run(SERVICE, settings, lambda life: start(life, settings))
        case ["migrate"]:
            direct = settings.database_direct_url_insights.get_secret_value()
            migrate(direct or settings.database_url_insights.get_secret_value(), MIGRATIONS)
        case _:
            sys.stderr.write("usage: python -m services.insights [migrate]\n")
            raise SystemExit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
