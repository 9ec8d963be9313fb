"""The relay over gRPC, as a gateway uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcriber.v1 import transcriber_pb2_grpc
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import ids, rpc
from chassis.tests.servers import NatsServer
from services.transcriber.api import TranscriberService
from services.transcriber.tests.replicas import OWNER, Replica, replica

KEY = "k" * 32


@asynccontextmanager
async def relay_of(one: Replica) -> AsyncIterator[Any]:
    """Open the stream of a gateway to a replica."""
    server = rpc.Server("127.0.0.1", 0, rpc.Identity("transcriber", KEY))
    service = TranscriberService(one.sessions, one.aftercare, one.heal_jobs)
    server.add(transcriber_pb2_grpc.add_TranscriberServiceServicer_to_server, service)
    await server.start()
    door = rpc.Peer(f"127.0.0.1:{server.port}", rpc.Identity("gateway", KEY))
    call = transcriber_pb2_grpc.TranscriberServiceStub(door.channel).Relay(metadata=door.metadata())
    await call.wait_for_connection()
    try:
        yield call
    finally:
        call.cancel()
        await door.close()
        await server.stop(0)


def opening(channel: int, session_id: str) -> relay.ClientEvent:
    opened = pb.Opened(meeting_id=ids.new_id(), owner_id=OWNER, sample_rate=16_000, channels=1)
    return relay.ClientEvent(channel=channel, open=relay.Open(session_id=session_id, session=opened))


def said(channel: int, offset: int, data: bytes) -> relay.ClientEvent:
    return relay.ClientEvent(channel=channel, audio=relay.Audio(offset=offset, data=data))


@pytest.mark.req("R-WS-3", "R-WS-4")
async def test_who_has_lost_a_session_to_another_connection_adds_nothing_to_it(nats_server: NatsServer) -> None:
    """A gateway was frozen, its client came back through another; thawed, the first delivered what it still had: audio
    beyond what the client had sent on its new connection, which was acknowledged to it there."""
    session_id, ours, theirs = ids.new_id(), b"\1\0" * 1600, b"\2\0" * 1600

    async with replica(nats_server, "a") as one, relay_of(one) as call:

        async def told(kind: str, channel: int) -> relay.ServerEvent:
            async with asyncio.timeout(10):
                while True:
                    batch: relay.RelayResponse = await call.read()
                    for event in batch.events:
                        if event.channel == channel and event.WhichOneof("kind") == kind:
                            return event

        await call.write(relay.RelayRequest(events=[opening(1, session_id)]))
        token = (await told("started", 1)).started.resume_token
        await call.write(relay.RelayRequest(events=[said(1, 0, ours)]))
        while (await told("ack", 1)).ack.offset < len(ours):
            pass
        resume = relay.Resume(session_id=session_id, owner_id=OWNER, resume_token=token)
        await call.write(relay.RelayRequest(events=[relay.ClientEvent(channel=2, resume=resume)]))
        assert (await told("restored", 2)).restored.offset == len(ours)
        late = [
            said(1, len(ours), theirs),
            relay.ClientEvent(channel=1, gap=relay.DeclareGap(from_offset=2 * len(ours), to_offset=4 * len(ours))),
            relay.ClientEvent(channel=1, finish=relay.Finish()),
        ]
        await call.write(relay.RelayRequest(events=[*late, said(2, len(ours), ours)]))
        while (offset := (await told("ack", 2)).ack.offset) < 2 * len(ours):
            pass
        assert offset == 2 * len(ours)
        await call.write(relay.RelayRequest(events=[said(2, 2 * len(ours), ours)]))
        while (await told("ack", 2)).ack.offset < 3 * len(ours):
            pass
        assert (await one.audio.read(session_id, 0, 0))[0] == 3 * ours


@pytest.mark.req("R-WS-3", "R-SVC-6")
@pytest.mark.parametrize("state", ["greeted", "in the midst of its greeting", "not reading"])
async def test_sessions_of_a_gateway_that_is_gone_are_detached_at_once(
    nats_server: NatsServer, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    """The stream's handler was left to the garbage collector: sessions kept a client that was gone until then."""
    mishaps: list[object] = []

    def note(_: asyncio.AbstractEventLoop, mishap: dict[str, Any]) -> None:
        # gRPC has one poller for all loops: one that was closed with a test before is not ours, which is open.
        if str(mishap.get("exception")) != "Event loop is closed":
            mishaps.append(mishap)

    asyncio.get_running_loop().set_exception_handler(note)
    session_id = ids.new_id()
    async with replica(nats_server, "a") as one, relay_of(one) as call:
        await call.write(relay.RelayRequest(events=[opening(1, session_id)]))
        if state != "in the midst of its greeting":
            batch = await call.read()
            assert batch.events[0].WhichOneof("kind") == "started"
            assert one.sessions.get(session_id).attached  # type: ignore[union-attr]
        if state == "not reading":
            # More answers than its window takes: the handler waits in the midst of sending them.
            strangers = [opening(channel, "") for channel in range(2, 4_000)]
            for first in range(0, len(strangers), 1000):
                await call.write(relay.RelayRequest(events=strangers[first : first + 1000]))
            await asyncio.sleep(0.3)
        call.cancel()
        async with asyncio.timeout(5):
            while (session := one.sessions.get(session_id)) is not None and session.attached:
                await asyncio.sleep(0.01)
    assert mishaps == []
    assert "stream failed" not in capsys.readouterr().out
