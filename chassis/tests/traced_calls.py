"""Serve and make calls with traces going to ENDPOINT; print how long they took, and how long the end did, as JSON.

`python -m chassis.tests.traced_calls ENDPOINT`; an endpoint of `-` is none.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import grpc
import orjson

from chassis import rpc, tracing

CALLS = 400


async def _answer(request: bytes, _: Any) -> bytes:
    with tracing.step("work"):
        return request


def _register(_: object, server: grpc.aio.Server) -> None:
    methods: dict[str, Any] = {"Call": grpc.unary_unary_rpc_method_handler(_answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", methods),))


async def _calls() -> list[float]:
    identity = rpc.Identity("test", "k" * 40)
    server = rpc.Server("127.0.0.1", 0, identity)
    server.add(_register, None)
    await server.start()
    took = []
    async with rpc.peer(f"127.0.0.1:{server.port}", identity) as peer:
        method: Any = peer.channel.unary_unary("/t.T/Call")
        for _ in range(CALLS):
            began = time.perf_counter()
            with tracing.serve("request", None):
                await peer.call(method, b"x", timeout_s=10)
            took.append(time.perf_counter() - began)
    await server.stop(0)
    return sorted(took)


def main(endpoint: str) -> None:
    """Measure."""
    traces = tracing.Tracing("test", replica="1", version="0", endpoint="" if endpoint == "-" else endpoint, ratio=1.0)
    traces.install()
    took = asyncio.run(_calls())
    began = time.perf_counter()
    traces.close()
    figures = {
        "p50_ms": took[len(took) // 2] * 1000,
        "p99_ms": took[int(len(took) * 0.99)] * 1000,
        "close_s": time.perf_counter() - began,
    }
    sys.stdout.write(orjson.dumps(figures).decode())


if __name__ == "__main__":
    main(sys.argv[1])
