"""A token that ends in mid-stream ends its socket, not the session."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from verbatim_client import VerbatimClient

from dev.plan import Plan
from dev.ports import Ports
from dev.stack import Stack
from tests.e2e.speech import recording, socket, started

SHORT = {"meetings": {"ACCESS_TOKEN_LIFE_S": "5"}, "gateway": {"TOKEN_GRACE_S": "0"}}


@pytest.mark.req("R-WS-3", "R-AUTH-1")
async def test_socket_is_closed_with_4401_and_a_new_token_resumes(stack_folder: Path, nats_binary: str | None) -> None:
    replicas = {"janitor": 0, "insights": 0}
    stack = Stack(
        Plan(stack_folder / "expiry", Ports.free(), replicas=replicas, extra_env=SHORT, nats_server=nats_binary)
    )
    await stack.start()
    try:
        async with VerbatimClient(stack.url) as client:
            await client.register("short@verbatim.example", "short", "a long enough password")
            await client.login("short@verbatim.example", "a long enough password")
            async with started(stack.ws_url, client) as (first, greeting):
                await first.audio(0, recording(1.0))
                await first.hear("ack")
                assert (await first.hear("error", within_s=20))["error"] == "unauthorized"
                assert await first.closed() == 4401
            await client.login("short@verbatim.example", "a long enough password")
            async with socket(stack.ws_url) as second, asyncio.timeout(20):
                resume = {"session_id": greeting["session_id"], "resume_token": greeting["resume_token"]}
                await second.say(type="start", token=client.access_token, resume=resume)
                assert (await second.hear("session_restored"))["offset"] == 32_000
    finally:
        await stack.stop()
