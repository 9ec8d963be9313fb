"""Webhooks: rows as their owners make and change them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.errors import AppError, Kind
from chassis.postgres import Database, Work
from services.meetings.account_tables import accounts
from services.meetings.checks import not_found
from services.meetings.paging import Cursors, Page
from services.meetings.store import version_conflict
from services.meetings.upload_tables import job_rows
from services.meetings.webhook_tables import deliveries, webhooks
from services.meetings.webhooks import KIND, NewWebhook, Webhook, WebhookChange, WebhookRules

WEBHOOK = (
    webhooks.c.id, webhooks.c.owner_id, webhooks.c.url, webhooks.c.events, webhooks.c.description, webhooks.c.enabled,
    webhooks.c.disabled_reason, webhooks.c.disabled_at, webhooks.c.failures, webhooks.c.secret_number,
    webhooks.c.previous_until, webhooks.c.version, webhooks.c.created_at, webhooks.c.updated_at,
)  # fmt: skip


class WebhooksStore:
    """Keeps webhooks. Each method is one transaction and names the owner: what is another's is not there."""

    def __init__(self, database: Database, cursors: Cursors, rules: WebhookRules) -> None:
        self._database = database
        self._cursors = cursors
        self.rules = rules

    def creation(self, new: NewWebhook) -> Work[Webhook]:
        """Return the work that makes a webhook, or gives it back if this call was made before.

        Raises AppError: CONFLICT if the account has too many or the id is taken, NOT_FOUND if the account is no more.
        """

        async def work(connection: AsyncConnection) -> Webhook:
            # Those of one account are made one after the other, so that together they keep to its limit.
            owner = sa.select(accounts.c.id).where(accounts.c.id == new.owner_id).with_for_update()
            if (await connection.execute(owner)).one_or_none() is None:
                raise not_found("account")
            found = await find(connection, new.owner_id, new.id)
            if found is not None:
                return found
            count = sa.select(sa.func.count()).where(webhooks.c.owner_id == new.owner_id)
            if (await connection.execute(count)).scalar_one() >= self.rules.most:
                words = f"An account has at most {self.rules.most} webhooks: delete one first."
                raise AppError(Kind.CONFLICT, words)
            made = insert(webhooks).values(
                id=new.id, owner_id=new.owner_id, url=new.url, events=list(new.events), description=new.description
            )
            made = made.on_conflict_do_nothing(index_elements=["id"])
            row = (await connection.execute(made.returning(*WEBHOOK))).one_or_none()
            if row is None:
                raise AppError(Kind.CONFLICT, "The id was used before.")
            return webhook_of(row)

        return work

    async def get(self, owner_id: str, webhook_id: str) -> Webhook:
        """Return a webhook. Raises AppError(NOT_FOUND)."""

        async def work(connection: AsyncConnection) -> Webhook:
            return await require(connection, owner_id, webhook_id)

        return await self._database.run("get webhook", work)

    async def list(self, owner_id: str, size: int, cursor: str) -> Page[Webhook]:
        """Return webhooks, newest first. Raises AppError(VALIDATION_FAILED) for a cursor of another list."""
        scope = ("webhooks", owner_id)
        after = self._cursors.open(scope, cursor)
        query = sa.select(*WEBHOOK).where(webhooks.c.owner_id == owner_id)
        if after:
            last = sa.tuple_(sa.literal(dt.datetime.fromisoformat(after[0])), sa.literal(after[1], webhooks.c.id.type))
            query = query.where(sa.tuple_(webhooks.c.created_at, webhooks.c.id) < last)
        query = query.order_by(webhooks.c.created_at.desc(), webhooks.c.id.desc()).limit(size + 1)

        async def work(connection: AsyncConnection) -> list[Webhook]:
            return [webhook_of(row) for row in await connection.execute(query)]

        found = await self._database.run("list webhooks", work)
        items = found[:size]
        more = len(found) > size
        return Page(items, self._cursors.seal(scope, [items[-1].created_at.isoformat(), items[-1].id]) if more else "")

    async def update(self, owner_id: str, webhook_id: str, expected_version: int, change: WebhookChange) -> Webhook:
        """Change a webhook. Raises AppError: NOT_FOUND, PRECONDITION_FAILED with the current version."""
        values = dict(change.values)
        if "enabled" in values:
            values["disabled_at"] = None if values["enabled"] else sa.func.now()
        return await self._change("update webhook", owner_id, webhook_id, expected_version, values)

    async def rotate(self, owner_id: str, webhook_id: str, expected_version: int) -> Webhook:
        """Give a webhook its next secret; the one before signs too for a while.

        Raises AppError: NOT_FOUND, PRECONDITION_FAILED with the current version.
        """
        values = {"secret_number": webhooks.c.secret_number + 1, "previous_until": sa.func.now() + self.rules.overlap}
        return await self._change("rotate webhook secret", owner_id, webhook_id, expected_version, values)

    async def delete(self, owner_id: str, webhook_id: str, expected_version: int) -> None:
        """Delete a webhook with all that was sent to it or is about to be.

        Raises AppError: NOT_FOUND, PRECONDITION_FAILED with the current version.
        """

        async def work(connection: AsyncConnection) -> None:
            this = _this(owner_id, webhook_id, expected_version)
            locked = await connection.execute(sa.select(webhooks.c.id).where(*this).with_for_update())
            if locked.one_or_none() is None:
                raise await version_conflict(connection, webhooks, owner_id, webhook_id)
            await forget_jobs(connection, deliveries.c.webhook_id == webhook_id)
            await connection.execute(webhooks.delete().where(*this))

        await self._database.once("delete webhook", work)

    async def _change(
        self, name: str, owner_id: str, webhook_id: str, expected_version: int, values: dict[str, Any]
    ) -> Webhook:
        change = webhooks.update().where(*_this(owner_id, webhook_id, expected_version))
        change = change.values(version=webhooks.c.version + 1, updated_at=sa.func.now(), **values)

        async def work(connection: AsyncConnection) -> Webhook:
            row = (await connection.execute(change.returning(*WEBHOOK))).one_or_none()
            if row is None:
                raise await version_conflict(connection, webhooks, owner_id, webhook_id)
            return webhook_of(row)

        return await self._database.once(name, work)


