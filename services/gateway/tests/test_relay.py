"""Which transcriber a session is brought to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcriber.v1 import transcriber_pb2_grpc

from chassis import rpc
from services.gateway.relay import Fleet

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
