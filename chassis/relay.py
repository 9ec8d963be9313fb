"""The relay carries outbox rows to the broker, and again when the broker has lost them."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import nats.js.errors
import sqlalchemy as sa
from nats.js.api import Header, PubAck, StreamInfo
from prometheus_client import Counter, Gauge
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, ids, telemetry
from chassis.audit import readable
from chassis.errors import AppError, Kind
from chassis.outbox import CHANNEL, EVENTS
from chassis.postgres import Database

log = telemetry.logger(__name__)

PENDING = Gauge("outbox_pending", "Rows not yet published; counted up to a hundred thousand.")
OLDEST = Gauge("outbox_oldest_unpublished_seconds", "Age of the oldest row not yet published.")
PUBLISHED = Counter("outbox_published_total", "Rows published.")
REFILLED = Counter("outbox_refilled_total", "Rows to be published again: the broker has them no more.", ["reason"])
RECONCILED = Gauge("outbox_reconciled_timestamp_seconds", "When rows were last compared with the broker.")
for _reason in ("recreated", "truncated", "purged", "damaged"):
    REFILLED.labels(_reason)

_MESSAGE_ID = Header.MSG_ID.value

_BATCH = 500
_COUNT_MAX = 100_000
_AUDIT_MOST = 200_000
_POLL_S = 2.0
_MEASURE_S = 1.0
_PUBLISH_S = 10.0
_KEEP = sa.text("interval '1 day'")
_KEEP_MOST = sa.text("interval '30 days'")
_PRUNED_MAX = 5000
_ENDLESS = 2**63 - 1
# Of the relays of one database one works at a time: two would change the order.
_LOCK = 0x6F75_7462  # "outb"


def streams_table(metadata: sa.MetaData) -> sa.Table:
    """Define the table of streams that were published to: by its time of creation one is told from a later namesake."""
    return sa.Table(
        "streams",
        metadata,
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )


async def withdraw(connection: AsyncConnection, table: sa.Table, aggregate: str, subject: str | None = None) -> None:
    """Remove an aggregate's rows (of one subject only, if one is named), published or not, in the caller's transaction:
    they will not be published any more.

    Waits until no relay is in the midst of publishing. What the broker has had it still has (`chassis.erasing`).
    """
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    of_subject = sa.true() if subject is None else table.c.subject == subject
    await connection.execute(table.delete().where(table.c.aggregate == aggregate, of_subject))


class Relay:
    """Carries the rows of one outbox. Any number may run; one at a time works.

    `streams` are what the rows are published to, declared again when somebody has deleted them.
    """

    def __init__(
        self,
        database: Database,
        table: sa.Table,
        streams_seen: sa.Table,
        broker: bus.Bus,
        streams: Sequence[bus.Stream] = (EVENTS,),
        *,
        reconcile_s: float = 15.0,
    ) -> None:
        self._database = database
        self._table = table
        self._streams_seen = streams_seen
        self._bus = broker
        self._streams = streams
        self._reconcile_s = reconcile_s
        self._reconcile_at = self._measure_at = 0.0
        self._audited = -1

    async def run(self) -> None:
        """Publish for ever. NOTIFY wakes it, polling is the net.

        What the broker has is looked at beside it: after a reconnect that may take seconds, and events do not wait.
        """
        async with asyncio.TaskGroup() as beside:
            looking: asyncio.Task[None] | None = None
            async for _ in self._database.notified(CHANNEL, _POLL_S):
                bus.heed_cancellation()
                await self._bear(self._drain)
                if time.monotonic() >= self._measure_at:
                    self._measure_at = time.monotonic() + _MEASURE_S
                    await self._bear(lambda: self._database.run("outbox lag", self._measure))
                if time.monotonic() >= self._reconcile_at and (looking is None or looking.done()):
                    self._reconcile_at = time.monotonic() + self._reconcile_s
                    looking = beside.create_task(self._bear(self.reconcile))

    async def _bear(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step, or wait for the next time if database or broker cannot be had."""
        try:
            await step()
        except AppError as fault:
            if not fault.codes.retryable:
                raise
            log.warning("outbox waits", fault=str(fault))

    async def _drain(self) -> None:
        while await self._database.run("outbox relay", self._publish_batch) == _BATCH:
            pass

    async def reconcile(self) -> None:
        """Declare streams that are gone, and let rows that the broker has lost be published again.

        Raises AppError(UNAVAILABLE) if database or broker cannot be had.
        """
        try:
            for stream in self._streams:
                await self._declare_if_gone(stream)
            if any(stream.name == EVENTS.name for stream in self._streams):
                floor = await self._floor()
                await self._database.run("outbox reconcile", lambda connection: self._compare(connection, floor))
                await self._audit()
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=f"reconcile: {fault!r}") from fault
        RECONCILED.set(time.time())

    async def _audit(self) -> None:
        """After each time that the broker was away: let events be published again that it lists and cannot read."""
        connection_number = self._bus.client.stats["reconnects"]
        if self._audited == connection_number:
            return
        before = (await self._bus.js.stream_info(EVENTS.name)).state
        t = self._table.c
        ours = t.subject.like("events.%") & (t.stream_seq >= before.first_seq) & (t.stream_seq <= before.last_seq)
        query = sa.select(t.stream_seq).where(ours).order_by(t.stream_seq.desc()).limit(_AUDIT_MOST)

        async def listed(connection: AsyncConnection) -> set[int]:
            return set(await connection.scalars(query))

        known = await self._database.run("outbox audit", listed)
        if known:
            found = await readable(self._bus, EVENTS.name, "events.>", min(known), max(known))
            now = (await self._bus.js.stream_info(EVENTS.name)).state
            # What somebody has purged meanwhile is not damaged: `_compare` sees it.
            if lost := {place for place in known - found if now.first_seq <= place <= now.last_seq}:
                damaged = t.stream_seq.in_(lost) & t.published_at.is_not(None)
                await self._database.run(
                    "outbox audit", lambda connection: self._refill(connection, "damaged", damaged)
                )
        self._audited = connection_number

    async def _declare_if_gone(self, stream: bus.Stream) -> None:
        try:
            await self._bus.js.stream_info(stream.name)
        except nats.js.errors.NotFoundError:
            log.error("stream is gone, declaring it again", stream=stream.name)  # noqa: TRY400
            await self._bus.declare(stream)

    async def _floor(self) -> int:
        """Return up to where every consumer of events has done with them."""
        consumers = await self._bus.js.consumers_info(EVENTS.name)
        behind = [one for one in consumers if one.num_pending or one.num_ack_pending]
        floors = [one.ack_floor.stream_seq if one.ack_floor else 0 for one in behind]
        return min(floors, default=_ENDLESS if consumers else 0)

    async def _compare(self, connection: AsyncConnection, floor: int) -> None:
        """Compare what we published with what the stream of events tells of itself. Other streams lose by design.

        The stream is asked while nobody publishes: what came after its answer would seem to be lost.

        Rows go a day after they were published if every consumer is beyond them (`floor`), in any case after a month.
        """
        if not await self._locked(connection):
            return
        info = await self._bus.js.stream_info(EVENTS.name)
        t = self._table.c
        published = t.published_at.is_not(None) & t.subject.like("events.%")
        if await self._is_another(connection, info):
            await self._refill(connection, "recreated", published)
        await self._refill(connection, "truncated", published & (t.stream_seq > info.state.last_seq))
        await self._refill(connection, "purged", published & (t.stream_seq < info.state.first_seq))
        confirmed = ~t.subject.like("events.%") | (t.stream_seq <= floor)
        needless = (t.published_at < sa.func.now() - _KEEP) & (
            confirmed | (t.published_at < sa.func.now() - _KEEP_MOST)
        )
        some = sa.select(t.seq).where(needless).limit(_PRUNED_MAX)
        await connection.execute(self._table.delete().where(t.seq.in_(some)))

    async def _is_another(self, connection: AsyncConnection, info: StreamInfo) -> bool:
        """Tell whether this stream is not the one that we published to, and remember it."""
        s = self._streams_seen.c
        created: datetime | None = info.created
        query = sa.select(s.created_at).where(s.name == EVENTS.name)
        known = (await connection.execute(query)).scalar_one_or_none()
        if known == created:
            return False
        upsert = insert(self._streams_seen).values(name=EVENTS.name, created_at=created)
        await connection.execute(
            upsert.on_conflict_do_update(index_elements=["name"], set_={"created_at": upsert.excluded.created_at})
        )
        return known is not None

    async def _refill(self, connection: AsyncConnection, reason: str, lost: sa.ColumnElement[bool]) -> None:
        t = self._table.c
        # Under another id: for two minutes the broker takes the old one for a repeat of what it has no more.
        another = sa.func.jsonb_build_object(_MESSAGE_ID, t.id + "/" + ids.new_id())
        change = self._table.update().where(lost)
        change = change.values(published_at=None, stream_seq=None, headers=t.headers.concat(another))
        count = (await connection.execute(change)).rowcount
        if count:
            REFILLED.labels(reason).inc(count)
            log.error("the broker has lost events, publishing them again", reason=reason, events=count)

    async def _locked(self, connection: AsyncConnection) -> bool:
        return bool((await connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_LOCK)))).scalar_one())

    async def _publish_batch(self, connection: AsyncConnection) -> int:
        if not await self._locked(connection):
            return 0
        t = self._table.c
        query = (
            sa.select(t.seq, t.id, t.subject, t.aggregate, t.payload, t.headers)
            .where(t.published_at.is_(None)).order_by(t.seq).limit(_BATCH)
        )  # fmt: skip
        rows = (await connection.execute(query)).all()
        if not rows:
            return 0
        done = await self._publish(rows)
        if done:
            places = sa.select(
                sa.func.unnest(sa.bindparam("seqs", list(done), sa.ARRAY(sa.BigInteger))).label("seq"),
                sa.func.unnest(sa.bindparam("places", list(done.values()), sa.ARRAY(sa.BigInteger))).label("place"),
            ).subquery()
            await connection.execute(
                self._table.update()
                .where(t.seq == places.c.seq)
                .values(published_at=sa.func.now(), stream_seq=places.c.place)
            )
            PUBLISHED.inc(len(done))
        return len(done)

    async def _publish(self, rows: Sequence[Any]) -> dict[int, int]:
        """Publish rows; return where the broker put those that it acknowledged, by their number.

        Of one aggregate the next row goes out only after the one before is acknowledged.
        """
        done: dict[int, int] = {}
        stuck: set[str] = set()
        try:
            async with asyncio.timeout(_PUBLISH_S):
                for wave in waves(rows):
                    await self._publish_wave([row for row in wave if row.aggregate not in stuck], done, stuck)
        except TimeoutError:
            log.warning("outbox publishes slowly", published=len(done), of=len(rows))
        return done

    async def _publish_wave(self, rows: Sequence[Any], done: dict[int, int], stuck: set[str]) -> None:
        waiting: list[tuple[Any, asyncio.Future[PubAck]]] = []
        fault: BaseException | None = None
        try:
            for row in rows:
                if not self._bus.client.is_connected:
                    raise ConnectionError("not connected")
                headers = self._headers(row)
                waiting.append((row, await self._bus.js.publish_async(row.subject, row.payload, headers=headers)))
            await asyncio.wait([future for _, future in waiting]) if waiting else None
        except bus.FAULTS as failure:
            fault = failure
        finally:
            for row, future in waiting:
                future.cancel()
                if not future.cancelled() and future.exception() is None:
                    done[row.seq] = future.result().seq
                elif not future.cancelled():
                    fault = future.exception()
            unsent = [row for row in rows if row.seq not in done]
            stuck.update(row.aggregate for row in unsent if row.aggregate)
            if unsent:
                self._reconcile_at = 0.0  # perhaps a stream is gone
                log.warning("outbox rows wait", rows=len(unsent), subject=unsent[0].subject, fault=repr(fault))

    def _headers(self, row: Any) -> dict[str, str]:
        """Return what a row is sent with. By the message's id, the event's own at first, the broker drops a repeat."""
        return {_MESSAGE_ID: row.id, **row.headers}

    async def _measure(self, connection: AsyncConnection) -> None:
        t = self._table.c
        waiting = (
            sa.select(t.created_at).where(t.published_at.is_(None)).order_by(t.seq).limit(_COUNT_MAX)
        ).subquery()  # fmt: skip
        age = sa.func.extract("epoch", sa.func.now() - sa.func.min(waiting.c.created_at))
        pending, oldest = (await connection.execute(sa.select(sa.func.count(), age).select_from(waiting))).one()
        PENDING.set(pending)
        OLDEST.set(float(oldest or 0.0))


def waves(rows: Iterable[Any]) -> list[list[Any]]:
    """Split rows into groups that may be published at once: no aggregate is twice in one, and each keeps its order."""
    places: defaultdict[str, int] = defaultdict(int)
    found: list[list[Any]] = []
    for row in rows:
        place = places[row.aggregate] if row.aggregate else 0
        if place == len(found):
            found.append([])
        found[place].append(row)
        places[row.aggregate] += 1
    return found
