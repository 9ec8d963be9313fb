"""Deliveries while the service is killed again and again: each event is delivered or given up, none is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import TupleRow
from verbatim.meetings.v1 import webhooks_pb2 as pb
from verbatim.meetings.v1.events_pb2 import MeetingCompleted
from verbatim.meetings.v1.webhooks_pb2_grpc import WebhooksServiceStub

from chassis import bus, ids, rpc
from chassis.dead_letters import DLQ, DeadLetters
from chassis.outbox import EVENTS
from chassis.rpc import Identity
from chassis.tests.servers import NatsServer
from services.meetings.accounts_store import AccountsStore
from services.meetings.tests.conftest import KEY
from services.meetings.tests.receiver import Receiver, receiving
from services.meetings.tests.test_main import Service

EVENTS_SENT = 16
KILLS = 1


@pytest.mark.long
@pytest.mark.req("R-API-7", "R-JOB-1", "R-DB-4")
@pytest.mark.timeout(240)
async def test_each_event_is_delivered_or_given_up_however_often_the_service_is_killed(
    database_url: str, nats_server: NatsServer, private_pem: str, tmp_path: Path, accounts: AccountsStore
) -> None:
    owner = (await accounts.add(ids.new_id(), "ann@example.com", "ann", "hash")).id
    service = Service(database_url, nats_server.url, private_pem)
    service.environment |= {
        "WEBHOOK_ALLOW_HTTP": "true",
        "WEBHOOK_ALLOWED_NETWORKS": '["127.0.0.0/8"]',
        "WEBHOOK_RETRY_DELAYS_S": "[0.1, 0.2]",
        "WEBHOOK_TIMEOUT_S": "1",
        "WEBHOOK_FAILURES_MAX": "1000",
    }

    async def counted(hook: str) -> dict[str, int]:
        """Return how many deliveries of a webhook are in which state."""
        query = (
            "SELECT j.status, count(*) FROM webhook_deliveries d JOIN jobs j ON j.id = d.job_id"
            " WHERE d.webhook_id = %s GROUP BY 1"
        )

        def ask() -> list[TupleRow]:
            with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
                return connection.execute(query, (hook,)).fetchall()

        return dict(await asyncio.to_thread(ask))

    # A pause, so that a kill finds deliveries between the answer and the commit.
    good, bad = Receiver(pause_s=0.05), Receiver(status=500)
    async with receiving(good), receiving(bad):
        hooks = {}
        with service.running(tmp_path / "log-0"):
            await service.until_faults({})
            async with rpc.peer(f"127.0.0.1:{service.grpc_port}", Identity("gateway", KEY)) as peer:
                for name, receiver in (("good", good), ("bad", bad)):
                    request = pb.CreateWebhookRequest(owner_id=owner, webhook_id=ids.new_id(), url=receiver.url())
                    made = await peer.call(WebhooksServiceStub(peer.channel).CreateWebhook, request, timeout_s=10)
                    hooks[name] = made.webhook.id
        async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
            for stream in (EVENTS, DLQ):
                await broker.declare(stream)
            for _ in range(EVENTS_SENT):
                fact = MeetingCompleted(meeting_id=ids.new_id(), owner_id=owner, language="en", day="2026-11-28")
                await broker.publish("events.meeting.completed", fact.SerializeToString(), message_id=ids.new_id())
            for kill in range(1, KILLS + 1):
                with service.running(tmp_path / f"log-{kill}"):
                    await good.until(EVENTS_SENT * kill // (KILLS + 1), within_s=60)
            with service.running(tmp_path / "log-last"):
                async with asyncio.timeout(120):
                    while (await counted(hooks["good"]), await counted(hooks["bad"])) != (
                        {"completed": EVENTS_SENT},
                        {"dead": EVENTS_SENT},
                    ):
                        await asyncio.sleep(0.2)
                letters = DeadLetters(lambda: broker)
                async with asyncio.timeout(30):
                    while await letters.count() < EVENTS_SENT:
                        await asyncio.sleep(0.1)
                found, _ = await letters.list(kind="webhook", most=200)
    # Once counted by their ids, as receivers do; some came twice, because their sender died before it noted the answer.
    assert len(good.ids()) == len(bad.ids()) == EVENTS_SENT
    assert len(good.got) >= EVENTS_SENT
    assert len(found) == len({one.about["key"] for one in found}) == EVENTS_SENT
    assert good.ids().isdisjoint(one.about["key"] for one in found)
