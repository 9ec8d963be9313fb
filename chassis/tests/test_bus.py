"""The bus on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from nats.aio.msg import Msg

from chassis import bus
from chassis.errors import AppError, Kind
from chassis.tests.servers import NatsServer
from tests.chaos.proxy import Proxy

STREAM = bus.Stream("EVENTS", ("events.>",), max_bytes=16 * 1024**2)


@pytest.mark.req("R-SVC-6")
def test_a_fault_of_the_broker_is_no_bug_of_ours() -> None:
    """RuntimeError was among them, because of one sentence of uvloop's: bugs of ours were tried again for ever."""
    assert not any(issubclass(RuntimeError, fault) for fault in bus.FAULTS)


async def test_a_cancellation_that_the_client_loses_is_heeded() -> None:
    """A worker that was cancelled at the moment of an answer went on for ever."""
    went_on: list[str] = []

    async def asks() -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(asking.cancel)
        asyncio.get_running_loop().call_soon(answer.set_result, "the answer")
        went_on.append(await asyncio.wait_for(answer, 5.0))
        bus.heed_cancellation()
        went_on.append("for ever")

    asking = asyncio.create_task(asks())
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert "for ever" not in went_on


@pytest.mark.req("R-HEAL-2", "R-SVC-6")
def test_a_socket_that_uvloop_has_closed_is_a_lost_connection_and_is_made_again(nats_server: NatsServer) -> None:
    """uvloop raises RuntimeError for a write to it; nats-py took that for the end of the event loop and fell silent."""

    async def converse() -> None:
        async with bus.connect(nats_server.url, name="one", replicas=1) as broker:
            await broker.declare(STREAM)
            client: Any = broker.client
            writer = client._transport._io_writer
            assert type(writer.transport).__module__.startswith("uvloop")
            writer.transport.abort()
            # The client has not noticed yet: what it writes now meets the closed socket.
            client._flusher_task.cancel()
            await asyncio.sleep(0)
            with pytest.raises(AppError) as caught:
                await broker.publish("events.one", b"1", timeout_s=1.0)
            assert caught.value.kind is Kind.UNAVAILABLE
            async with asyncio.timeout(10):
                while not await _answers(broker):
                    await asyncio.sleep(0.05)
            await broker.publish("events.one", b"2")

    uvloop.run(converse())


async def _answers(broker: bus.Bus) -> bool:
    try:
        await broker.ping()
    except bus.FAULTS:
        return False
    return True


@pytest.mark.req("R-HEAL-1", "R-HEAL-2")
async def test_a_stream_that_was_deleted_is_made_again_and_counts_on(nats_server: NatsServer) -> None:
    async with bus.connect(nats_server.url, name="one", replicas=1) as broker:
        await broker.declare(STREAM)
        await broker.declare(STREAM)  # it is there already
        last = await broker.publish("events.one", b"1")
        keeping = asyncio.create_task(broker.keep([STREAM]))
        await broker.js.delete_stream(STREAM.name)
        with pytest.raises(AppError):
            await broker.publish("events.one", b"2", timeout_s=1.0)
        async with asyncio.timeout(20):
            while not await _publishes(broker):
                await asyncio.sleep(0.1)
        assert (await broker.publish("events.one", b"3")).seq > last.seq
        assert bus.RECREATED.labels(STREAM.name)._value.get() == 1
        keeping.cancel()


@pytest.mark.req("R-HEAL-2")
async def test_a_consumer_that_was_deleted_is_made_again(nats_server: NatsServer) -> None:
    heard: list[bytes] = []

    async def handle(messages: list[Msg]) -> None:
        heard.extend(message.data for message in messages)

    async with bus.connect(nats_server.url, name="one", replicas=1) as broker:
        await broker.declare(STREAM)
        consuming = asyncio.create_task(
            broker.consume(stream=STREAM.name, durable="all", subject="events.>", handle=handle)
        )
        await broker.publish("events.one", b"1")
        await _until(lambda: heard == [b"1"])
        await broker.js.delete_consumer(STREAM.name, "all")
        await broker.publish("events.one", b"2")
        await _until(lambda: b"2" in heard, within_s=40)
        consuming.cancel()


