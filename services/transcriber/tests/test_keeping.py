"""What is kept, and for how long: sessions that say nothing, and the two logs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from nats.js.api import DiscardPolicy
from nats.js.errors import APIError

from chassis import bus
from chassis.tests.servers import NatsServer
from services.transcriber.logs import streams
from services.transcriber.session import SessionSettings
from services.transcriber.tests.fakes import Client
from services.transcriber.tests.replicas import replica

IDLE_S = 1800.0
WITHIN_S = 30.0


@pytest.mark.req("R-WS-5")
@pytest.mark.parametrize("paused", [False, True])
async def test_pause_holds_the_idle_timer(nats_server: NatsServer, paused: bool) -> None:
    async with replica(nats_server, "a", SessionSettings(idle_s=IDLE_S, stored_wait_s=0.05)) as a:
        client = Client()
        session = await a.open(client)
        if paused:
            session.pause(True)
        session.tick(time.monotonic() + IDLE_S - 1)
        assert a.sessions.get(session.id) is session
        session.tick(time.monotonic() + IDLE_S + 1)
        if paused:
            assert a.sessions.get(session.id) is session
            session.pause(False)
            session.tick(time.monotonic() + IDLE_S + 1)
        await client.until(lambda c: c.of("finished"))
        assert a.sessions.get(session.id) is None


@pytest.mark.req("R-RES-3", "R-WS-4")
async def test_logs_are_bounded_by_age_and_by_size_and_a_full_one_refuses(nats_server: NatsServer) -> None:
    """What is full refuses the new: what is old was acknowledged."""
    async with bus.connect(nats_server.url, name="keeping", replicas=1) as broker:
        for stream in streams(1024**2, 1024**2, 2.0):
            await broker.declare(replace(stream, duplicate_window_s=1.0))
            config = (await broker.js.stream_info(stream.name)).config
            assert (config.max_age, config.max_bytes, config.discard) == (2.0, 1024**2, DiscardPolicy.NEW)
        for _ in range(15):
            await broker.js.publish("audio.s", bytes(64_000))
        with pytest.raises(APIError):
            for _ in range(15):
                await broker.js.publish("audio.s", bytes(64_000))
        async with asyncio.timeout(WITHIN_S):
            while (await broker.js.stream_info("AUDIO")).state.messages:
                await asyncio.sleep(0.1)
