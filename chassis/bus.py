"""NATS JetStream: one connection, declared streams, acknowledged publishes, consumers that survive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import nats.errors
import nats.js.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    PubAck,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from prometheus_client import Counter, Gauge, Histogram

from chassis import telemetry, tracing
from chassis.broker_socket import SturdyClient
from chassis.errors import AppError, Kind

log = telemetry.logger(__name__)

CONNECTED = Gauge("nats_connected", "1 while the broker is connected.")
CONSUMED = Counter("messaging_consumed_messages_total", "Messages handled.", ["consumer", "result"])
PENDING = Gauge("messaging_consumer_pending", "Messages that wait for a consumer, as it was told last.", ["consumer"])
LAG = Histogram(
    "messaging_delivery_lag_seconds", "From an event's commit to the end of its handling.", ["consumer"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)  # fmt: skip
RECREATED = Counter("messaging_streams_recreated_total", "Streams found deleted and declared again.", ["stream"])

PENDING_MAX = 4096
"""Asynchronous publishes that may be under way; the next one would wait, without a deadline."""

FAULTS = (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError)

_LOOK_EVERY_S = 3.0
# A fetch that brings nothing lasts two seconds.
_SILENCES = 5


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as its owner declares it. Sizes in bytes, ages in seconds (0: no limit)."""

    name: str
    subjects: tuple[str, ...]
    max_bytes: int
    max_age_s: float = 0.0
    work_queue: bool = False
    duplicate_window_s: float = 120.0


