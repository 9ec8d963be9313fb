"""Row 40 of the fault table: every process is out of threads and children."""

from __future__ import annotations

import io
import time

import httpx2
import pytest

from dev.stack import Stack
from tests.corpus import recordings as make
from tests.e2e.conftest import PASSWORD, NewClient
from tests.e2e.pids import exhausted, may_limit
from tests.e2e.speech import recording, started

RECOVERED_S = 5.0
SERVICES = ("meetings", "insights", "janitor", "transcriber", "gateway")


@pytest.mark.timeout(300)
@pytest.mark.req("R-RES-4")
async def test_out_of_threads_nothing_dies_and_what_cannot_be_done_is_refused(
    stack: Stack, new_client: NewClient
) -> None:
    if why := may_limit():
        pytest.skip(why)
    client = await new_client()
    email = str((await client.me())["email"])
    headers = {"Authorization": f"Bearer {client.access_token}"}
    for name in SERVICES:  # fresh ones, which have no threads from before
        await stack.restart(name)
    pids = [pid for name in SERVICES if (pid := stack.runner.pid(name))]

    async with httpx2.AsyncClient(base_url=stack.url, headers=headers, timeout=20) as http:

        async def log_in() -> httpx2.Response:
            return await http.post("/api/auth/login", json={"email": email, "password": PASSWORD})

        async def upload() -> httpx2.Response:
            sound = io.BytesIO(make.wav(recording(2.0)))
            return await http.post("/api/uploads", files={"file": ("a.wav", sound, "audio/wav")})

        with exhausted(pids):
            refused = await log_in()  # argon2 starts threads of its own
            assert refused.status_code == 503, refused.text
            assert "retry-after" in refused.headers
            for path in ("/openapi.json", "/api/meetings", "/api/analytics"):
                assert (await http.get(path)).status_code == 200, path
            taken = await upload()
            assert taken.status_code == 202, taken.text
            async with started(stack.ws_url, client) as (bare, _):
                await bare.audio(0, recording(1.0)[:16_000])
                assert (await bare.hear("ack"))["offset"] >= 0
        freed = time.monotonic()
        assert (await log_in()).status_code == 200
        assert time.monotonic() - freed < RECOVERED_S
        job = await client.job_done(taken.json()["job_id"])
        assert job["status"] == "completed", job
    assert pids == [stack.runner.pid(name) for name in SERVICES]
    assert set(SERVICES) <= set(stack.runner.running())
