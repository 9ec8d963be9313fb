"""The drill: a platform that people speak into is backed up and made again from nothing; the accounts are the same."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from verbatim_client import LiveSettings, VerbatimClient

from dev.plan import SERVICES, Plan
from dev.ports import Ports
from dev.settings import ROOT
from dev.stack import Stack
from tests.e2e.conftest import PASSWORD, NewClient
from tests.e2e.speech import recording, started
from tests.limits import OPEN_TO_MANY, RAISED

pytestmark = pytest.mark.req("R-RUN-5")

QUICK = {"SESSIONS_EVERY_S": "0.5", "ORPHAN_IDLE_S": "3"}


async def recovery(stack: Stack, *arguments: str) -> str:
    """Run a command of `python -m recovery` against a stack and return what it says."""
    env = {
        "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "build/gen"))),
        "DATABASE_URL_MEETINGS": stack.database_url("meetings"),
        "DATABASE_URL_INSIGHTS": stack.database_url("insights"), "NATS_URL": stack.plan.nats_url,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "recovery", *arguments,
        env=env, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode == 0, said.decode()
    return said.decode()


async def known(client: VerbatimClient, meeting_id: str) -> dict[str, Any]:
    """Return all that an account can see of a meeting."""
    return {
        "me": await client.call("GET", "/api/auth/me"),
        "meeting": await client.meeting(meeting_id),
        "segments": await client.segments(meeting_id),
        "insights": await client.insights(meeting_id),
        "tasks": await client.call("GET", f"/api/tasks?meeting_id={meeting_id}"),
    }


async def spoken(client: VerbatimClient, seconds: float) -> list[dict[str, Any]]:
    """Speak the first seconds of the bundled meeting; a busy machine may take its time to write them down."""
    settings = LiveSettings()
    return [event async for event in client.stream(recording(seconds), settings, speed=8.0, finish_within_s=240)]


async def complete(client: VerbatimClient, meeting_id: str) -> dict[str, Any]:
    async with asyncio.timeout(240):
        while (meeting := await client.meeting(meeting_id))["status"] != "completed":
            await asyncio.sleep(0.3)
    return dict(meeting)


async def minuted(client: VerbatimClient, meeting_id: str) -> None:
    """Wait until a meeting has its minutes, and the tasks in it have come."""
    await complete(client, meeting_id)
    async with asyncio.timeout(240):
        while True:
            try:
                insights = await client.insights(meeting_id)
            except Exception as fault:  # noqa: BLE001 - there are none yet
                assert "404" in repr(fault) or "not_found" in repr(fault)
            else:
                tasks = (await client.call("GET", f"/api/tasks?meeting_id={meeting_id}"))["items"]
                if insights["status"] == "ready" and len(tasks) >= len(insights["action_items"]):
                    return
            await asyncio.sleep(0.3)


@pytest.mark.timeout(900)
async def test_restored_platform_has_the_same_accounts_and_hears_what_was_only_acknowledged(
    stack: Stack, new_client: NewClient, stack_folder: Path, nats_binary: str | None, tmp_path: Path
) -> None:
    client = await new_client()
    email = (await client.call("GET", "/api/auth/me"))["email"]
    *_, finished = await spoken(client, 12.0)
    await minuted(client, finished["meeting_id"])
    # A person's own words are what nobody could make again.
    await client.create_task("Order the printer", meeting_id=finished["meeting_id"], assignee="Grace")
    version = (await client.insights(finished["meeting_id"]))["version"]
    await client.update_insights(finished["meeting_id"], version, summary="We met, and it was good.")
    pcm = recording(12.0)
    async with started(stack.ws_url, client) as (bare, greeting):
        for offset in range(0, len(pcm), 32_000):
            await bare.audio(offset, pcm[offset : offset + 32_000])
        while (await bare.hear("ack"))["offset"] < len(pcm):
            pass
        # In the midst of it: the platform goes on meanwhile.
        await recovery(stack, "backup", str(tmp_path))
        before = await known(client, finished["meeting_id"])
    await recovery(stack, "verify", str(tmp_path))
    assert before["segments"]
    assert before["tasks"]["items"]

    # Nothing but three empty servers, with secrets of their own.
    folder = stack_folder / "restored"
    servers = Stack(Plan(folder, Ports.free(), replicas=dict.fromkeys(SERVICES, 0), nats_server=nats_binary))
    await servers.start()
    try:
        await recovery(servers, "restore", str(tmp_path))
    finally:
        await servers.stop()
    env = {"janitor": QUICK, "gateway": RAISED, "meetings": OPEN_TO_MANY}
    restored = Stack(Plan(folder, Ports.free(), extra_env=env, nats_server=nats_binary))
    await restored.start()
    try:
        async with VerbatimClient(restored.url) as again:
            await again.login(email, PASSWORD)
            # Its client and its owner are gone, but what was acknowledged is in the backup.
            meeting = await complete(again, greeting["meeting_id"])
            assert meeting["audio_seconds"] == pytest.approx(12.0)
            assert meeting["coverage"] == 1.0
            texts = " ".join(row["text"] for row in await again.segments(greeting["meeting_id"]))
            assert "welcome to our weekly meeting" in texts
            assert await known(again, finished["meeting_id"]) == before
            *_, new = await spoken(again, 6.0)  # and it goes on
            await minuted(again, new["meeting_id"])
            # Every event came once more, and had no second effect.
            assert await known(again, finished["meeting_id"]) == before
    finally:
        await restored.stop()
