"""The parts of webhooks, put together as the settings say: who takes the calls, who delivers."""

from __future__ import annotations

import datetime as dt

from verbatim.meetings.v1.webhooks_pb2_grpc import add_WebhooksServiceServicer_to_server

from chassis.bus import Bus
from chassis.idempotency import IdempotencyKeys
from chassis.jobs import Queue
from chassis.poison import GuardSettings
from chassis.postgres import Database
from chassis.worker import Policy, Worker
from services.meetings.account_servicers import Registered
from services.meetings.deliveries_store import DeliveriesStore
from services.meetings.login import utc_now
from services.meetings.paging import Cursors
from services.meetings.posting import Poster, Resolver
from services.meetings.settings import Settings
from services.meetings.targets import Reach
from services.meetings.tokens import derived
from services.meetings.webhook_jobs import WebhookJobs
from services.meetings.webhooks import KIND, Secrets, WebhookRules
from services.meetings.webhooks_api import WebhooksApi
from services.meetings.webhooks_store import WebhooksStore

# That a stranger's server fails says nothing of us: deliveries to others do not wait for it.
_NO_GUARD = GuardSettings(share=1.0)


def webhook_servicer(
    settings: Settings, database: Database, cursors: Cursors, queue: Queue, keys: IdempotencyKeys
) -> Registered:
    """Return the servicer with the generated function that registers it."""
    rules = webhook_rules(settings)
    deliveries = DeliveriesStore(database, queue, cursors, rules)
    api = WebhooksApi(WebhooksStore(database, cursors, rules), deliveries, _secrets(settings), keys)
    return add_WebhooksServiceServicer_to_server, api


def webhook_worker(
    settings: Settings, database: Database, cursors: Cursors, queue: Queue, broker: Bus, resolver: Resolver
) -> Worker:
    """Return the worker that delivers."""
    rules = webhook_rules(settings)
    poster = Poster(resolver, rules.reach, timeout_s=settings.webhook_timeout_s)
    handler = WebhookJobs(
        DeliveriesStore(database, queue, cursors, rules),
        poster,
        _secrets(settings),
        utc_now,
        allow_http=rules.allow_http,
    )
    policy = Policy(
        delays_s=settings.webhook_retry_delays_s,
        deadline_s=settings.webhook_timeout_s + 10.0,
        concurrency=settings.webhook_concurrency,
        # A delivery takes seconds: that its worker died should not take minutes to be seen.
        ack_wait_s=settings.webhook_timeout_s * 2,
        guard=_NO_GUARD,
    )
    return Worker(KIND, handler.handle, database=database, queue=queue, broker=broker, policy=policy)


def webhook_rules(settings: Settings) -> WebhookRules:
    """Return what the settings allow."""
    return WebhookRules(
        most=settings.webhooks_per_account,
        attempts_max=settings.webhook_attempts_max,
        failures_max=settings.webhook_failures_max,
        overlap=dt.timedelta(seconds=settings.webhook_secret_overlap_s),
        allow_http=settings.webhook_allow_http,
        reach=Reach(settings.webhook_allowed_networks),
    )


def _secrets(settings: Settings) -> Secrets:
    own = settings.webhook_signing_key.get_secret_value()
    return Secrets(derived(own or settings.service_auth_key.get_secret_value(), "webhook secrets"))
