"""A session whose client and owner are both gone is completed, and its logs are freed."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx2
import pytest
from verbatim_client import VerbatimClient

from dev.plan import Plan
from dev.ports import Ports
from dev.stack import Stack
from tests.e2e.speech import recording, started
from tests.limits import ONE_ENGINE

QUICK = {"SESSIONS_EVERY_S": "0.5", "ORPHAN_IDLE_S": "3", "KEEP_LOGS_S": "0", "KEEP_DRAFT_LOGS_S": "0"}


async def metric(stack: Stack, name: str) -> float:
    async with httpx2.AsyncClient(timeout=5) as http:
        page = (await http.get(f"{stack.internal_url('janitor')}/metrics")).text
    return next((float(line.split()[1]) for line in page.splitlines() if line.startswith(f"{name} ")), 0.0)


@pytest.mark.req("R-WS-5", "R-SVC-5", "R-RES-1", "R-WS-4")
async def test_abandoned_meeting_is_completed_and_its_logs_are_freed(
    stack_folder: Path, nats_binary: str | None
) -> None:
    plan = Plan(
        stack_folder / "orphans",
        Ports.free(),
        extra_env={"janitor": QUICK, "transcriber": ONE_ENGINE},
        nats_server=nats_binary,
    )
    stack = Stack(plan)
    await stack.start()
    try:
        async with VerbatimClient(stack.url) as client:
            await client.register("gone@verbatim.example", "gone", "a long enough password")
            await client.login("gone@verbatim.example", "a long enough password")
            pcm = recording(12.0)
            async with started(stack.ws_url, client) as (bare, greeting):
                for offset in range(0, len(pcm), 32_000):
                    await bare.audio(offset, pcm[offset : offset + 32_000])
                while (await bare.hear("ack"))["offset"] < len(pcm):
                    pass
                stack.kill("transcriber", signal.SIGKILL)
            await stack.runner.ended("transcriber", 10)
            await stack.restart("transcriber")
            async with asyncio.timeout(60):
                while (meeting := await client.meeting(greeting["meeting_id"]))["status"] != "completed":
                    await asyncio.sleep(0.3)
                while await metric(stack, "janitor_logs_purged_total") < 1:
                    await asyncio.sleep(0.3)
            assert meeting["audio_seconds"] == pytest.approx(12.0)
            assert meeting["coverage"] == 1.0
            texts = " ".join(row["text"] for row in await client.segments(greeting["meeting_id"]))
            assert "welcome to our weekly meeting" in texts
            assert await metric(stack, "session_logs_open") == 0
    finally:
        await stack.stop()
