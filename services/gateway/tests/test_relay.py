"""Which transcriber a session is brought to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcriber.v1 import transcriber_pb2_grpc

from chassis import rpc
from services.gateway.relay import Fleet, Link

IDENTITY = rpc.Identity("gateway", "k" * 32)


class Transcriber(transcriber_pb2_grpc.TranscriberServiceServicer):
    """Keeps its streams open; one that retires says so at once."""

    def __init__(self, *, retires: bool) -> None:
        self._retires = retires

    async def Relay(self, request_iterator: Any, context: Any) -> AsyncIterator[relay.RelayResponse]:  # noqa: N802
        """Serve one stream."""
        await context.send_initial_metadata(())
        if self._retires:
            yield relay.RelayResponse(events=[relay.ServerEvent(status=relay.Status(state=relay.STATE_DRAINING))])
        async for _ in request_iterator:
            pass

    async def FinishSession(self, request: Any, context: Any) -> relay.FinishSessionResponse:  # noqa: N802
        """Not asked for here."""
        raise NotImplementedError


async def serving(servicer: Transcriber) -> rpc.Server:
    server = rpc.Server("127.0.0.1", 0, rpc.Identity("transcriber", "k" * 32))
    server.add(transcriber_pb2_grpc.add_TranscriberServiceServicer_to_server, servicer)
    await server.start()
    return server


@pytest.mark.req("R-SVC-7", "R-WS-3")
async def test_nobody_is_brought_to_a_transcriber_that_retires() -> None:
    staying, leaving = Transcriber(retires=False), Transcriber(retires=True)  # type: ignore[abstract]
    servers = [await serving(one) for one in (staying, leaving)]
    fleet = Fleet([f"127.0.0.1:{server.port}" for server in servers], IDENTITY)
    running = asyncio.create_task(fleet.run())
    wanted = f"127.0.0.1:{servers[0].port}"
    async with asyncio.timeout(10):
        while {(await fleet.choose(f"session {n}", 5.0)).target for n in range(20)} != {wanted}:
            await asyncio.sleep(0.01)
    running.cancel()
    for server in servers:
        await server.stop(0)


class Forsaking(Transcriber):
    """Ends each stream at once, however much is being written to it; `streams` counts them."""

    def __init__(self) -> None:
        super().__init__(retires=False)
        self.streams = 0

    async def Relay(self, request_iterator: Any, context: Any) -> AsyncIterator[relay.RelayResponse]:  # noqa: N802
        """Serve one stream for a moment."""
        self.streams += 1
        await context.send_initial_metadata(())
        await anext(request_iterator)
        yield relay.RelayResponse()


class Talker:
    """A session that talks without a pause, and comes back whenever its transcriber is gone."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.lost = 0

    def on_event(self, event: relay.ServerEvent) -> None:
        """Hear nothing."""

    def on_lost(self) -> None:
        """Note it."""
        self.lost += 1

    async def talk(self) -> None:
        """Join, say as much as goes, join again."""
        audio = relay.Audio(data=bytes(16_000))
        while True:
            if self._link.connected:
                channel, lost = self._link.join(self), self.lost
                while self.lost == lost:
                    self._link.send(relay.ClientEvent(channel=channel, audio=audio))
                    await asyncio.sleep(0)
            await asyncio.sleep(0.001)


@pytest.mark.req("R-WS-4", "R-HEAL-2")
async def test_a_stream_that_breaks_while_it_is_written_to_is_made_again() -> None:
    """The writing half met a call that was over (asyncio.InvalidStateError), and that ended the gateway."""
    forsaking = Forsaking()  # type: ignore[abstract]
    server = await serving(forsaking)
    links = [Link(f"127.0.0.1:{server.port}", IDENTITY, lambda: None) for _ in range(24)]
    running = [asyncio.create_task(link.run()) for link in links]
    talkers = [Talker(link) for link in links]
    talking = [asyncio.create_task(talker.talk()) for talker in talkers]
    async with asyncio.timeout(30):
        while forsaking.streams < 150 and not any(task.done() for task in running):
            await asyncio.sleep(0.01)
    for task in talking:
        task.cancel()
    assert [task.exception() for task in running if task.done()] == []
    assert any(talker.lost for talker in talkers)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, *talking, return_exceptions=True)
    await server.stop(0)


class Hearing(Transcriber):
    """Counts the frames that it gets."""

    def __init__(self) -> None:
        super().__init__(retires=False)
        self.frames = 0

    async def Relay(self, request_iterator: Any, context: Any) -> AsyncIterator[relay.RelayResponse]:  # noqa: N802
        """Serve one stream."""
        await context.send_initial_metadata(())
        yield relay.RelayResponse()
        async for batch in request_iterator:
            self.frames += len(batch.events)


@pytest.mark.req("R-WS-4")
async def test_frames_that_gathered_while_the_transcriber_was_busy_fit_into_messages() -> None:
    """At 400 sessions a third of a second was more than a gRPC message may have: the stream and all sessions died."""
    hearing = Hearing()  # type: ignore[abstract]
    server = await serving(hearing)
    link = Link(f"127.0.0.1:{server.port}", IDENTITY, lambda: None)
    running = asyncio.create_task(link.run())
    talker = Talker(link)
    async with asyncio.timeout(20):
        while not link.connected:
            await asyncio.sleep(0.01)
        channel = link.join(talker)
        audio = relay.Audio(data=bytes(64 * 1024))
        for _ in range(200):
            link.send(relay.ClientEvent(channel=channel, audio=audio))
        while hearing.frames < 200 and not talker.lost:
            await asyncio.sleep(0.01)
    assert (hearing.frames, talker.lost) == (200, 0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await server.stop(0)
