"""`/api/webhooks`: whom an account wants told of what."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, StringConstraints
from verbatim.meetings.v1 import webhooks_pb2 as pb
from verbatim.meetings.v1.webhooks_pb2_grpc import WebhooksServiceStub

from chassis import ids
from chassis.errors import Kind
from chassis.rpc import Peer
from services.gateway.auth import Who
from services.gateway.errors import BODY, CHANGE, READ, documented
from services.gateway.resources import (
    ETAG,
    REPLAYED,
    Claimed,
    ExpectedVersion,
    Id,
    Page,
    Paging,
    Sent,
    Words,
    fields_sent,
    moment,
    tag,
    tag_replayed,
)

EventName = Literal["meeting.completed", "meeting.healed", "insights.ready"]
Status = Literal["pending", "running", "retry", "completed", "failed", "dead"]
Url = Annotated[
    str,
    StringConstraints(pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://[\x21-\x7e]+$", max_length=2000),
    Field(description="Where to post to, over https.", examples=["https://hooks.example.org/mine"]),
]
Events = Annotated[
    list[EventName], Field(min_length=1, max_length=3, description="Of what it is told.", examples=[["insights.ready"]])
]
_ALL: list[EventName] = ["meeting.completed", "meeting.healed", "insights.ready"]


class NewWebhook(Sent):
    """A webhook to make."""

    url: Url
    events: Events = _ALL
    description: Words = ""


class WebhookChange(Sent):
    """What to change; fields that are not sent stay. To enable one that was disabled forgets its failures."""

    url: Url = "https://hooks.example.org/mine"
    events: Events = _ALL
    description: Words = ""
    enabled: bool = True


class Webhook(BaseModel):
    """A webhook, without its secret."""

    id: str
    url: str
    events: list[str]
    description: str
    enabled: bool
    disabled_reason: str | None = Field(description="Why, if it was not you who disabled it.")
    disabled_at: datetime | None
    failures: int = Field(description="Deliveries given up since the last that went well.")
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, webhook: pb.Webhook) -> Webhook:
        return cls(**_fields(webhook))


class MadeWebhook(Webhook):
    """A webhook with its secret, which is shown this once."""

    secret: str = Field(description="What deliveries are signed with. It cannot be read again.", examples=["whsec_…"])


class RotatedWebhook(MadeWebhook):
    """A webhook with its new secret."""

    previous_until: datetime = Field(description="Until when deliveries are signed with the secret before too.")


class Delivery(BaseModel):
    """One event on its way to a webhook."""

    id: str = Field(description="The `webhook-id`, the same in every attempt.")
    webhook_id: str
    event: str
    meeting_id: str | None
    status: Status = Field(description="`dead`: given up.")
    attempts: int
    max_attempts: int
    response_status: int | None = Field(description="What was answered to the last attempt; null: nothing.")
    error: str | None
    job_id: str
    created_at: datetime
    attempted_at: datetime | None
    delivered_at: datetime | None

    @classmethod
    def of(cls, one: pb.Delivery) -> Delivery:
        return cls(
            id=one.id,
            webhook_id=one.webhook_id,
            event=one.event,
            meeting_id=one.meeting_id or None,
            status=one.status,
            attempts=one.attempts,
            max_attempts=one.max_attempts,
            response_status=one.response_status or None,
            error=one.error or None,
            job_id=one.job_id,
            created_at=moment(one.created_at),
            attempted_at=moment(one.attempted_at) if one.HasField("attempted_at") else None,
            delivered_at=moment(one.delivered_at) if one.HasField("delivered_at") else None,
        )


class DeliveryQuery(Paging):
    """Which deliveries."""

    status: Status | None = None


def routes(meetings: Peer, *, timeout_s: float) -> APIRouter:
    """Return the routes of `/api/webhooks`."""
    router = APIRouter(prefix="/api/webhooks", tags=["webhooks"])
    stub = WebhooksServiceStub(meetings.channel)

    @router.post(
        "", status_code=201, responses={**documented(*BODY, *READ, Kind.CONFLICT), 201: {"headers": ETAG | REPLAYED}}
    )
    async def create_webhook(body: NewWebhook, who: Who, claim: Claimed, response: Response) -> MadeWebhook:
        """Make a webhook. Its secret is shown in this answer only. 409 if the account has too many."""
        request = pb.CreateWebhookRequest(
            owner_id=who.account_id,
            webhook_id=ids.new_id(),
            url=body.url,
            events=body.events,
            description=body.description,
            claim=claim,
        )
        answer = await meetings.call(stub.CreateWebhook, request, timeout_s=timeout_s)
        response.headers["Location"] = f"/api/webhooks/{answer.webhook.id}"
        response.headers["Cache-Control"] = "no-store"
        tag(response, answer.webhook.version)
        tag_replayed(response, answer.replayed)
        return MadeWebhook(**_fields(answer.webhook), secret=answer.secret)

    @router.get("", responses=documented(Kind.UNAUTHORIZED, Kind.VALIDATION_FAILED))
    async def list_webhooks(query: Annotated[Paging, Query()], who: Who) -> Page[Webhook]:
        """List your webhooks, newest first."""
        request = pb.ListWebhooksRequest(owner_id=who.account_id, limit=query.limit, cursor=query.cursor or "")
        answer = await meetings.call(stub.ListWebhooks, request, timeout_s=timeout_s)
        return Page(items=[Webhook.of(one) for one in answer.webhooks], next_cursor=answer.next_cursor or None)

    @router.get("/{webhook_id}", responses={**documented(*READ), 200: {"headers": ETAG}})
    async def get_webhook(webhook_id: Id, who: Who, response: Response) -> Webhook:
        """Read one webhook."""
        request = pb.GetWebhookRequest(owner_id=who.account_id, webhook_id=webhook_id)
        answer = await meetings.call(stub.GetWebhook, request, timeout_s=timeout_s)
        tag(response, answer.webhook.version)
        return Webhook.of(answer.webhook)

    @router.patch("/{webhook_id}", responses={**documented(*BODY, *CHANGE), 200: {"headers": ETAG}})
    async def change_webhook(
        webhook_id: Id, body: WebhookChange, version: ExpectedVersion, who: Who, response: Response
    ) -> Webhook:
        """Change, disable or enable a webhook that nobody has changed since you read it."""
        sent = fields_sent(body)
        request = pb.UpdateWebhookRequest(
            owner_id=who.account_id,
            webhook_id=webhook_id,
            expected_version=version,
            url=body.url if "url" in sent else None,
            events=pb.Events(names=body.events) if "events" in sent else None,
            description=body.description if "description" in sent else None,
            enabled=body.enabled if "enabled" in sent else None,
        )
        answer = await meetings.call(stub.UpdateWebhook, request, timeout_s=timeout_s)
        tag(response, answer.webhook.version)
        return Webhook.of(answer.webhook)

    @router.delete("/{webhook_id}", status_code=204, responses=documented(*CHANGE))
    async def delete_webhook(webhook_id: Id, version: ExpectedVersion, who: Who) -> None:
        """Delete a webhook: nothing is sent to it any more."""
        request = pb.DeleteWebhookRequest(owner_id=who.account_id, webhook_id=webhook_id, expected_version=version)
        await meetings.call(stub.DeleteWebhook, request, timeout_s=timeout_s)

    _add_secret_and_deliveries(router, meetings, timeout_s)
    return router


def _add_secret_and_deliveries(router: APIRouter, meetings: Peer, timeout_s: float) -> None:
    stub = WebhooksServiceStub(meetings.channel)

    @router.post("/{webhook_id}/rotate-secret", responses={**documented(*CHANGE), 200: {"headers": ETAG}})
    async def rotate_secret(webhook_id: Id, version: ExpectedVersion, who: Who, response: Response) -> RotatedWebhook:
        """Give a webhook another secret, shown in this answer only. The one before signs too for a while."""
        request = pb.RotateWebhookSecretRequest(
            owner_id=who.account_id, webhook_id=webhook_id, expected_version=version
        )
        answer = await meetings.call(stub.RotateWebhookSecret, request, timeout_s=timeout_s)
        response.headers["Cache-Control"] = "no-store"
        tag(response, answer.webhook.version)
        until = moment(answer.previous_until)
        return RotatedWebhook(**_fields(answer.webhook), secret=answer.secret, previous_until=until)

    @router.post("/{webhook_id}/test", status_code=202, responses=documented(*READ))
    async def test_webhook(webhook_id: Id, who: Who) -> Delivery:
        """Send a webhook the event `webhook.test`, also if it is disabled; see its deliveries for what came of it."""
        request = pb.TestWebhookRequest(owner_id=who.account_id, webhook_id=webhook_id)
        return Delivery.of((await meetings.call(stub.TestWebhook, request, timeout_s=timeout_s)).delivery)

    @router.get("/{webhook_id}/deliveries", responses=documented(*READ))
    async def list_deliveries(webhook_id: Id, query: Annotated[DeliveryQuery, Query()], who: Who) -> Page[Delivery]:
        """List what was sent to a webhook within the last 30 days, newest first."""
        request = pb.ListDeliveriesRequest(
            owner_id=who.account_id,
            webhook_id=webhook_id,
            status=query.status or "",
            limit=query.limit,
            cursor=query.cursor or "",
        )
        answer = await meetings.call(stub.ListDeliveries, request, timeout_s=timeout_s)
        return Page(items=[Delivery.of(one) for one in answer.deliveries], next_cursor=answer.next_cursor or None)

    @router.post(
        "/{webhook_id}/deliveries/{delivery_id}/redeliver",
        status_code=202,
        responses=documented(*READ, Kind.CONFLICT),
    )
    async def redeliver(webhook_id: Id, delivery_id: Id, who: Who) -> Delivery:
        """Send what was delivered or given up once more, under the same id. 409 while it is under way."""
        request = pb.RedeliverRequest(owner_id=who.account_id, webhook_id=webhook_id, delivery_id=delivery_id)
        return Delivery.of((await meetings.call(stub.Redeliver, request, timeout_s=timeout_s)).delivery)


def _fields(webhook: pb.Webhook) -> dict[str, object]:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": list(webhook.events),
        "description": webhook.description,
        "enabled": webhook.enabled,
        "disabled_reason": webhook.disabled_reason or None,
        "disabled_at": moment(webhook.disabled_at) if webhook.HasField("disabled_at") else None,
        "failures": webhook.failures,
        "version": webhook.version,
        "created_at": moment(webhook.created_at),
        "updated_at": moment(webhook.updated_at),
    }
