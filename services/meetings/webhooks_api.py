"""Calls about webhooks come in: parse, call, answer."""

from __future__ import annotations

from typing import Any

from verbatim.meetings.v1 import webhooks_pb2 as pb

from chassis.idempotency import Claim, IdempotencyKeys
from chassis.jobs import Status
from services.meetings.checks import Checks, known_id
from services.meetings.deliveries_store import DeliveriesStore, Delivery
from services.meetings.messages import given, id_of, stamp
from services.meetings.paging import page_size
from services.meetings.webhooks import Secrets, Webhook, new_webhook, webhook_change
from services.meetings.webhooks_store import WebhooksStore


class WebhooksApi:
    """verbatim.meetings.v1.WebhooksService."""

    def __init__(
        self, store: WebhooksStore, deliveries: DeliveriesStore, secrets: Secrets, keys: IdempotencyKeys
    ) -> None:
        self._store = store
        self._deliveries = deliveries
        self._secrets = secrets
        self._keys = keys

    async def CreateWebhook(self, request: pb.CreateWebhookRequest, _: Any) -> pb.CreateWebhookResponse:  # noqa: N802
        new = new_webhook(
            request.webhook_id,
            request.owner_id,
            url=request.url,
            events=request.events,
            description=request.description,
            rules=self._store.rules,
        )
        kept = await self._keys.once(
            "create webhook",
            Claim.of(request),
            self._store.creation(new),
            lambda webhook: pb.CreateWebhookResponse(webhook=_webhook(webhook)),
            pb.CreateWebhookResponse,
        )
        kept.answer.replayed = kept.replayed
        # Not in the answer that is kept: it follows from the id.
        kept.answer.secret = self._secrets.text(kept.answer.webhook.id, 1)
        return kept.answer

    async def GetWebhook(self, request: pb.GetWebhookRequest, _: Any) -> pb.GetWebhookResponse:  # noqa: N802
        return pb.GetWebhookResponse(webhook=_webhook(await self._store.get(*_named(request))))

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, _: Any) -> pb.ListWebhooksResponse:  # noqa: N802
        page = await self._store.list(id_of(request, "owner_id"), page_size(request.limit), request.cursor)
        return pb.ListWebhooksResponse(webhooks=map(_webhook, page.items), next_cursor=page.next_cursor)

    async def UpdateWebhook(self, request: pb.UpdateWebhookRequest, _: Any) -> pb.UpdateWebhookResponse:  # noqa: N802
        change = webhook_change(
            url=given(request, "url"),
            events=request.events.names if request.HasField("events") else None,
            description=given(request, "description"),
            enabled=given(request, "enabled"),
            rules=self._store.rules,
        )
        changed = await self._store.update(*_named(request), request.expected_version, change)
        return pb.UpdateWebhookResponse(webhook=_webhook(changed))

    async def DeleteWebhook(self, request: pb.DeleteWebhookRequest, _: Any) -> pb.DeleteWebhookResponse:  # noqa: N802
        await self._store.delete(*_named(request), request.expected_version)
        return pb.DeleteWebhookResponse()

    async def RotateWebhookSecret(  # noqa: N802
        self, request: pb.RotateWebhookSecretRequest, _: Any
    ) -> pb.RotateWebhookSecretResponse:
        rotated = await self._store.rotate(*_named(request), request.expected_version)
        return pb.RotateWebhookSecretResponse(
            webhook=_webhook(rotated),
            secret=self._secrets.text(rotated.id, rotated.secret_number),
            previous_until=stamp(rotated.previous_until),
        )

    async def TestWebhook(self, request: pb.TestWebhookRequest, _: Any) -> pb.TestWebhookResponse:  # noqa: N802
        return pb.TestWebhookResponse(delivery=_delivery(await self._deliveries.test(*_named(request))))

    async def ListDeliveries(self, request: pb.ListDeliveriesRequest, _: Any) -> pb.ListDeliveriesResponse:  # noqa: N802
        checks = Checks()
        status = checks.choice("status", request.status, tuple(Status)) if request.status else ""
        checks.done()
        page = await self._deliveries.list(*_named(request), status, page_size(request.limit), request.cursor)
        return pb.ListDeliveriesResponse(deliveries=map(_delivery, page.items), next_cursor=page.next_cursor)

    async def Redeliver(self, request: pb.RedeliverRequest, _: Any) -> pb.RedeliverResponse:  # noqa: N802
        delivery_id = known_id(request.delivery_id, "delivery")
        return pb.RedeliverResponse(delivery=_delivery(await self._deliveries.redeliver(*_named(request), delivery_id)))


def _named(request: Any) -> tuple[str, str]:
    return id_of(request, "owner_id"), known_id(request.webhook_id, "webhook")


def _webhook(w: Webhook) -> pb.Webhook:
    return pb.Webhook(
        id=w.id, url=w.url, events=w.events, description=w.description, enabled=w.enabled,
        disabled_reason=w.disabled_reason, disabled_at=stamp(w.disabled_at), failures=w.failures, version=w.version,
        created_at=stamp(w.created_at), updated_at=stamp(w.updated_at),
    )  # fmt: skip


def _delivery(d: Delivery) -> pb.Delivery:
    return pb.Delivery(
        id=d.id, webhook_id=d.webhook_id, event=d.event, meeting_id=d.meeting_id or "", status=d.status,
        attempts=d.attempts, max_attempts=d.attempts_max, response_status=d.response_status, error=d.error,
        job_id=d.job_id, created_at=stamp(d.created_at), attempted_at=stamp(d.attempted_at),
        delivered_at=stamp(d.delivered_at),
    )  # fmt: skip
