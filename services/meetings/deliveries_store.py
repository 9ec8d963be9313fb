"""What is sent to webhooks: written once per event, noted at each attempt, counted when it is given up."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import ids, outbox
from chassis.errors import AppError, Kind
from chassis.jobs import LIVE, Queue, Status
from chassis.postgres import Database
from services.meetings.checks import not_found
from services.meetings.paging import Cursors, Page
from services.meetings.store import inbox_rows, is_deleted
from services.meetings.upload_tables import job_rows
from services.meetings.webhook_tables import deliveries, webhooks
from services.meetings.webhooks import KIND, TEST, Webhook, WebhookRules, body
from services.meetings.webhooks_store import WEBHOOK, require, webhook_of

CONSUMER = "meetings-webhooks"

# A job is forgotten after a month, a delivery too, but not at the same hour.
_STATUS = sa.func.coalesce(
    job_rows.c.status,
    sa.case(
        (deliveries.c.delivered_at.is_not(None), Status.COMPLETED.value),
        (deliveries.c.dead_at.is_not(None), Status.DEAD.value),
        else_=Status.FAILED.value,
    ),
)
_DELIVERY = (
    deliveries.c.id, deliveries.c.webhook_id, deliveries.c.event, deliveries.c.meeting_id, deliveries.c.job_id,
    deliveries.c.response_status, deliveries.c.attempted_at, deliveries.c.delivered_at, deliveries.c.created_at,
    _STATUS.label("status"),
    sa.func.coalesce(job_rows.c.attempts, 0).label("attempts"),
    sa.func.coalesce(job_rows.c.attempts_max, 0).label("attempts_max"),
    sa.func.coalesce(job_rows.c.error, "").label("error"),
)  # fmt: skip
_WITH_JOB = deliveries.outerjoin(job_rows, job_rows.c.id == deliveries.c.job_id)


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to tell of: `data` is for the body."""

    event: str
    owner_id: str
    meeting_id: str
    at: dt.datetime
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One fact on its way to one webhook."""

    id: str
    webhook_id: str
    event: str
    meeting_id: str | None
    job_id: str
    response_status: int
    attempted_at: dt.datetime | None
    delivered_at: dt.datetime | None
    created_at: dt.datetime
    status: str
    attempts: int
    attempts_max: int
    error: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What a job needs to know."""

    id: str
    event: str
    body: bytes
    webhook: Webhook