@pytest.mark.req("R-DB-4")
async def test_a_batch_that_takes_long_is_not_handed_to_another_meanwhile(nats_server: NatsServer) -> None:
    """Under load a batch took longer than the broker waits: it came again, each time to a consumer that was slower for
    it, until nothing went on any more."""
    begun: list[int] = []
    handled: list[int] = []

    async def handle(messages: list[Msg]) -> None:
        begun.extend(int(message.data) for message in messages)
        await asyncio.sleep(3.0)  # three times what the broker waits
        handled.extend(int(message.data) for message in messages)

    async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
        await broker.declare(STREAM)
        await _send(broker, range(10))
        consuming = [
            asyncio.create_task(
                broker.consume(
                    stream=STREAM.name, durable="slow", subject="events.>", handle=handle, batch=5, ack_wait_s=1.0
                )
            )
            for _ in range(3)  # one of them has nothing to do
        ]
        async with asyncio.timeout(60):
            while True:
                if len(handled) >= 10 and len(handled) == len(begun):
                    info = await broker.js.consumer_info(STREAM.name, "slow")
                    if not info.num_ack_pending and not info.num_pending:
                        break
                await asyncio.sleep(0.05)
        for task in consuming:
            task.cancel()
        assert sorted(handled) == list(range(10))


@pytest.mark.req("R-DB-4", "R-HEAL-2")
async def test_what_is_too_much_at_once_goes_through_in_pieces_and_in_order(nats_server: NatsServer) -> None:
    """A batch that a slow database could not take within the limit of a transaction was tried as it was, for ever."""
    handled: list[int] = []
    largest = 0

    async def handle(messages: list[Msg]) -> None:
        nonlocal largest
        if len(messages) > 3:
            raise AppError(Kind.UNAVAILABLE, "The database does not answer.", log="took too long in all")
        largest = max(largest, len(messages))
        handled.extend(int(message.data) for message in messages)

    async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
        await broker.declare(STREAM)
        await _send(broker, range(20))
        consuming = asyncio.create_task(
            broker.consume(stream=STREAM.name, durable="slow", subject="events.>", handle=handle)
        )
        await _until(lambda: len(handled) == 20, within_s=60)
        consuming.cancel()
        assert handled == list(range(20))
        assert largest > 1


async def test_batches_gather_what_comes_one_by_one(nats_server: NatsServer) -> None:
    """Messages that come every few milliseconds are handled together, the first of them at once."""

    async def sizes(gather_s: float, durable: str) -> list[int]:
        handled: list[int] = []

        async def handle(messages: list[Msg]) -> None:
            handled.append(len(messages))

        consuming = asyncio.create_task(
            broker.consume(
                stream=STREAM.name, durable=durable, subject=f"events.{durable}", handle=handle, gather_s=gather_s
            )
        )
        for _ in range(40):
            await broker.js.publish(f"events.{durable}", b"")
            await asyncio.sleep(0.01)
        await _until(lambda: sum(handled) == 40, within_s=60)
        consuming.cancel()
        return handled

    async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
        await broker.declare(STREAM)
        alone = await sizes(0.0, "alone")
        together = await sizes(0.2, "together")
        assert len(together) <= 6, together
        assert len(alone) >= 12, alone


@pytest.mark.req("R-HEAL-2", "R-WS-4", "R-DB-4")
async def test_order_outlives_what_a_broken_connection_has_swallowed(nats_server: NatsServer) -> None:
    """The client reconnects by itself: what was on its way on the connection before came half a minute later, behind
    newer messages, and entries of a session before the one that opens it."""
    host, _, port = nats_server.url.removeprefix("nats://").partition(":")
    heard: list[int] = []
    next_sequence = 0

    async def handle(messages: list[Msg]) -> None:
        nonlocal next_sequence
        heard.extend(int(message.data) for message in messages)
        next_sequence = messages[-1].metadata.sequence.stream + 1

    async def start() -> int:
        return next_sequence

    async with (
        Proxy(0, [(host, int(port))]) as way,
        bus.connect(nats_server.url, name="sender", replicas=1) as sender,
        bus.connect(f"nats://{host}:{way.port}", name="consumer", replicas=1) as broker,
    ):
        await sender.declare(STREAM)
        next_sequence = (await sender.js.stream_info(STREAM.name)).state.first_seq
        consuming = asyncio.create_task(
            broker.consume(stream=STREAM.name, durable="one", subject="events.>", handle=handle, start=start)
        )
        await _send(sender, range(10))
        await _until(lambda: len(heard) == 10, within_s=30)
        way.down.stall()
        await _send(sender, range(10, 20))
        async with asyncio.timeout(30):
            while not (await sender.js.consumer_info(STREAM.name, "one")).num_ack_pending:
                await asyncio.sleep(0.05)
        way.reset()
        way.down.flow()
        await _send(sender, range(20, 30))
        await _until(lambda: len(heard) >= 30, within_s=60)
        assert heard == list(range(30))
        consuming.cancel()


async def _send(broker: bus.Bus, numbers: range) -> None:
    for number in numbers:
        await broker.publish("events.one", str(number).encode())


async def _publishes(broker: bus.Bus) -> bool:
    try:
        await broker.publish("events.one", b"2", timeout_s=1.0)
    except AppError:
        return False
    return True


async def _until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.05)
