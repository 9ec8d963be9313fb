"""Webhooks from making one to what its receiver gets: signed, tried again, given up, disabled, sent once more."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.message import Message
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError
from verbatim.idempotency.v1.claim_pb2 import Claim
from verbatim.insights.v1.insights_pb2 import ActionItem, InsightsReady
from verbatim.meetings.v1 import webhooks_pb2 as pb
from verbatim.meetings.v1.events_pb2 import MeetingCompleted

from chassis import bus, ids, outbox
from chassis.bus import Bus
from chassis.dead_letters import DLQ, DeadLetters
from chassis.errors import AppError, Kind
from chassis.idempotency import IdempotencyKeys
from chassis.jobs import JOBS, Queue
from chassis.outbox import EVENTS
from chassis.poison import GuardSettings
from chassis.postgres import Database
from chassis.relay import Relay
from chassis.tests.servers import NatsServer
from chassis.worker import Policy, Worker
from services.meetings.accounts_store import AccountsStore
from services.meetings.deliveries_store import CONSUMER, DeliveriesStore
from services.meetings.meetings import new_meeting
from services.meetings.meetings_store import MeetingsStore
from services.meetings.paging import Cursors
from services.meetings.posting import Poster, SystemResolver
from services.meetings.store import SOURCE, idempotency_keys, inbox_rows, outbox_rows, streams_seen
from services.meetings.targets import Reach
from services.meetings.tests.receiver import Receiver, receiving
from services.meetings.upload_tables import job_rows
from services.meetings.webhook_events import WebhookConsumer
from services.meetings.webhook_jobs import WebhookJobs
from services.meetings.webhook_tables import deliveries
from services.meetings.webhooks import KIND, Secrets, WebhookRules
from services.meetings.webhooks_api import WebhooksApi
from services.meetings.webhooks_store import WebhooksStore

pytestmark = pytest.mark.req("R-API-7")

STREAMS = (EVENTS, JOBS, DLQ)
LOOPBACK = Reach([ipaddress.ip_network("127.0.0.0/8")])
RULES = WebhookRules(most=3, failures_max=2, allow_http=True, reach=LOOPBACK)
QUICK = Policy(
    delays_s=(0.05, 0.1),
    deadline_s=20.0,
    concurrency=8,
    ack_wait_s=2.0,
    undecided_delay_s=0.1,
    guard=GuardSettings(share=1.0),
)
SECRETS = Secrets(b"a key of the tests")


class Told:
    """Webhooks of one account, with everything that delivers running."""

    def __init__(self, database: Database, cursors: Cursors, owner: str, broker: Bus | None) -> None:
        self.queue = Queue(job_rows, outbox_rows, source=SOURCE)
        self.store = WebhooksStore(database, cursors, RULES)
        self.deliveries = DeliveriesStore(database, self.queue, cursors, RULES)
        keys = IdempotencyKeys(database, idempotency_keys)
        self.api = WebhooksApi(self.store, self.deliveries, SECRETS, keys)
        self.owner, self.database = owner, database
        self._broker = broker

    @property
    def broker(self) -> Bus:
        assert self._broker is not None
        return self._broker

    async def new(self, url: str, *events: str) -> pb.CreateWebhookResponse:
        request = pb.CreateWebhookRequest(
            owner_id=self.owner, webhook_id=ids.new_id(), url=url, events=events, description="ours"
        )
        return await self.api.CreateWebhook(request, None)

    async def get(self, webhook_id: str) -> pb.Webhook:
        request = pb.GetWebhookRequest(owner_id=self.owner, webhook_id=webhook_id)
        return (await self.api.GetWebhook(request, None)).webhook

    async def sent(self, webhook_id: str, status: str = "") -> list[pb.Delivery]:
        request = pb.ListDeliveriesRequest(owner_id=self.owner, webhook_id=webhook_id, status=status)
        return list((await self.api.ListDeliveries(request, None)).deliveries)

    async def until(self, webhook_id: str, *statuses: str) -> list[pb.Delivery]:
        """Wait until the deliveries of a webhook, the oldest first, are in these states."""
        async with asyncio.timeout(60):
            while True:
                found = (await self.sent(webhook_id))[::-1]
                if [one.status for one in found] == list(statuses):
                    return found
                await asyncio.sleep(0.05)

    async def until_heard(self, count: int) -> None:
        """Wait until so many events have had their effect."""
        heard = sa.select(sa.func.count()).select_from(inbox_rows).where(inbox_rows.c.consumer == CONSUMER)
        async with asyncio.timeout(60):
            while True:
                async with self.database.engine.begin() as connection:
                    if (await connection.execute(heard)).scalar_one() == count:
                        return
                await asyncio.sleep(0.05)

    async def happens(self, *facts: tuple[str, Message]) -> None:
        """Let events leave by the outbox, as they do."""
        events = [outbox.event(subject, fact.SerializeToString()) for subject, fact in facts]

        async def work(connection: Any) -> None:
            await outbox.put(connection, outbox_rows, events, source=SOURCE)

        await self.database.run("test", work)

    def completed(self, meeting_id: str = "") -> tuple[str, Message]:
        fact = MeetingCompleted(
            meeting_id=meeting_id or ids.new_id(), owner_id=self.owner, language="en", day="2026-11-27"
        )
        return "events.meeting.completed", fact


@pytest.fixture
async def account(accounts: AccountsStore) -> str:
    return (await accounts.add(ids.new_id(), "ann@example.com", "ann", "hash")).id


@pytest.fixture
def quiet(database: Database, cursors: Cursors, account: str) -> Told:
    """Webhooks to which nobody delivers."""
    return Told(database.patient(), cursors, account, None)


@asynccontextmanager
async def delivering(told: Told, clock: Callable[[], dt.datetime]) -> AsyncIterator[Worker]:
    """Run what delivers."""
    resolver = SystemResolver()
    poster = Poster(resolver, LOOPBACK, timeout_s=5.0)
    jobs = WebhookJobs(told.deliveries, poster, SECRETS, clock, allow_http=True)
    worker = Worker(
        KIND, jobs.handle, database=told.database, queue=told.queue, broker=told.broker, policy=QUICK
    )  # fmt: skip
    relay = Relay(told.database, outbox_rows, streams_seen, told.broker, STREAMS)
    consumer = WebhookConsumer(told.deliveries, told.broker)
    running = [asyncio.create_task(one.run()) for one in (relay, consumer, worker)]
    try:
        yield worker
    finally:
        await worker.drain(5.0)
        for one in running:
            one.cancel()
        await asyncio.wait(running)
        resolver.close()


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@pytest.fixture
async def told(database: Database, cursors: Cursors, account: str, nats_server: NatsServer) -> AsyncIterator[Told]:
    """Webhooks to which is delivered."""
    async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
        for stream in STREAMS:
            await broker.declare(stream)
        made = Told(database, cursors, account, broker)
        async with delivering(made, utc_now):
            yield made


async def refusal(call: Awaitable[object]) -> AppError:
    with pytest.raises(AppError) as caught:
        await call
    return caught.value


# -- what is kept ------------------------------------------------------------------------------------------------------


async def test_a_webhook_is_made_read_changed_and_deleted(quiet: Told) -> None:
    made = await quiet.new("http://127.0.0.1:9000/hook")
    hook = made.webhook
    assert list(hook.events) == ["meeting.completed", "meeting.healed", "insights.ready"]
    assert (hook.enabled, hook.version, hook.failures) == (True, 1, 0)
    assert made.secret.startswith("whsec_")
    assert await quiet.get(hook.id) == hook
    change = pb.UpdateWebhookRequest(
        owner_id=quiet.owner, webhook_id=hook.id, expected_version=1, enabled=False,
        events=pb.Events(names=["insights.ready"]),
    )  # fmt: skip
    changed = (await quiet.api.UpdateWebhook(change, None)).webhook
    assert (list(changed.events), changed.enabled, changed.version) == (["insights.ready"], False, 2)
    assert changed.HasField("disabled_at")
    late = await refusal(quiet.api.UpdateWebhook(change, None))
    assert (late.kind, late.version) == (Kind.PRECONDITION_FAILED, 2)
    gone = pb.DeleteWebhookRequest(owner_id=quiet.owner, webhook_id=hook.id, expected_version=2)
    await quiet.api.DeleteWebhook(gone, None)
    assert (await refusal(quiet.get(hook.id))).kind is Kind.NOT_FOUND


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("url", {"url": "https://10.0.0.1/"}),
        ("url", {"url": "https://169.254.169.254/latest/meta-data"}),
        ("url", {"url": "https://[::1]/"}),
        ("url", {"url": "https://ann:secret@example.com/"}),
        ("url", {"url": "ftp://example.com/"}),
        ("events", {"url": "https://example.com/", "events": ["meeting.dreamt"]}),
        ("description", {"url": "https://example.com/", "description": "x" * 201}),
    ],
)
async def test_what_does_not_hold_is_refused_by_field(quiet: Told, field: str, said: dict[str, Any]) -> None:
    request = pb.CreateWebhookRequest(owner_id=quiet.owner, webhook_id=ids.new_id(), **said)
    fault = await refusal(quiet.api.CreateWebhook(request, None))
    assert [one.field for one in fault.details] == [field]
    assert "secret" not in str(fault.body(""))


async def test_an_account_has_so_many_and_no_more_even_at_once(quiet: Told) -> None:
    made = await asyncio.gather(
        *(quiet.new(f"https://example.com/{number}") for number in range(8)), return_exceptions=True
    )
    refused = [one for one in made if isinstance(one, AppError)]
    assert (len(made) - len(refused), {one.kind for one in refused}) == (RULES.most, {Kind.CONFLICT})


async def test_what_is_anothers_is_not_there(quiet: Told) -> None:
    hook, stranger = (await quiet.new("https://example.com/")).webhook, ids.new_id()
    named: dict[str, Any] = {"owner_id": stranger, "webhook_id": hook.id}
    calls = (
        quiet.api.GetWebhook(pb.GetWebhookRequest(**named), None),
        quiet.api.UpdateWebhook(pb.UpdateWebhookRequest(**named, expected_version=1, enabled=False), None),
        quiet.api.DeleteWebhook(pb.DeleteWebhookRequest(**named, expected_version=1), None),
        quiet.api.RotateWebhookSecret(pb.RotateWebhookSecretRequest(**named, expected_version=1), None),
        quiet.api.TestWebhook(pb.TestWebhookRequest(**named), None),
        quiet.api.ListDeliveries(pb.ListDeliveriesRequest(**named), None),
        quiet.api.Redeliver(pb.RedeliverRequest(**named, delivery_id=ids.new_id()), None),
    )
    for call in calls:
        assert (await refusal(call)).kind is Kind.NOT_FOUND
    assert not (await quiet.api.ListWebhooks(pb.ListWebhooksRequest(owner_id=stranger), None)).webhooks


async def test_a_secret_is_shown_twice_to_the_same_call_and_stored_nowhere(quiet: Told, database: Database) -> None:
    request = pb.CreateWebhookRequest(
        owner_id=quiet.owner, webhook_id=ids.new_id(), url="https://example.com/",
        claim=Claim(key="k", fingerprint=b"f"),
    )  # fmt: skip
    first = await quiet.api.CreateWebhook(request, None)
    again = await quiet.api.CreateWebhook(request, None)
    assert (again.secret, again.replayed, again.webhook.id) == (first.secret, True, first.webhook.id)
    raw = first.secret.removeprefix("whsec_")
    async with database.engine.begin() as connection:
        tables = sa.text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        for name in list((await connection.execute(tables)).scalars()):
            rows = (await connection.execute(sa.text(f'SELECT t::text FROM "{name}" t'))).scalars()  # noqa: S608
            for row in rows:
                assert raw not in row
                # bytea is written in hexadecimal
                assert raw.encode().hex() not in row


async def test_fifty_change_a_webhook_at_once_and_one_wins(quiet: Told) -> None:
    hook = (await quiet.new("https://example.com/")).webhook
    for version in (1, 2, 3):
        calls = [
            quiet.api.UpdateWebhook(
                pb.UpdateWebhookRequest(
                    owner_id=quiet.owner, webhook_id=hook.id, expected_version=version, description=f"{version}/{one}"
                ),
                None,
            )
            for one in range(50)
        ]
        done = await asyncio.gather(*calls, return_exceptions=True)
        lost = [one for one in done if isinstance(one, AppError)]
        assert len(lost) == 49
        assert {(one.kind, one.version) for one in lost} == {(Kind.PRECONDITION_FAILED, version + 1)}


# -- what is sent ------------------------------------------------------------------------------------------------------


async def test_finished_transcripts_and_insights_are_told_signed_to_those_who_want_them(told: Told) -> None:
    meeting = ids.new_id()
    async with receiving(Receiver()) as everything, receiving(Receiver()) as minutes:
        all_, some = await told.new(everything.url()), await told.new(minutes.url(), "insights.ready")
        ready = InsightsReady(
            meeting_id=meeting, owner_id=told.owner, quality="final", version=3, action_items=[ActionItem(text="Send")]
        )
        await told.happens(told.completed(meeting), ("events.insights.ready", ready))
        await everything.until(2)
        await minutes.until(1)
        await told.until(all_.webhook.id, "completed", "completed")
        [sent] = await told.until(some.webhook.id, "completed")
    bodies = {}
    for one in everything.got:
        body = Verifier(all_.secret).verify(one.body, one.headers)
        bodies[body["type"]] = body["data"]
        assert dt.datetime.fromisoformat(body["timestamp"]).tzinfo is not None
        assert one.headers["Content-Type"] == "application/json"
        with pytest.raises(WebhookVerificationError):
            Verifier(some.secret).verify(one.body, one.headers)
        with pytest.raises(WebhookVerificationError):
            Verifier(all_.secret).verify(one.body + b" ", one.headers)
    assert bodies == {
        "meeting.completed": {"meeting_id": meeting, "language": "en", "day": "2026-11-27"},
        # What was said is asked for with a credential.
        "insights.ready": {"meeting_id": meeting, "quality": "final", "version": 3, "action_items": 1},
    }
    assert (sent.id, sent.response_status, sent.attempts, sent.event) == (minutes.got[0].id, 204, 1, "insights.ready")


async def test_an_event_that_comes_twice_is_told_once(told: Told) -> None:
    async with receiving(Receiver()) as receiver:
        hook = (await told.new(receiver.url())).webhook
        subject, fact = told.completed()
        for message_id in ("a", "b"):  # the broker takes them for two
            headers = {"ce-id": "one event", "Nats-Msg-Id": message_id}
            await told.broker.js.publish(subject, fact.SerializeToString(), headers=headers)
        await told.happens(told.completed())
        await told.until(hook.id, "completed", "completed")
    assert len(receiver.got) == 2


async def test_a_delivery_that_fails_is_tried_again_under_the_same_id(told: Told) -> None:
    async with receiving(Receiver(statuses=[500, 302], headers={"Location": "/elsewhere"})) as receiver:
        hook = await told.new(receiver.url())
        await told.happens(told.completed())
        [sent] = await told.until(hook.webhook.id, "completed")
    assert (sent.attempts, len(receiver.got), receiver.ids()) == (3, 3, {sent.id})
    assert {one.path for one in receiver.got} == {"/hook"}
    assert len({one.body for one in receiver.got}) == 1
    for one in receiver.got:
        Verifier(hook.secret).verify(one.body, one.headers)


async def test_one_that_keeps_failing_is_given_up_disabled_and_replayed_when_it_is_mended(told: Told) -> None:
    letters = DeadLetters(lambda: told.broker)
    async with receiving(Receiver(status=503, headers={"Retry-After": "0"})) as receiver:
        hook = await told.new(receiver.url())
        webhook_id, secret = hook.webhook.id, hook.secret
        await told.happens(told.completed())
        [dead] = await told.until(webhook_id, "dead")
        assert (dead.attempts, dead.response_status, dead.error) == (3, 503, "It answered 503.")
        assert ((await told.get(webhook_id)).failures, (await told.get(webhook_id)).enabled) == (1, True)
        await told.happens(told.completed())
        await told.until(webhook_id, "dead", "dead")
        disabled = await told.get(webhook_id)
        assert (disabled.enabled, disabled.failures, disabled.version) == (False, 2, 2)
        assert disabled.disabled_reason == "2 deliveries in a row were given up. The last: It answered 503."

        # Nothing is told to it from now on; its owner may see whether it is mended.
        await told.happens(told.completed())
        await told.until_heard(3)
        receiver.status = 200
        test = await told.api.TestWebhook(pb.TestWebhookRequest(owner_id=told.owner, webhook_id=webhook_id), None)
        await told.until(webhook_id, "dead", "dead", "completed")
        assert json.loads(receiver.got[-1].body)["type"] == "webhook.test"
        assert receiver.got[-1].id == test.delivery.id
        change = pb.UpdateWebhookRequest(owner_id=told.owner, webhook_id=webhook_id, expected_version=2, enabled=True)
        enabled = (await told.api.UpdateWebhook(change, None)).webhook
        assert (enabled.enabled, enabled.failures, enabled.disabled_reason) == (True, 0, "")

        # An operator sends the first one again, the owner the other.
        found, _ = await letters.list(kind=KIND)
        [letter] = [one for one in found if one.about["key"] == dead.id]
        assert [one["error"] for one in letter.history] == ["It answered 503."] * 3
        assert secret.removeprefix("whsec_") not in str(found)
        await letters.retry(letter, who="test")
        [other] = [one for one in await told.sent(webhook_id, "dead") if one.id != dead.id]
        again = pb.RedeliverRequest(owner_id=told.owner, webhook_id=webhook_id, delivery_id=other.id)
        await told.api.Redeliver(again, None)
        await told.until(webhook_id, "completed", "completed", "completed")
    assert len(receiver.ids()) == 3


async def test_one_that_says_that_it_is_gone_is_not_asked_again(told: Told) -> None:
    async with receiving(Receiver(status=410)) as receiver:
        hook = (await told.new(receiver.url())).webhook
        await told.happens(told.completed())
        await told.until(hook.id, "dead")
        found = await told.get(hook.id)
    assert (len(receiver.got), found.enabled, found.disabled_reason) == (1, False, "It answered 410.")


async def test_both_secrets_sign_for_a_while_after_a_rotation(told: Told) -> None:
    async with receiving(Receiver()) as receiver:
        hook = await told.new(receiver.url())
        turn = pb.RotateWebhookSecretRequest(owner_id=told.owner, webhook_id=hook.webhook.id, expected_version=1)
        turned = await told.api.RotateWebhookSecret(turn, None)
        assert turned.secret != hook.secret
        assert (await refusal(told.api.RotateWebhookSecret(turn, None))).version == 2
        await told.happens(told.completed())
        await receiver.until(1)
    [one] = receiver.got
    for secret in (hook.secret, turned.secret):
        Verifier(secret).verify(one.body, one.headers)
    later = await told.store.get(told.owner, hook.webhook.id)
    signed = SECRETS.signatures(later, "id", utc_now() + RULES.overlap + dt.timedelta(seconds=1), b"{}")
    assert signed.count("v1,") == 1


async def test_what_is_told_of_a_meeting_goes_with_it_and_what_comes_late_is_not_told(
    told: Told, meetings: MeetingsStore, database: Database
) -> None:
    meeting_id = ids.new_id()
    await meetings.create(new_meeting(meeting_id, told.owner, title="Plan", language="", participants=()))
    async with receiving(Receiver()) as receiver:
        hook = (await told.new(receiver.url())).webhook
        await told.happens(told.completed(meeting_id))
        await told.until(hook.id, "completed")
        await meetings.delete(told.owner, meeting_id, 1)
        assert await told.sent(hook.id) == []
        await told.happens(told.completed(meeting_id), told.completed())
        await told.until_heard(3)
        await told.until(hook.id, "completed")
    async with database.engine.begin() as connection:
        kept = sa.select(sa.func.count()).select_from(job_rows).where(job_rows.c.kind == KIND)
        assert (await connection.execute(kept)).scalar_one() == 1
        left = sa.select(sa.func.count()).select_from(deliveries)
        assert (await connection.execute(left)).scalar_one() == 1
