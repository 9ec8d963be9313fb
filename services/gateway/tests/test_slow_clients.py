"""A thousand slow connections at a gateway of its own (row 33 of the fault matrix)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest

from services.gateway.tests.test_process import free_port, started
from tests.chaos.slow_clients import KINDS, Slowness, broken, others, outlast

pytestmark = [pytest.mark.long, pytest.mark.req("R-RES-4"), pytest.mark.timeout(600)]

Connections = Callable[[], Awaitable[int]]
READY_WITHIN_S = 120.0


@asynccontextmanager
async def alone(**variables: str) -> AsyncIterator[tuple[int, Connections]]:
    """Run a gateway without its neighbours; give its port, and who tells how many connections it has."""
    public, internal = free_port(), free_port()
    # Nobody reads what it logs: it must not have much to say, or it would wait for a reader.
    settings = {"PORT": str(public), "INTERNAL_PORT": str(internal), "LOG_LEVEL": "ERROR", **variables}
    async with started(**settings), httpx2.AsyncClient() as http:

        async def connections() -> int:
            text = (await http.get(f"http://127.0.0.1:{internal}/metrics", timeout=30)).text
            return int(float(re.search(r"^http_server_connections (\S+)", text, re.MULTILINE)[1]))  # type: ignore[index]

        async with asyncio.timeout(READY_WITHIN_S):
            while True:
                try:
                    if (await http.get(f"http://127.0.0.1:{public}/healthz")).is_success:
                        break
                except httpx2.TransportError:
                    await asyncio.sleep(0.1)
        yield public, connections


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_slow_connections_are_cut_off_and_others_are_served_meanwhile(kind: Slowness) -> None:
    async with alone(UNREAD_TIMEOUT_S="15") as (port, connections):
        quiet = await others(port)
        found = await outlast(port, kind, connections, within_s=120.0)
        assert found.open > 900, found
        assert broken(found, quiet) == []
        print(f"slow {kind.name}: {found}")  # noqa: T201 - the figure of docs/faults-edge.md


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_with_endless_patience_they_stay(kind: Slowness) -> None:
    """Negative control."""
    patience = {"HEAD_TIMEOUT_S": "300", "BODY_BYTES_PER_S_MIN": "1", "UNREAD_TIMEOUT_S": "600"}
    async with alone(**patience) as (port, connections):
        found = await outlast(port, kind, connections, within_s=25.0)
        assert not found.cut_off, found
