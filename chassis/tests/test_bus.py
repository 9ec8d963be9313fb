"""The bus on a real broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop

from chassis import bus
from chassis.errors import AppError, Kind
from chassis.tests.servers import NatsServer

STREAM = bus.Stream("EVENTS", ("events.>",), max_bytes=16 * 1024**2)


@pytest.mark.req("R-SVC-6")
def test_a_fault_of_the_broker_is_no_bug_of_ours() -> None:
    """RuntimeError was among them, because of one sentence of uvloop's: bugs of ours were tried again for ever."""
    assert not any(issubclass(RuntimeError, fault) for fault in bus.FAULTS)


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