class DeliveriesStore:
    """Keeps deliveries. Each method is one transaction, but for `delivered`, which is part of another."""

    def __init__(self, database: Database, queue: Queue, cursors: Cursors, rules: WebhookRules) -> None:
        self._database = database
        self._queue = queue
        self._cursors = cursors
        self._rules = rules

    async def tell(self, event_id: str, fact: Fact) -> int:
        """Have a fact told to the webhooks that want it, once per event. Returns to how many."""

        async def work(connection: AsyncConnection) -> int:
            if not await outbox.first_time(connection, inbox_rows, CONSUMER, event_id):
                return 0
            if await is_deleted(connection, fact.meeting_id):
                return 0
            wanted = sa.select(*WEBHOOK).where(
                webhooks.c.owner_id == fact.owner_id, webhooks.c.enabled, webhooks.c.events.any_() == fact.event
            )
            found = [webhook_of(row) for row in await connection.execute(wanted.with_for_update(key_share=True))]
            for webhook in found:
                content = body(fact.event, fact.at, fact.data)
                delivery_id = ids.derived_id(webhook.id, "event", event_id)
                await self._put(connection, webhook, delivery_id, fact.event, fact.meeting_id, content)
            return len(found)

        return await self._database.run("tell webhooks", work)

    async def test(self, owner_id: str, webhook_id: str) -> Delivery:
        """Send a webhook an event that tells of nothing, also one that is disabled. Raises AppError(NOT_FOUND)."""

        async def work(connection: AsyncConnection) -> Delivery:
            webhook = await require(connection, owner_id, webhook_id)
            delivery_id = ids.new_id()
            content = body(TEST, dt.datetime.now(dt.UTC), {"webhook_id": webhook_id})
            await self._put(connection, webhook, delivery_id, TEST, None, content)
            return await _require(connection, webhook_id, delivery_id)

        return await self._database.once("test webhook", work)

    async def redeliver(self, owner_id: str, webhook_id: str, delivery_id: str) -> Delivery:
        """Send what is over once more, under the same id.

        Raises AppError: NOT_FOUND, CONFLICT while it is under way or if the webhook is disabled.
        """

        async def work(connection: AsyncConnection) -> Delivery:
            webhook = await require(connection, owner_id, webhook_id)
            # Of two that ask at once, the second finds the job of the first.
            this = sa.select(deliveries.c.id).where(
                deliveries.c.id == delivery_id, deliveries.c.webhook_id == webhook_id
            )
            await connection.execute(this.with_for_update())
            found = await _require(connection, webhook_id, delivery_id)
            if found.status in LIVE:
                raise AppError(Kind.CONFLICT, "It is under way.")
            if not webhook.enabled and found.event != TEST:
                raise AppError(Kind.CONFLICT, "The webhook is disabled: enable it first.")
            job = await self._ask(connection, webhook, delivery_id)
            await connection.execute(deliveries.update().where(deliveries.c.id == delivery_id).values(job_id=job))
            return await _require(connection, webhook_id, delivery_id)

        return await self._database.once("redeliver", work)

    async def list(self, owner_id: str, webhook_id: str, status: str, size: int, cursor: str) -> Page[Delivery]:
        """Return what was sent to a webhook, newest first. Raises AppError: NOT_FOUND, VALIDATION_FAILED."""
        scope = ("deliveries", webhook_id, status)
        after = self._cursors.open(scope, cursor)
        d = deliveries.c
        query = sa.select(*_DELIVERY).select_from(_WITH_JOB).where(d.webhook_id == webhook_id)
        if status:
            query = query.where(_STATUS.in_([status]))
        if after:
            last = sa.tuple_(sa.literal(dt.datetime.fromisoformat(after[0])), sa.literal(after[1], d.id.type))
            query = query.where(sa.tuple_(d.created_at, d.id) < last)
        query = query.order_by(d.created_at.desc(), d.id.desc()).limit(size + 1)

        async def work(connection: AsyncConnection) -> list[Delivery]:
            await require(connection, owner_id, webhook_id)
            return [Delivery(**row._mapping) for row in await connection.execute(query)]

        found = await self._database.run("list deliveries", work)
        items = found[:size]
        more = len(found) > size
        return Page(items, self._cursors.seal(scope, [items[-1].created_at.isoformat(), items[-1].id]) if more else "")

    # -- what the job does ---------------------------------------------------------------------------------------

    async def outgoing(self, delivery_id: str) -> Outgoing | None:
        """Return what is to be sent and to whom, or None if it is not there any more."""
        query = (
            sa.select(deliveries.c.id.label("delivery_id"), deliveries.c.event, deliveries.c.body, *WEBHOOK)
            .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
            .where(deliveries.c.id == delivery_id)
        )

        async def work(connection: AsyncConnection) -> Outgoing | None:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            webhook = {column.name: row._mapping[column] for column in WEBHOOK}
            webhook["events"] = tuple(webhook["events"])
            return Outgoing(row.delivery_id, row.event, bytes(row.body), Webhook(**webhook))

        return await self._database.run("outgoing delivery", work)

    async def delivered(self, connection: AsyncConnection, out: Outgoing, response_status: int) -> None:
        """Note in the caller's transaction that the webhook has taken it."""
        now = sa.func.now()
        change = deliveries.update().where(deliveries.c.id == out.id)
        await connection.execute(
            change.values(attempted_at=now, delivered_at=now, dead_at=None, response_status=response_status)
        )
        good = webhooks.update().where(webhooks.c.id == out.webhook.id, webhooks.c.failures > 0)
        await connection.execute(good.values(failures=0))

    async def failed(self, out: Outgoing, response_status: int) -> None:
        """Note that an attempt failed after which another comes."""
        change = deliveries.update().where(deliveries.c.id == out.id)
        change = change.values(attempted_at=sa.func.now(), dead_at=None, response_status=response_status)
        await self._database.run("delivery failed", lambda connection: connection.execute(change))

    async def gave_up(self, out: Outgoing, response_status: int, why: str, *, gone: bool = False) -> bool:
        """Note that it is given up, once; a webhook that had too many of these, or says that it is gone, is disabled.

        Returns whether it was disabled by that. A test and what a disabled webhook had coming do not count.
        """

        async def work(connection: AsyncConnection) -> bool:
            d, w = deliveries.c, webhooks.c
            dead = deliveries.update().where(d.id == out.id, d.dead_at.is_(None))
            dead = dead.values(attempted_at=sa.func.now(), dead_at=sa.func.now(), response_status=response_status)
            if (await connection.execute(dead.returning(d.id))).one_or_none() is None or out.event == TEST:
                return False
            counted = webhooks.update().where(w.id == out.webhook.id, w.enabled).values(failures=w.failures + 1)
            failures = (await connection.execute(counted.returning(w.failures))).scalar_one_or_none()
            if failures is None or (failures < self._rules.failures_max and not gone):
                return False
            reason = why if gone else f"{failures} deliveries in a row were given up. The last: {why}"
            disabled = webhooks.update().where(w.id == out.webhook.id)
            await connection.execute(
                disabled.values(
                    enabled=False,
                    disabled_reason=reason,
                    disabled_at=sa.func.now(),
                    updated_at=sa.func.now(),
                    version=w.version + 1,
                )
            )
            return True

        return await self._database.run("delivery given up", work)

    async def _put(
        self,
        connection: AsyncConnection,
        webhook: Webhook,
        delivery_id: str,
        event: str,
        meeting_id: str | None,
        content: bytes,
    ) -> None:
        job = await self._ask(connection, webhook, delivery_id)
        await connection.execute(
            insert(deliveries).values(
                id=delivery_id, webhook_id=webhook.id, owner_id=webhook.owner_id, event=event, meeting_id=meeting_id,
                body=content, job_id=job,
            )
        )  # fmt: skip

    async def _ask(self, connection: AsyncConnection, webhook: Webhook, delivery_id: str) -> str:
        """Put the job that delivers; return its id."""
        job = await self._queue.put(
            connection,
            KIND,
            delivery_id,
            owner_id=webhook.owner_id,
            payload=b"",
            attempts_max=self._rules.attempts_max,
        )
        return job.id


async def _require(connection: AsyncConnection, webhook_id: str, delivery_id: str) -> Delivery:
    query = sa.select(*_DELIVERY).select_from(_WITH_JOB)
    query = query.where(deliveries.c.id == delivery_id, deliveries.c.webhook_id == webhook_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise not_found("delivery")
    return Delivery(**row._mapping)
