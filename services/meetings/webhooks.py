"""Webhooks: whom an account wants told of what, and how that is said and signed (standardwebhooks.com)."""

from __future__ import annotations

import base64
import datetime as dt
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson
from standardwebhooks import Webhook as Signer

from services.meetings.checks import Checks
from services.meetings.targets import Reach, target

KIND = "webhook"
DESCRIPTION_LONGEST = 200


class EventType(StrEnum):
    """What may be told."""

    MEETING_COMPLETED = "meeting.completed"  # every session is closed and stored
    MEETING_HEALED = "meeting.healed"  # no draft is left in the transcript
    INSIGHTS_READY = "insights.ready"  # minutes were made, or made again


TEST = "webhook.test"
"""Of the event that an owner asks for, which tells of nothing."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A place that is told, as it stands in the database."""

    id: str
    owner_id: str
    url: str
    events: tuple[str, ...]
    description: str
    enabled: bool
    disabled_reason: str
    disabled_at: dt.datetime | None
    failures: int
    secret_number: int
    previous_until: dt.datetime | None
    version: int
    created_at: dt.datetime
    updated_at: dt.datetime


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A webhook to make, checked."""

    id: str
    owner_id: str
    url: str
    events: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class WebhookChange:
    """What its owner changes, by column."""

    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WebhookRules:
    """What an installation allows: how many webhooks, tried how often, given up and disabled when, over which ways."""

    most: int = 20
    attempts_max: int = 3
    failures_max: int = 10
    overlap: dt.timedelta = dt.timedelta(days=1)
    allow_http: bool = False
    reach: Reach = field(default_factory=Reach)


def new_webhook(
    webhook_id: str, owner_id: str, *, url: str, events: Sequence[str], description: str, rules: WebhookRules
) -> NewWebhook:
    """Check a webhook to make. Without events it is told of all. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    found = NewWebhook(
        checks.id("webhook_id", webhook_id),
        checks.id("owner_id", owner_id),
        _url(checks, url, rules),
        _events(checks, events) or tuple(EventType),
        checks.line("description", description, longest=DESCRIPTION_LONGEST),
    )
    checks.done()
    return found


def webhook_change(
    *, url: str | None, events: Sequence[str] | None, description: str | None, enabled: bool | None, rules: WebhookRules
) -> WebhookChange:
    """Check a change. One that is enabled anew has a clean record. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    values: dict[str, Any] = {}
    if url is not None:
        values["url"] = _url(checks, url, rules)
    if events is not None:
        values["events"] = list(_events(checks, events) or tuple(EventType))
    if description is not None:
        values["description"] = checks.line("description", description, longest=DESCRIPTION_LONGEST)
    if enabled is not None:
        values |= {"enabled": enabled, "disabled_reason": "", "failures": 0}
    checks.done()
    return WebhookChange(values)


def _url(checks: Checks, url: str, rules: WebhookRules) -> str:
    try:
        read = target(url, allow_http=rules.allow_http)
    except ValueError as fault:
        checks.fail("url", str(fault))
        return ""
    # Of a name nobody knows yet where it leads when it is called; see posting.py.
    if read.address is not None and not rules.reach.permits(read.address):
        checks.fail("url", "leads to an address that is not allowed")
    return url


def _events(checks: Checks, events: Iterable[str]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(events))
    if not set(wanted) <= set(EventType):
        checks.fail("events", f"each must be one of {', '.join(EventType)}")
    return wanted


def body(event: str, at: dt.datetime, data: dict[str, Any]) -> bytes:
    """Return what is sent: ids and figures, nothing that was said. Whoever wants that has to ask with a credential."""
    stamp = at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return orjson.dumps({"type": event, "timestamp": stamp, "data": data})


class Secrets:
    """The secrets of all webhooks, which follow from one key: what is not stored cannot be stolen from where it is."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def text(self, webhook_id: str, number: int) -> str:
        """Return a secret as its owner keeps it: `whsec_` and 32 bytes in base64."""
        raw = hmac.digest(self._key, f"{webhook_id}/{number}".encode(), "sha256")
        return "whsec_" + base64.b64encode(raw).decode()

    def signatures(self, webhook: Webhook, message_id: str, at: dt.datetime, content: bytes) -> str:
        """Return the header `webhook-signature`: one signature by each secret that counts at the time."""
        numbers = [webhook.secret_number]
        if webhook.previous_until is not None and at < webhook.previous_until:
            numbers.append(webhook.secret_number - 1)
        signers = (Signer(self.text(webhook.id, number)) for number in numbers)
        return " ".join(signer.sign(message_id, at, content.decode()) for signer in signers)
