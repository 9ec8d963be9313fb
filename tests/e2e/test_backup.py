"""The drill: a platform that people speak into is backed up and made again from nothing; the accounts are the same."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from verbatim_client import VerbatimClient

from chassis import ids
from dev.plan import SERVICES, Plan
from dev.ports import Ports
from dev.settings import ROOT
from dev.stack import Stack
from tests.e2e.conftest import PASSWORD, NewClient
from tests.e2e.meetings import made, told
from tests.e2e.speech import recording, started
from tests.e2e.speech_api import SpeechApi
from tests.limits import ONE_ENGINE, OPEN_TO_MANY, RAISED

pytestmark = pytest.mark.req("R-RUN-5")

QUICK = {"SESSIONS_EVERY_S": "0.5", "ORPHAN_IDLE_S": "3"}


async def recovery(stack: Stack, *arguments: str) -> str:
    """Run a command of `python -m recovery` against a stack and return what it says."""
    env = {
        "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "build/gen"))),
        "DATABASE_URL_MEETINGS": stack.database_url("meetings"),
        "DATABASE_URL_INSIGHTS": stack.database_url("insights"), "NATS_URL": stack.nats_url("backup"),
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


async def complete(client: VerbatimClient, meeting_id: str) -> dict[str, Any]:
    async with asyncio.timeout(240):
        while (meeting := await client.meeting(meeting_id))["status"] != "completed":
            await asyncio.sleep(0.3)
    return dict(meeting)


@pytest.mark.timeout(900)
@pytest.mark.long
async def test_restored_platform_has_the_same_accounts_and_hears_what_was_only_acknowledged(
    stack: Stack, new_client: NewClient, stack_folder: Path, nats_binary: str | None, tmp_path: Path
) -> None:
    client, meeting_id = await new_client(), ids.new_id()
    me = await client.call("GET", "/api/auth/me")
    await told(stack, me["id"], meeting_id, "printer")
    await made(client, meeting_id)
    # A person's own words are what nobody could make again.
    await client.create_task("Order the printer", meeting_id=meeting_id, assignee="Grace")
    version = (await client.insights(meeting_id))["version"]
    await client.update_insights(meeting_id, version, summary="We met, and it was good.")
    pcm = recording(12.0)
    async with started(stack.ws_url, client) as (bare, greeting):
        for offset in range(0, len(pcm), 32_000):
            await bare.audio(offset, pcm[offset : offset + 32_000])
        while (await bare.hear("ack", within_s=120))["offset"] < len(pcm):
            pass
        # In the midst of it: the platform goes on meanwhile.
        await recovery(stack, "backup", str(tmp_path))
        before = await known(client, meeting_id)
    await recovery(stack, "verify", str(tmp_path))
    assert len(before["segments"]) == 3
    assert len(before["tasks"]["items"]) >= 2

    # Nothing but three empty servers, with secrets of their own.
    folder = stack_folder / "restored"
    servers = Stack(Plan(folder, Ports.free(), replicas=dict.fromkeys(SERVICES, 0), nats_server=nats_binary))
    await servers.start()
    try:
        await recovery(servers, "restore", str(tmp_path))
    finally:
        await servers.stop()
    api = SpeechApi()
    async with api.run():
        env = {
            "janitor": QUICK, "gateway": RAISED, "meetings": OPEN_TO_MANY,
            "transcriber": {"OPENAI_API_KEY": "scripted", "OPENAI_BASE_URL": api.url} | ONE_ENGINE,
        }  # fmt: skip
        restored = Stack(Plan(folder, Ports.free(), extra_env=env, nats_server=nats_binary))
        await restored.start()
        try:
            async with VerbatimClient(restored.url) as again:
                await again.login(me["email"], PASSWORD)
                # Its client and its owner are gone, but what was acknowledged is in the backup.
                meeting = await complete(again, greeting["meeting_id"])
                assert meeting["audio_seconds"] == pytest.approx(12.0)
                assert meeting["coverage"] == 1.0
                assert await again.segments(greeting["meeting_id"])
                assert await known(again, meeting_id) == before
                new = ids.new_id()  # and it goes on
                await told(restored, me["id"], new, "scanner")
                assert "scanner" in (await made(again, new))["title"]
                # Every event has come once more, and had no second effect.
                assert await known(again, meeting_id) == before
        finally:
            await restored.stop()
