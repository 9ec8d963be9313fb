"""A gateway that has no file descriptor left."""

from __future__ import annotations

import asyncio
import time

import httpx2
import psutil
import pytest

from services.gateway.tests.test_process import free_port, started

RECOVERED_S = 5.0


@pytest.mark.req("R-RES-4")
async def test_without_descriptors_known_clients_are_served_and_new_ones_again_when_there_are_some() -> None:
    """Row 40 of the fault table: the loop that accepts connections outlives EMFILE."""
    public, internal = free_port(), free_port()
    async with started(PORT=str(public), INTERNAL_PORT=str(internal), CONNECTIONS_PER_IP_MAX="100000") as process:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while b'"event":"ready"' not in await process.stdout.readline():
                pass
        drain = asyncio.create_task(process.stdout.read())
        gateway = psutil.Process(process.pid)
        base = f"http://127.0.0.1:{public}"
        async with httpx2.AsyncClient(base_url=base, timeout=30) as known:
            assert (await known.get("/healthz")).status_code == 200
            most = gateway.num_fds() + 20
            gateway.rlimit(psutil.RLIMIT_NOFILE, (most, most))
            crowd = [await asyncio.open_connection("127.0.0.1", public) for _ in range(60)]
            async with asyncio.timeout(30):
                while gateway.num_fds() < most:
                    await asyncio.sleep(0.05)
            for _ in range(3):
                assert (await known.get("/healthz")).status_code == 200
            for _, writer in crowd:
                writer.close()
            freed = time.monotonic()
            async with httpx2.AsyncClient(base_url=base, timeout=30) as new:
                assert (await new.get("/healthz")).status_code == 200
            assert time.monotonic() - freed < RECOVERED_S
        assert process.returncode is None
        process.terminate()
        await process.wait()
        await drain
