"""A disk that fills up: uploads get 507 before anything breaks, live audio goes on, and all of it ends by itself."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from dev.settings import ROOT
from dev.stack import Stack
from tests.chaos.disk import Disk, may_mount
from tests.corpus import recordings as make
from tests.e2e.conftest import NewClient
from tests.e2e.speech import recording, started

pytestmark = pytest.mark.req("R-RES-3")

MB = 1_000_000


@asynccontextmanager
async def watching(stack: Stack, disk: Disk) -> AsyncIterator[asyncio.subprocess.Process]:
    """A janitor beside that disk, which does nothing but watch it."""
    env = stack.env("janitor") | {
        "INTERNAL_PORT": "0", "VERBATIM_DATA_DIR": str(disk.folder), "ROUNDS": '["disk"]', "DISK_EVERY_S": "0.5",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.janitor", env=env, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.timeout(400)
async def test_uploads_are_refused_while_a_disk_is_full_and_let_in_again_also_without_a_janitor(
    stack: Stack, new_client: NewClient, tmp_path: Path
) -> None:
    if why := may_mount():
        pytest.skip(why)
    client = await new_client()
    headers = {"Authorization": f"Bearer {client.access_token}"}
    sound = make.wav(make.tone(0.2))

    async with httpx2.AsyncClient(base_url=stack.url, headers=headers, timeout=30) as http:

        async def upload() -> httpx2.Response:
            return await http.post("/api/uploads", files={"file": ("a.wav", io.BytesIO(sound), "audio/wav")})

        async def until(status: int) -> httpx2.Response:
            async with asyncio.timeout(120):
                while (answer := await upload()).status_code != status:
                    await asyncio.sleep(2.0)  # files have a limit of their own
            return answer

        with Disk(tmp_path / "disk") as disk:
            (disk.folder / "data").write_bytes(os.urandom(10 * MB))
            assert (await upload()).status_code == 202
            async with watching(stack, disk) as janitor:
                disk.fill(left_bytes=MB // 5)  # 98 %
                refused = await until(507)
                assert refused.json()["error"] == "insufficient_storage"
                assert refused.headers["retry-after"] == "60"
                pcm = recording(2.0)  # live audio goes on
                async with started(stack.ws_url, client) as (bare, _):
                    await bare.audio(0, pcm[:32_000])
                    assert (await bare.hear("ack"))["offset"] >= 0
                disk.enlarge()
                await until(202)
                disk.fill(left_bytes=MB // 5)
                await until(507)
                janitor.kill()  # nobody is there to lift it
                await janitor.wait()
                await until(202)
