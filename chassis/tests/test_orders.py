"""Orders of operators reach the process: its log level at run time, and to retire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from chassis import bus
from chassis.controls import Controls
from chassis.orders import Orders
from chassis.tests.servers import NatsServer

pytestmark = pytest.mark.req("R-HEAL-1", "R-OBS-5")


@pytest_asyncio.fixture
async def controls(nats_server: NatsServer) -> AsyncIterator[Controls]:
    async with bus.connect(nats_server.url, name="orders", replicas=1) as broker:
        found = Controls(broker)
        running = asyncio.create_task(found.run())
        yield found
        running.cancel()
        await asyncio.wait([running])


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(before)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)


async def test_the_narrowest_log_level_holds_and_ends_by_itself(controls: Controls, root: logging.Logger) -> None:
    Orders("meetings", "Meetings-1", "INFO", lambda: None).obey(controls)
    await controls.put("log_level", "ERROR", who="ops", why="noise")
    await until(lambda: root.level == logging.ERROR)
    await controls.put("log_level.meetings-1", "DEBUG", who="ops", why="look", for_s=1.5)
    await until(lambda: root.level == logging.DEBUG)
    await until(lambda: root.level == logging.ERROR)
    await controls.clear("log_level", who="ops", why="over")
    await until(lambda: root.level == logging.INFO)


async def test_a_replica_retires_when_told_and_only_then(controls: Controls) -> None:
    retired: list[str] = []
    Orders("meetings", "meetings-1", "INFO", lambda: retired.append("1")).obey(controls)
    Orders("meetings", "meetings-2", "INFO", lambda: retired.append("2")).obey(controls)
    await controls.put("drain.meetings-1", "now", who="ops", why="leak", for_s=300)
    await until(lambda: retired == ["1"])
    # What is started in its place, under the same name, is not meant.
    Orders("meetings", "meetings-1", "INFO", lambda: retired.append("1 again")).obey(controls)
    await controls.put("drain.meetings-2", "now", who="ops", why="leak", for_s=300)
    await until(lambda: retired == ["1", "2"])


async def test_caches_are_dropped_where_it_is_said_and_each_time(controls: Controls) -> None:
    dropped: list[str] = []
    for name in ("gateway-1", "gateway-2"):
        orders = Orders("gateway", name, "INFO", lambda: None)
        orders.may_forget(lambda name=name: dropped.append(name))  # type: ignore[misc]
        orders.obey(controls)
    await controls.put("caches.gateway-2", "now", who="ops", why="a key was changed", for_s=0.5)
    await until(lambda: dropped == ["gateway-2"])
    await until(lambda: controls.value("caches.gateway-2") == "")
    await controls.put("caches", "now", who="ops", why="a key was changed", for_s=60)
    await until(lambda: sorted(dropped) == ["gateway-1", "gateway-2", "gateway-2"])
