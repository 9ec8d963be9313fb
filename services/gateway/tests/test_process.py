"""The gateway as a process: what `python -m services.gateway` does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from services.gateway.tests.conftest import Signer

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def started(**variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "build" / "gen")]),
        "SERVICE_AUTH_KEY": "k" * 32,
        "AUTH_PUBLIC_KEY": Signer().public_pem,
        "TRANSCRIBER_TARGETS": "127.0.0.1:1",
        "MEETINGS_TARGET": "127.0.0.1:1",
        "INSIGHTS_TARGET": "127.0.0.1:1",
        "NOTICE_S": "0",
        **variables,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.gateway", env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.req("R-SVC-7")
async def test_it_serves_without_its_neighbours_and_ends_on_sigterm_with_status_0() -> None:
    public, internal = free_port(), free_port()
    async with started(PORT=str(public), INTERNAL_PORT=str(internal)) as process:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while b'"event":"ready"' not in await process.stdout.readline():
                pass
            async with httpx2.AsyncClient() as client:
                assert (await client.get(f"http://127.0.0.1:{public}/healthz")).status_code == 200
                # A neighbour that is away fails the calls that need it; every replica unready would fail them all.
                ready = (await client.get(f"http://127.0.0.1:{internal}/readyz")).json()
                assert ready == {"status": "ready", "faults": {}}
                assert (await client.get(f"http://127.0.0.1:{public}/readyz")).status_code == 200
                assert (await client.get(f"http://127.0.0.1:{public}/metrics")).status_code == 404
                seen: list[str] = []
                while not seen or seen[-1] != "fallback":
                    detail = (await client.get(f"http://127.0.0.1:{internal}/readyz?verbose")).json()
                    seen.append(detail["parts"]["redis"]["state"])
                    await asyncio.sleep(0.05)
                assert set(seen) <= {"disconnected", "reconnecting", "fallback"}
                assert detail["state"] == "ready"
                assert detail["parts"]["redis"]["failed"] == 0
                assert detail["parts"]["transcribers"] == {"state": "away", "connected": []}
                assert detail["resources"]["memory_bytes"] > 0
                assert "relay.py" in (await client.get(f"http://127.0.0.1:{internal}/debug/tasks")).text
                assert (await client.get(f"http://127.0.0.1:{public}/debug/tasks")).status_code == 404
                assert "http_server_request" in (await client.get(f"http://127.0.0.1:{internal}/metrics")).text
                asked = await client.get(f"http://127.0.0.1:{public}/nothing?ticket=canary")
            process.send_signal(signal.SIGTERM)
            log, _ = await process.communicate()
        assert process.returncode == 0
        assert asked.headers["x-request-id"].encode() in log
        assert b"canary" not in log
        assert log.index(b'"draining"') < log.index(b'"stopped"')


@pytest.mark.req("R-SVC-7", "R-RUN-4")
async def test_after_sigterm_it_serves_until_load_balancers_have_noticed() -> None:
    """It closed its port and every idle connection at once: a request that was on its way met a reset."""
    public, internal = free_port(), free_port()
    async with started(PORT=str(public), INTERNAL_PORT=str(internal), NOTICE_S="2") as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{public}"
        async with asyncio.timeout(30):
            while b'"event":"ready"' not in await process.stdout.readline():
                pass
            async with httpx2.AsyncClient() as client:
                assert "connection" not in (await client.get(f"{url}/healthz")).headers
                process.send_signal(signal.SIGTERM)
                while (await client.get(f"{url}/readyz")).status_code != 503:
                    await asyncio.sleep(0.02)
                last = await client.get(f"{url}/healthz")  # on a new connection: the one before was the last of its own
                assert last.status_code == 200
                assert last.headers["connection"] == "close"
            await process.communicate()
        assert process.returncode == 0


@pytest.mark.req("R-SVC-7")
async def test_it_does_not_start_on_a_wrong_setting() -> None:
    async with started(PORT="nowhere") as process:
        async with asyncio.timeout(60):
            _, told = await process.communicate()
        assert process.returncode == 2
        assert told.startswith(b"PORT: ")
