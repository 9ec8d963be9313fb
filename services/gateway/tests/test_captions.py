"""The gateway's door to live captions, on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from verbatim.captions.v1.captions_pb2 import Caption, EntriesStored

from chassis import bus
from chassis.tests.servers import NatsServer, nats_server
from services.gateway.broker import Broker
from services.gateway.captions import NatsCaptions

__all__ = ["nats_server"]

WAKE = Caption(stored=EntriesStored()).SerializeToString()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.mark.req("R-WS-6", "R-HEAL-2")
async def test_captions_come_whether_the_broker_was_there_first_or_came_later_or_came_back(
    nats_server: NatsServer,
) -> None:
    heard: list[Caption] = []
    broker = Broker(nats_server.url, "test")
    captions = NatsCaptions(broker)
    async with captions.follow("m1", heard.append):
        running = asyncio.create_task(broker.run())
        try:
            await until(lambda: captions.connected)
            async with captions.follow("m2", heard.append), bus.connect(nats_server.url, name="s", replicas=1) as own:

                async def tell(wanted: int) -> None:
                    async with asyncio.timeout(20):
                        while len(heard) < wanted:
                            for meeting in ("m1", "m2", "m3"):
                                await bus.quietly(own.client.publish(f"captions.{meeting}", WAKE))
                            await bus.quietly(own.client.publish("captions.m1", b"\xff not a caption"))
                            await asyncio.sleep(0.05)

                await tell(4)
                nats_server.kill()
                await until(lambda: not captions.connected)
                nats_server.start()
                await tell(len(heard) + 4)
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.wait([running])


@pytest.mark.req("R-WS-6")
async def test_who_left_hears_nothing_more(nats_server: NatsServer) -> None:
    left: list[Caption] = []
    heard: list[Caption] = []
    broker = Broker(nats_server.url, "test")
    captions = NatsCaptions(broker)
    running = asyncio.create_task(broker.run())
    try:
        await until(lambda: captions.connected)
        async with bus.connect(nats_server.url, name="speaker", replicas=1) as own:
            async with captions.follow("m1", heard.append):
                async with captions.follow("m1", left.append):
                    pass
                async with asyncio.timeout(20):
                    while not heard:
                        await own.client.publish("captions.m1", WAKE)
                        await asyncio.sleep(0.02)
            assert left == []
    finally:
        running.cancel()
        await asyncio.wait([running])
