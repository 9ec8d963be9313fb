"""What viewers are told at once, and that nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
import pytest
from verbatim.captions.v1.captions_pb2 import Caption
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from services.transcriber.captions import Captions

DEGRADED = relay.Status(state=relay.STATE_DEGRADED)
OPENED = pb.Opened(meeting_id="m1", speaker="Ann")


class Broker:
    """Takes what is published, after `gate` is open; refuses the next `refusals`."""

    def __init__(self) -> None:
        self.took: list[tuple[str, Caption]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusals = 0
        self.done = asyncio.Event()

    async def publish(self, subject: str, payload: bytes) -> None:
        await self.gate.wait()
        if self.refusals:
            self.refusals -= 1
            raise nats.errors.OutboundBufferLimitError
        self.took.append((subject, Caption.FromString(payload)))
        self.done.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.took) < count:
                self.done.clear()
                await self.done.wait()


@asynccontextmanager
async def running(captions: Captions) -> AsyncIterator[None]:
    task = asyncio.create_task(captions.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.req("R-WS-6")
async def test_partials_and_states_go_to_the_meeting_with_session_and_speaker() -> None:
    broker = Broker()
    captions = Captions(broker.publish)
    async with running(captions):
        captions.say("s1", OPENED, DEGRADED)
        captions.say("s1", OPENED, DEGRADED, relay.Partial(index=3, text="and"))
        await broker.until(2)
    assert [(subject, said.session_id, said.speaker) for subject, said in broker.took] == [
        ("captions.m1", "s1", "Ann")
    ] * 2
    assert all(said.status == DEGRADED for _, said in broker.took)
    assert [said.HasField("partial") for _, said in broker.took] == [False, True]


@pytest.mark.req("R-WS-6", "R-WS-8")
async def test_broker_that_refuses_or_hangs_costs_the_oldest_captions_and_nobody_waits() -> None:
    broker = Broker()
    captions = Captions(broker.publish, waiting_max=10)
    async with running(captions):
        broker.refusals = 1
        captions.say("s1", OPENED, DEGRADED, relay.Partial(index=1))
        captions.say("s1", OPENED, DEGRADED, relay.Partial(index=2))
        await broker.until(1)
        broker.gate.clear()
        for index in range(3, 103):
            captions.say("s1", OPENED, DEGRADED, relay.Partial(index=index))
        broker.gate.set()
        captions.say("s1", OPENED, DEGRADED, relay.Partial(index=103))
        await broker.until(11)
    assert [said.partial.index for _, said in broker.took] == [2, *range(94, 104)]
