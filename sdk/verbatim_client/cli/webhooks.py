"""`verbatim webhooks …`: who is told of what, and what became of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from verbatim_client.cli.edge import run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.options import JsonLines, Limit
from verbatim_client.cli.printing import Json, first, note, print_facts, print_items, print_json, print_line, told
from verbatim_client.cli.settings import CliSettings

COLUMNS = ("id", "enabled", "failures", "events", "url")
FACTS = (
    "id", "url", "events", "description", "enabled", "disabled_reason", "disabled_at", "failures", "version",
    "created_at", "updated_at",
)  # fmt: skip
DELIVERIES = ("id", "event", "status", "attempts", "response_status", "created_at", "error")

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id of the webhook.")]


class Event(StrEnum):
    """What may be told."""

    MEETING_COMPLETED = "meeting.completed"
    MEETING_HEALED = "meeting.healed"
    INSIGHTS_READY = "insights.ready"


def create(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(help="Where to post to, over https.")],
    event: Annotated[
        list[Event] | None, typer.Option("--event", help="May be given several times; without: all.")
    ] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    json_lines: JsonLines = False,
) -> None:
    """Make a webhook. Its secret goes to stdout, once: nobody can read it again."""
    run(_create(ctx.obj, url, [one.value for one in event or []], description, json_lines=json_lines))


async def _create(settings: CliSettings, url: str, events: list[str], description: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        made = await client.create_webhook(url, events, description=description)
    _show_secret(made, json_lines=json_lines)


def list_webhooks(ctx: typer.Context, json_lines: JsonLines = False) -> None:
    """List your webhooks, newest first."""
    run(_list(ctx.obj, json_lines=json_lines))


async def _list(settings: CliSettings, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        found = [one async for one in client.webhooks()]
    print_items(COLUMNS, found, json_lines=json_lines)


def show(ctx: typer.Context, webhook_id: WebhookId, json_lines: JsonLines = False) -> None:
    """Show a webhook, and why it was disabled if it was."""
    run(_show(ctx.obj, webhook_id, json_lines=json_lines))


async def _show(settings: CliSettings, webhook_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        found = await client.webhook(webhook_id)
    if json_lines:
        print_json(found)
    else:
        print_facts(FACTS, found)


def enable(ctx: typer.Context, webhook_id: WebhookId, json_lines: JsonLines = False) -> None:
    """Have a webhook told again, after it was disabled."""
    run(_switch(ctx.obj, webhook_id, enabled=True, json_lines=json_lines))


def disable(ctx: typer.Context, webhook_id: WebhookId, json_lines: JsonLines = False) -> None:
    """Tell a webhook nothing any more."""
    run(_switch(ctx.obj, webhook_id, enabled=False, json_lines=json_lines))


async def _switch(settings: CliSettings, webhook_id: str, *, enabled: bool, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        found = await client.webhook(webhook_id)
        changed = await client.update_webhook(webhook_id, found["version"], enabled=enabled)
    told("enabled" if enabled else "disabled", changed, json_lines=json_lines)


def rotate(ctx: typer.Context, webhook_id: WebhookId, json_lines: JsonLines = False) -> None:
    """Give a webhook another secret. It goes to stdout, once."""
    run(_rotate(ctx.obj, webhook_id, json_lines=json_lines))


async def _rotate(settings: CliSettings, webhook_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        found = await client.webhook(webhook_id)
        turned = await client.rotate_webhook_secret(webhook_id, found["version"])
    _show_secret(turned, json_lines=json_lines)
    note(f"deliveries are signed with the secret before too until {turned['previous_until']}")


def delete(ctx: typer.Context, webhook_id: WebhookId, json_lines: JsonLines = False) -> None:
    """Delete a webhook."""
    run(_delete(ctx.obj, webhook_id, json_lines=json_lines))


async def _delete(settings: CliSettings, webhook_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        found = await client.webhook(webhook_id)
        await client.delete_webhook(webhook_id, found["version"])
    told("deleted", {"id": webhook_id, "deleted": True}, json_lines=json_lines)


def test(ctx: typer.Context, webhook_id: WebhookId, json_lines: JsonLines = False) -> None:
    """Send a webhook an event that tells of nothing."""
    run(_test(ctx.obj, webhook_id, json_lines=json_lines))


async def _test(settings: CliSettings, webhook_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        sent = await client.test_webhook(webhook_id)
    print_items(DELIVERIES, [sent], json_lines=json_lines)
    note(f"what comes of it: verbatim webhooks deliveries {webhook_id}")


def deliveries(
    ctx: typer.Context,
    webhook_id: WebhookId,
    status: Annotated[str | None, typer.Option(help="Of these only, as dead.")] = None,
    limit: Limit = 50,
    json_lines: JsonLines = False,
) -> None:
    """List what was sent to a webhook, newest first."""
    run(_deliveries(ctx.obj, webhook_id, status, limit, json_lines=json_lines))


async def _deliveries(
    settings: CliSettings, webhook_id: str, status: str | None, limit: int, *, json_lines: bool
) -> None:
    async with logged_in(settings) as client:
        found = await first(limit, client.deliveries(webhook_id, status))
    print_items(DELIVERIES, found, json_lines=json_lines)


def redeliver(
    ctx: typer.Context,
    webhook_id: WebhookId,
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY", help="Id of the delivery.")],
    json_lines: JsonLines = False,
) -> None:
    """Send what was delivered or given up once more, under the same id."""
    run(_redeliver(ctx.obj, webhook_id, delivery_id, json_lines=json_lines))


async def _redeliver(settings: CliSettings, webhook_id: str, delivery_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        sent = await client.redeliver(webhook_id, delivery_id)
    print_items(DELIVERIES, [sent], json_lines=json_lines)


def _show_secret(webhook: Json, *, json_lines: bool) -> None:
    if json_lines:
        print_json(webhook)
        return
    print_line(webhook["secret"])
    note(f"webhook {webhook['id']}; keep the secret: nobody can read it again")