class Bus:
    """The connection of a process to the broker."""

    def __init__(self, client: Client, replicas: int) -> None:
        self.client = client
        self.js: JetStreamContext = client.jetstream(timeout=5.0, publish_async_max_pending=PENDING_MAX)
        self._replicas = replicas
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def declare(self, stream: Stream) -> None:
        """Create the stream, or bring the one that exists to this declaration. Safe to repeat."""
        config = StreamConfig(
            name=stream.name,
            subjects=list(stream.subjects),
            retention=RetentionPolicy.WORK_QUEUE if stream.work_queue else RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            max_bytes=stream.max_bytes,
            max_age=stream.max_age_s,
            discard=DiscardPolicy.NEW,  # what was acknowledged is never thrown away to make room
            num_replicas=self._replicas,
            duplicate_window=stream.duplicate_window_s,
            allow_direct=True,
        )
        try:
            # Sequences begin at the microsecond: a stream that is made again after it was deleted goes on beyond those
            # of its namesake, so whoever remembers one never takes it for another. (2.9 begins at 1 nevertheless.)
            await self.js.add_stream(config, first_seq=time.time_ns() // 1000)
        except nats.js.errors.BadRequestError:
            await self.js.update_stream(config)

    async def declared(self, stream: Stream) -> None:
        """Declare the stream as soon as the broker can take it; once a second, for ever if need be."""
        while True:
            try:
                return await self.declare(stream)
            except FAULTS as fault:
                log.warning("stream not declared yet", stream=stream.name, fault=repr(fault))
                await asyncio.sleep(1.0)

    async def keep(self, streams: Sequence[Stream]) -> None:
        """Declare again what somebody has deleted, within seconds; for ever. What was in it is gone."""
        for stream in streams:
            RECREATED.labels(stream.name)
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for stream in streams:
                try:
                    await self._mend(stream)
                except FAULTS as fault:
                    log.info("stream not looked at", stream=stream.name, fault=repr(fault))

    async def _mend(self, stream: Stream) -> None:
        try:
            await self.js.stream_info(stream.name)
        except nats.js.errors.NotFoundError:
            await self.declare(stream)
            RECREATED.labels(stream.name).inc()
            log.error("stream was gone, declared again", stream=stream.name)  # noqa: TRY400

    async def publish(
        self, subject: str, payload: bytes, *, message_id: str | None = None, timeout_s: float = 5.0
    ) -> PubAck:
        """Publish and wait until the broker has the message.

        Raises AppError(UNAVAILABLE); whether the message arrived is then unknown.
        """
        if not self.client.is_connected:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log="not connected")
        carried = {"x-request-id": telemetry.request_id(), **tracing.carried()}
        if message_id:
            carried["Nats-Msg-Id"] = message_id
        try:
            with tracing.step("publish", kind=tracing.SpanKind.PRODUCER, destination=subject.partition(".")[0]):
                return await self.js.publish(subject, payload, timeout=timeout_s, headers=carried)
        except FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=f"{subject}: {fault!r}") from fault

    async def ping(self) -> None:
        """Make a round trip. Raises if the broker does not answer within a second (`is_connected` alone can lie)."""
        if not self.client.is_connected:
            raise ConnectionError("not connected")
        await self.client.flush(timeout=1)

    async def until_closed(self) -> None:
        """Run for the life of the process; fails when the client has given up, which it only does by a bug."""
        await self.closed
        raise ConnectionError("the NATS client closed itself")

    async def consume(
        self,
        *,
        stream: str,
        durable: str,
        subject: str,
        handle: Callable[[list[Msg]], Awaitable[None]],
        batch: int = 256,
        ack_wait_s: float = 30.0,
        start: Callable[[], Awaitable[int]] | None = None,
        gather_s: float = 0.0,
    ) -> None:
        """Hand every message of the subject to `handle`, in batches in stream order, for ever.

        `handle` acknowledges nothing: the batch is acknowledged when it returns. When it raises AppError that is
        retryable, the same messages are handed over again, half as many at once, after a pause (0.1 s doubling to 5 s),
        so order holds and what is too much for a slow database gets through; any other exception is a bug and goes up.
        A message may come more than once; effects must be idempotent. A batch may take longer than `ack_wait_s`: the
        broker is told that it is being worked on. Batches that are not full begin `gather_s` apart at the least: for
        where a batch costs more than its messages do.

        Without `start`, order does not survive a crash: what a process held when it died comes again only after
        `ack_wait_s`, behind messages that are newer. With `start`, each subscription (the first, and each after a
        lost connection) begins at the stream sequence that it returns: commit the sequence with the effect, return
        the one after it. Only one process may consume then.
        """
        pulled = self.pull(
            stream=stream,
            durable=durable,
            subject=subject,
            batch=batch,
            ack_wait_s=ack_wait_s,
            unacknowledged_max=batch * 4,
            start=start,
        )
        async with aclosing(pulled):
            async for messages in pulled:
                if messages:
                    began = time.monotonic()
                    async with kept_alive(messages, ack_wait_s / 3):
                        await self._settle(durable, messages, handle)
                    if len(messages) < batch:
                        await asyncio.sleep(max(0.0, began + gather_s - time.monotonic()))

    async def pull(
        self,
        *,
        stream: str,
        durable: str,
        subject: str,
        batch: int,
        ack_wait_s: float,
        unacknowledged_max: int,
        start: Callable[[], Awaitable[int]] | None = None,
    ) -> AsyncGenerator[list[Msg], None]:
        """Yield batches of the subject's messages, for ever; an empty one at least every few seconds.

        The caller acknowledges, and closes the generator (`contextlib.aclosing`). Several may pull from one durable
        consumer: each message goes to one of them. A consumer or a connection that is lost is made again.
        For `start` see `consume`; an AppError from it that is retryable counts as a lost connection.
        """
        config = ConsumerConfig(
            durable_name=durable,
            filter_subject=subject,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=ack_wait_s,
            max_ack_pending=unacknowledged_max,
        )
        subscription: JetStreamContext.PullSubscription | None = None
        idle = reconnects = 0
        try:
            while True:
                messages: list[Msg] = []
                lost = False
                try:
                    if subscription is None:
                        reconnects = self.client.stats["reconnects"]
                        if start is not None:
                            config.deliver_policy = DeliverPolicy.BY_START_SEQUENCE
                            config.opt_start_seq = await start()
                            # Where a consumer starts cannot be changed; a new one of the same name starts anywhere.
                            with suppress(nats.js.errors.NotFoundError):
                                await self.js.delete_consumer(stream, durable)
                        subscription = await self.js.pull_subscribe(
                            subject, durable=durable, stream=stream, config=config
                        )
                    messages = await subscription.fetch(batch, timeout=2.0)
                    idle = 0
                    PENDING.labels(durable).set(messages[-1].metadata.num_pending or 0 if messages else 0)
                except TimeoutError:
                    idle += 1
                    PENDING.labels(durable).set(0)
                    # A deleted consumer looks like silence: ask now and then.
                    lost = idle % _SILENCES == 0 and not await self._exists(stream, durable)
                except (nats.errors.Error, nats.js.errors.Error, OSError, AppError) as fault:
                    if isinstance(fault, AppError) and not fault.codes.retryable:
                        raise
                    log.warning("consumer lost, subscribing again", consumer=durable, fault=repr(fault))
                    lost = True
                    await asyncio.sleep(1.0)
                if start is not None and self.client.stats["reconnects"] != reconnects:
                    # The client has made another connection and said nothing. What the broker had sent on the one
                    # before would come again after `ack_wait`, behind what is newer.
                    log.info("consumer begins again on a new connection", consumer=durable)
                    messages, lost = [], True
                heed_cancellation()
                if lost and subscription is not None:
                    await quietly(subscription.unsubscribe())
                    subscription = None
                yield messages
        finally:
            # Else the broker could still send a message here, where nobody would take it.
            if subscription is not None:
                await quietly(subscription.unsubscribe())

    async def ensure_consumer(
        self, stream: Stream, durable: str, subject: str, *, ack_wait_s: float, most: int
    ) -> None:
        """Make the stream and a durable consumer of it for `claim`, unless they are there. `most` are unacknowledged.

        Raises one of FAULTS.
        """
        config = ConsumerConfig(
            durable_name=durable,
            filter_subject=subject,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait_s,
            max_ack_pending=most,
        )
        try:
            await self.js.add_consumer(stream.name, config)
        except nats.js.errors.NotFoundError:
            await self.declare(stream)
            await self.js.add_consumer(stream.name, config)

    async def claim(self, stream: Stream, durable: str, *, wait_s: float = 0.0) -> Msg | None:
        """Take the next message of a durable consumer; None if there is none within `wait_s`. The caller acknowledges.

        Raises one of FAULTS; NotFoundError if the consumer is gone. An answer that gets lost on its way, because the
        connection breaks or the caller is cancelled, comes again after the consumer's `ack_wait`.
        """
        wanted: dict[str, object] = {"batch": 1}
        wanted |= {"expires": int(wait_s * 1e9)} if wait_s else {"no_wait": True}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.{durable}"
        try:
            # In the old style, with an inbox of its own: the message comes under its own subject, not the inbox's.
            answer = await self.client.request(subject, orjson.dumps(wanted), timeout=wait_s + 2.0, old_style=True)
        except nats.errors.NoRespondersError as fault:
            raise nats.js.errors.NotFoundError from fault
        match (answer.headers or {}).get("Status"):
            case None:
                return answer
            case "404" | "408":
                return None
            case status:
                raise nats.js.errors.NotFoundError(description=f"{durable}: {status}")

    async def _settle(self, durable: str, messages: list[Msg], handle: Callable[[list[Msg]], Awaitable[None]]) -> None:
        pause, size, left = 0.1, len(messages), messages
        while left:
            part = left[:size]
            try:
                await handle(part)
            except AppError as fault:
                if not fault.codes.retryable:
                    raise
                CONSUMED.labels(durable, "retried").inc(len(part))
                log.warning("batch failed, trying again", consumer=durable, fault=str(fault))
                await asyncio.sleep(pause)
                # What is too much at once for a database that is slow goes through in pieces.
                pause, size = min(pause * 2, 5.0), max(1, size // 2)
                continue
            await self._done(durable, part)
            pause, size, left = 0.1, size * 2, left[size:]

    async def _done(self, durable: str, messages: list[Msg]) -> None:
        now = time.time()
        for message in messages:
            await quietly(message.ack())
            if told_at := (message.headers or {}).get("ce-time"):
                LAG.labels(durable).observe(max(0.0, now - _seconds(told_at)))
        CONSUMED.labels(durable, "done").inc(len(messages))

    async def _exists(self, stream: str, durable: str) -> bool:
        try:
            await self.js.consumer_info(stream, durable, timeout=2.0)
        except nats.js.errors.NotFoundError:
            return False
        except FAULTS:
            return True
        return True


def _seconds(at: str) -> float:
    """Return a time of CloudEvents' in seconds since the epoch; now if it cannot be read."""
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return time.time()


def heed_cancellation() -> None:
    """Raise CancelledError if this task was cancelled and the client has lost that: for loops that ask the broker.

    The client waits with `asyncio.wait_for`, which before Python 3.12 returns an answer that comes at the moment of a
    cancellation as if there had been none (https://github.com/python/cpython/issues/86296).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def quietly(acknowledgement: Awaitable[object]) -> None:
    """Acknowledge if the broker can be reached: a lost acknowledgement only costs a redelivery."""
    try:
        await acknowledgement
    except FAULTS as fault:
        log.info("acknowledgement lost", fault=repr(fault))


@asynccontextmanager
async def kept_alive(messages: Sequence[Msg], every_s: float) -> AsyncIterator[None]:
    """Tell the broker inside that the messages are being worked on."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(every_s)
            for message in messages:
                await quietly(message.in_progress())

    heart = asyncio.create_task(beat())
    try:
        yield
    finally:
        heart.cancel()


def _inbox(url: str) -> str:
    user = urlsplit(url.partition(",")[0].strip()).username
    return f"_INBOX_{user}" if user else "_INBOX"


@asynccontextmanager
async def connect(url: str, *, name: str, replicas: int) -> AsyncIterator[Bus]:
    """Connect, for ever if need be, and close at the end.

    A user that the URL names hears answers in an inbox of its own, `_INBOX_<user>`; the broker opens it to nobody else.
    Publishes while disconnected fail at once (`pending_size=0`): what cannot be sent stays with its owner, it is not
    queued in the client, from where it would come out twice.
    """
    holder: list[Bus] = []

    async def on_disconnect() -> None:
        CONNECTED.set(0)
        log.warning("broker disconnected")

    async def on_reconnect() -> None:
        CONNECTED.set(1)
        log.info("broker connected again")

    async def on_error(fault: Exception) -> None:
        log.warning("broker error", fault=repr(fault))

    async def on_closed() -> None:
        CONNECTED.set(0)
        if holder and not holder[0].closed.done():
            holder[0].closed.set_result(None)

    client = SturdyClient()
    await client.connect(
        servers=[server.strip() for server in url.split(",")],
        name=name,
        inbox_prefix=_inbox(url),
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.5,  # type: ignore[arg-type]  # seconds; any number will do
        connect_timeout=2,
        ping_interval=5,
        max_outstanding_pings=2,
        pending_size=-1,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
        error_cb=on_error,
        closed_cb=on_closed,
    )
    CONNECTED.set(1)
    bus = Bus(client, replicas)
    holder.append(bus)
    try:
        yield bus
    finally:
        holder.clear()
        with suppress(*FAULTS):
            await client.close()