async def find(connection: AsyncConnection, owner_id: str, webhook_id: str) -> Webhook | None:
    """Return a webhook of an owner, or None."""
    query = sa.select(*WEBHOOK).where(webhooks.c.id == webhook_id, webhooks.c.owner_id == owner_id)
    row = (await connection.execute(query)).one_or_none()
    return webhook_of(row) if row is not None else None


async def require(connection: AsyncConnection, owner_id: str, webhook_id: str) -> Webhook:
    """Return a webhook of an owner. Raises AppError(NOT_FOUND)."""
    found = await find(connection, owner_id, webhook_id)
    if found is None:
        raise not_found("webhook")
    return found


async def forget_jobs(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> None:
    """Remove the jobs of deliveries; one that is under way will have no effect here."""
    keys = sa.select(sa.cast(deliveries.c.id, sa.Text)).where(which)
    await connection.execute(job_rows.delete().where(job_rows.c.kind == KIND, job_rows.c.key.in_(keys)))


async def forget_deliveries(connection: AsyncConnection, meeting_id: str) -> None:
    """Remove what is told of a meeting, with its jobs."""
    await forget_jobs(connection, deliveries.c.meeting_id == meeting_id)
    await connection.execute(deliveries.delete().where(deliveries.c.meeting_id == meeting_id))


def _this(owner_id: str, webhook_id: str, version: int) -> tuple[sa.ColumnElement[bool], ...]:
    return webhooks.c.id == webhook_id, webhooks.c.owner_id == owner_id, webhooks.c.version == version


def webhook_of(row: Any) -> Webhook:
    """Return the webhook of a row that has the columns WEBHOOK."""
    return Webhook(**{**row._mapping, "events": tuple(row.events)})
