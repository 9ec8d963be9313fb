"""Run-time switches, at a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from chassis import bus, lifecycle
from chassis.controls import BUCKET, Controls
from chassis.errors import AppError
from chassis.tests.servers import NatsServer

pytestmark = pytest.mark.req("R-STT-3", "R-HEAL-1")


@asynccontextmanager
async def process(server: NatsServer) -> AsyncIterator[Controls]:
    """Another process that watches."""
    async with bus.connect(server.url, name="test", replicas=1) as broker:
        controls = Controls(broker)
        running = asyncio.create_task(controls.run())
        try:
            async with asyncio.timeout(10):
                await controls.read.wait()
            yield controls
        finally:
            await lifecycle.end([running])


async def until(holds: Callable[[], bool], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.fixture
async def clean(nats_server: NatsServer) -> NatsServer:
    async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
        with suppress(*bus.FAULTS):
            await broker.js.delete_key_value(BUCKET)
    return nats_server


async def test_what_one_process_sets_all_see(clean: NatsServer) -> None:
    async with process(clean) as one, process(clean) as other:
        seen: list[tuple[str, str | None]] = []
        other.watch(lambda name, value: seen.append((name, value)))
        assert other.value("breaker.openai", "auto") == "auto"
        await one.put("breaker.openai", "open", who="ada", why="vendor asked for it")
        await until(lambda: other.value("breaker.openai") == "open")
        assert [(control.who, control.why) for control in other.active()] == [("ada", "vendor asked for it")]
        await one.clear("breaker.openai", who="ada", why="over")
        await until(lambda: other.value("breaker.openai", "auto") == "auto")
        assert seen == [("breaker.openai", "open"), ("breaker.openai", None)]


async def test_a_process_that_starts_later_knows_what_holds(clean: NatsServer) -> None:
    async with process(clean) as one:
        await one.put("limits.mode", "aggressive", who="ada", why="flood")
    async with process(clean) as late:
        seen: list[tuple[str, str | None]] = []
        late.watch(lambda name, value: seen.append((name, value)))
        await until(lambda: late.value("limits.mode") == "aggressive")
        await until(lambda: seen == [("limits.mode", "aggressive")])


async def test_a_control_ends_when_its_time_is_over(clean: NatsServer) -> None:
    async with process(clean) as one:
        seen: list[tuple[str, str | None]] = []
        one.watch(lambda name, value: seen.append((name, value)))
        await one.put("limits.mode", "aggressive", who="ada", why="flood", for_s=0.5)
        assert one.value("limits.mode") == "aggressive"
        await until(lambda: seen == [("limits.mode", "aggressive"), ("limits.mode", None)])
        assert one.value("limits.mode", "normal") == "normal"


async def test_controls_outlive_the_broker_and_its_bucket(clean: NatsServer) -> None:
    async with process(clean) as one, process(clean) as other:
        await one.put("a", "1", who="ada", why="test")
        await until(lambda: other.value("a") == "1")
        clean.kill()
        assert other.value("a") == "1"
        with pytest.raises(AppError):
            await one.put("a", "2", who="ada", why="test")
        clean.start()
        await until(lambda: one._bus.client.is_connected and other._bus.client.is_connected)
        await one.put("a", "3", who="ada", why="test")
        await until(lambda: other.value("a") == "3")
        await one._bus.js.delete_key_value(BUCKET)
        await one.put("b", "4", who="ada", why="test")
        await until(lambda: other.value("b") == "4" and other.value("a") == "")
