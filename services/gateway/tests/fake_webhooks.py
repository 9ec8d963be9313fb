"""Webhooks and usage behind the gateway, as their contracts describe them, with their state in memory."""

# ruff: noqa: N802 - the contracts name the methods

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from verbatim.insights.v1 import usage_pb2 as model_usage_pb2
from verbatim.insights.v1 import usage_pb2_grpc as model_usage_pb2_grpc
from verbatim.meetings.v1 import usage_pb2, usage_pb2_grpc, webhooks_pb2, webhooks_pb2_grpc

from chassis import ids
from chassis.errors import AppError, Kind, Problem
from services.gateway.tests.fake_accounts import NOON, missing


class FakeWebhooks(webhooks_pb2_grpc.WebhooksServiceServicer):
    """Keeps webhooks; each has the deliveries that its owner asked for."""

    def __init__(self) -> None:
        self.webhooks: dict[str, tuple[str, webhooks_pb2.Webhook]] = {}
        self.deliveries: dict[str, webhooks_pb2.Delivery] = {}
        self.secrets: dict[str, int] = {}

    async def CreateWebhook(
        self, request: webhooks_pb2.CreateWebhookRequest, _: Any
    ) -> webhooks_pb2.CreateWebhookResponse:
        if "10.0.0.1" in request.url:
            problem = Problem("url", "leads to an address that is not allowed")
            raise AppError(Kind.VALIDATION_FAILED, "Some fields are not valid.", details=(problem,))
        webhook = webhooks_pb2.Webhook(
            id=request.webhook_id, url=request.url, events=request.events, description=request.description,
            enabled=True, version=1, created_at=NOON, updated_at=NOON,
        )  # fmt: skip
        self.webhooks[webhook.id] = (request.owner_id, webhook)
        return webhooks_pb2.CreateWebhookResponse(webhook=webhook, secret="whsec_1")

    async def GetWebhook(self, request: webhooks_pb2.GetWebhookRequest, _: Any) -> webhooks_pb2.GetWebhookResponse:
        return webhooks_pb2.GetWebhookResponse(webhook=self._own(request))

    async def ListWebhooks(
        self, request: webhooks_pb2.ListWebhooksRequest, _: Any
    ) -> webhooks_pb2.ListWebhooksResponse:
        own = [webhook for owner, webhook in self.webhooks.values() if owner == request.owner_id]
        return webhooks_pb2.ListWebhooksResponse(webhooks=own[: request.limit])

    async def UpdateWebhook(
        self, request: webhooks_pb2.UpdateWebhookRequest, _: Any
    ) -> webhooks_pb2.UpdateWebhookResponse:
        webhook = self._expected(request)
        if request.HasField("events"):
            webhook.events[:] = request.events.names
        for field in ("url", "description", "enabled"):
            if request.HasField(field):
                setattr(webhook, field, getattr(request, field))
        webhook.version += 1
        return webhooks_pb2.UpdateWebhookResponse(webhook=webhook)

    async def DeleteWebhook(
        self, request: webhooks_pb2.DeleteWebhookRequest, _: Any
    ) -> webhooks_pb2.DeleteWebhookResponse:
        del self.webhooks[self._expected(request).id]
        return webhooks_pb2.DeleteWebhookResponse()

    async def RotateWebhookSecret(
        self, request: webhooks_pb2.RotateWebhookSecretRequest, _: Any
    ) -> webhooks_pb2.RotateWebhookSecretResponse:
        webhook = self._expected(request)
        webhook.version += 1
        secret = f"whsec_{webhook.version}"
        return webhooks_pb2.RotateWebhookSecretResponse(webhook=webhook, secret=secret, previous_until=NOON)

    async def TestWebhook(self, request: webhooks_pb2.TestWebhookRequest, _: Any) -> webhooks_pb2.TestWebhookResponse:
        delivery = webhooks_pb2.Delivery(
            id=ids.new_id(), webhook_id=self._own(request).id, event="webhook.test", status="pending", max_attempts=3,
            job_id=ids.new_id(), created_at=NOON,
        )  # fmt: skip
        self.deliveries[delivery.id] = delivery
        return webhooks_pb2.TestWebhookResponse(delivery=delivery)

    async def ListDeliveries(
        self, request: webhooks_pb2.ListDeliveriesRequest, _: Any
    ) -> webhooks_pb2.ListDeliveriesResponse:
        webhook = self._own(request)
        found = [
            one
            for one in self.deliveries.values()
            if one.webhook_id == webhook.id and request.status in {"", one.status}
        ]
        return webhooks_pb2.ListDeliveriesResponse(deliveries=found[: request.limit])

    async def Redeliver(self, request: webhooks_pb2.RedeliverRequest, _: Any) -> webhooks_pb2.RedeliverResponse:
        self._own(request)
        if request.delivery_id not in self.deliveries:
            raise missing()
        delivery = self.deliveries[request.delivery_id]
        if delivery.status == "pending":
            raise AppError(Kind.CONFLICT, "It is under way.")
        delivery.status = "pending"
        return webhooks_pb2.RedeliverResponse(delivery=delivery)

    def _own(self, request: Any) -> webhooks_pb2.Webhook:
        owner, webhook = self.webhooks.get(request.webhook_id, ("", webhooks_pb2.Webhook()))
        if not owner or owner != request.owner_id:
            raise missing()
        return webhook

    def _expected(self, request: Any) -> webhooks_pb2.Webhook:
        webhook = self._own(request)
        if webhook.version != request.expected_version:
            raise AppError(Kind.PRECONDITION_FAILED, "It was changed in the meantime.", version=webhook.version)
        return webhook


class FakeUsage(usage_pb2_grpc.UsageServiceServicer):
    """Says what each account has used. `fault` is raised instead."""

    def __init__(self) -> None:
        self.audio_s: dict[str, float] = {}
        self.end = Timestamp(seconds=4_000_000_000)
        self.fault: AppError | None = None

    async def GetUsage(self, request: usage_pb2.GetUsageRequest, _: Any) -> usage_pb2.GetUsageResponse:
        if self.fault is not None:
            raise self.fault
        used = self.audio_s.get(request.owner_id, 0.0)
        return usage_pb2.GetUsageResponse(period_start=NOON, period_end=self.end, audio_s=used)


class FakeModelUsage(model_usage_pb2_grpc.UsageServiceServicer):
    """Says what each account has spent on language models. `fault` is raised instead."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {}
        self.most = 0
        self.fault: AppError | None = None

    async def GetUsage(self, request: model_usage_pb2.GetUsageRequest, _: Any) -> model_usage_pb2.GetUsageResponse:
        if self.fault is not None:
            raise self.fault
        return model_usage_pb2.GetUsageResponse(tokens=self.tokens.get(request.owner_id, 0), tokens_max=self.most)
