"""Sockets that the platform ends: a token is over, an account has too many, a process restarts. No session does."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from verbatim_client import VerbatimClient
from websockets.exceptions import ConnectionClosed, WebSocketException

from dev.plan import Plan
from dev.ports import Ports
from dev.stack import Stack
from tests.e2e.conftest import PASSWORD
from tests.e2e.speech import Message, Socket, recording, socket, started
from tests.limits import ONE_ENGINE

TOKEN_S = 8
WITHIN_S = 60.0
SHORT = {
    "meetings": {"ACCESS_TOKEN_LIFE_S": str(TOKEN_S)},
    "gateway": {"TOKEN_GRACE_S": "0", "SESSIONS_PER_ACCOUNT": "2", "NOTICE_S": "0"},
    "transcriber": {"DRAIN_S": "45"}
    | ONE_ENGINE,  # the embedded engine on a busy machine; the stack kills who takes 30 s
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def short(stack_folder: Path, nats_binary: str | None) -> AsyncIterator[Stack]:
    """A platform on which everything is soon over."""
    replicas = {"janitor": 0, "insights": 0}
    stack = Stack(
        Plan(stack_folder / "sockets", Ports.free(), replicas=replicas, extra_env=SHORT, nats_server=nats_binary)
    )
    await stack.start()
    yield stack
    await stack.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def person(short: Stack) -> AsyncIterator[VerbatimClient]:
    async with VerbatimClient(short.url) as client:
        await client.register("short@verbatim.example", "short", PASSWORD)
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def program(short: Stack, person: VerbatimClient) -> AsyncIterator[VerbatimClient]:
    """The same account with a key that does not end."""
    await login(person)
    key = (await person.create_api_key("program", ["read", "write", "stream"]))["key"]
    async with VerbatimClient(short.url, access_token=key) as client:
        yield client


async def login(person: VerbatimClient) -> None:
    await person.login("short@verbatim.example", PASSWORD)


@asynccontextmanager
async def resumed(stack: Stack, client: VerbatimClient, greeting: Message) -> AsyncIterator[tuple[Socket, Message]]:
    """Come back to a session, as often as a platform that restarts asks us to come again."""
    resume = {"session_id": greeting["session_id"], "resume_token": greeting["resume_token"]}
    async with asyncio.timeout(WITHIN_S), AsyncExitStack() as sockets:
        while True:
            try:
                bare = await sockets.enter_async_context(socket(stack.ws_url))
                await bare.say(type="start", token=client.access_token, resume=resume)
                answer = await bare.hear("session_restored", "error", within_s=WITHIN_S)
            except (OSError, WebSocketException):
                answer = {"type": "error", "retryable": True}
            if answer["type"] == "session_restored":
                break
            assert answer["retryable"], answer
            await asyncio.sleep(0.2)
        exits = sockets.pop_all()
    async with exits:
        yield bare, answer


async def to_the_end(bare: Socket) -> tuple[list[Message], int]:
    """Return everything that is said, and the close code."""
    heard: list[Message] = []
    try:
        while True:
            heard.append(await bare.hear("segment", "status", "error", "ack", within_s=WITHIN_S))
    except ConnectionClosed as end:
        return heard, end.rcvd.code if end.rcvd else 1006


@pytest.mark.req("R-WS-3", "R-AUTH-1")
async def test_socket_is_closed_with_4401_and_a_new_token_resumes(short: Stack, person: VerbatimClient) -> None:
    await login(person)
    async with started(short.ws_url, person) as (first, greeting):
        await first.audio(0, recording(1.0))
        await first.hear("ack")
        assert (await first.hear("error", within_s=TOKEN_S + 15))["error"] == "unauthorized"
        assert await first.closed() == 4401
    await login(person)
    async with resumed(short, person, greeting) as (_, restored):
        assert restored["offset"] == 32_000


@pytest.mark.req("R-AUTH-1", "R-WS-4")
async def test_key_that_is_deleted_closes_its_socket_within_thirty_seconds_and_nothing_that_was_said_is_lost(
    short: Stack, person: VerbatimClient, program: VerbatimClient
) -> None:
    """Row 36 of the fault matrix. The control: a socket that came with another key of the account stays."""
    await login(person)
    key = await person.create_api_key("stolen", ["read", "write", "stream"])
    async with AsyncExitStack() as exits:
        thief = await exits.enter_async_context(VerbatimClient(short.url, access_token=key["key"]))
        other, _ = await exits.enter_async_context(started(short.ws_url, program))
        first, greeting = await exits.enter_async_context(started(short.ws_url, thief))
        await first.audio(0, recording(1.0))
        while (await first.hear("ack"))["offset"] < 32_000:
            pass
        await login(person)
        began = time.monotonic()
        await person.delete_api_key(key["id"])
        assert (await first.hear("error", within_s=30))["error"] == "unauthorized"
        assert await first.closed() == 4401
        assert time.monotonic() - began < 30
        async with socket(short.ws_url) as again:
            await again.say(type="start", token=key["key"])
            assert (await again.hear("error"))["error"] == "unauthorized"
        async with resumed(short, program, greeting) as (_, restored):
            assert restored["offset"] == 32_000, "its owner goes on where it ended"
        await other.say(type="finish", offset=0)
        await other.hear("finished")
    await until_sessions_begin(short, program)


@pytest.mark.req("R-RL-1", "R-WS-3", "R-RES-4")
async def test_account_has_a_limit_of_sessions_and_who_comes_back_is_let_in(
    short: Stack, program: VerbatimClient
) -> None:
    async with AsyncExitStack() as sockets:
        first, greeting = await sockets.enter_async_context(started(short.ws_url, program))
        await sockets.enter_async_context(started(short.ws_url, program))
        async with socket(short.ws_url) as third:
            await third.say(type="start", token=program.access_token)
            refused = await third.hear("error")
            assert (refused["error"], refused["fatal"], refused["retryable"]) == ("rate_limit_exceeded", True, True)
            assert refused["retry_after"] > 0
            assert await third.closed() == 4429
        async with resumed(short, program, greeting) as (again, _):
            assert await first.closed() == 4409
            await again.say(type="finish", offset=0)
            await again.hear("finished")
    await until_sessions_begin(short, program)


async def until_sessions_begin(stack: Stack, client: VerbatimClient) -> None:
    """Wait until the account's seats are free and a transcriber is there."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            async with socket(stack.ws_url) as bare:
                await bare.say(type="start", token=client.access_token)
                if (await bare.hear("started", "error"))["type"] == "started":
                    await bare.say(type="finish", offset=0)
                    await bare.hear("finished")
                    return
            await asyncio.sleep(0.2)


@pytest.mark.req("R-SVC-7", "R-WS-4", "R-RUN-4")
async def test_transcriber_that_restarts_delivers_what_was_said_before_it_sends_us_away(
    short: Stack, program: VerbatimClient
) -> None:
    """RELIABILITY: a server that closes sockets first can send no segment any more."""
    await until_sessions_begin(short, program)
    pcm = recording(8.0)  # two utterances, and the beginning of a third
    async with started(short.ws_url, program) as (bare, greeting):
        for offset in range(0, len(pcm), 32_000):
            await bare.audio(offset, pcm[offset : offset + 32_000])
        early: list[Message] = []
        while not {("ack", len(pcm)), ("segment", 0)} <= {
            (event["type"], event.get("offset", event.get("index"))) for event in early
        }:
            early.append(await bare.hear("ack", "segment", within_s=WITHIN_S))
        restarting = asyncio.create_task(short.restart("transcriber"))
        late, code = await to_the_end(bare)
        await restarting
    assert code == 1012
    heard = early + late
    segments = [event for event in heard if event["type"] == "segment"]
    assert [event["index"] for event in segments] == [0, 1]
    assert heard[-1]["error"] == "service_unavailable"
    assert heard[-1]["retryable"]
    async with resumed(short, program, greeting) as (_, restored):
        assert restored["offset"] == len(pcm)
        assert [event["index"] for event in restored["segments"]] == [0, 1]


@pytest.mark.req("R-SVC-7", "R-WS-3", "R-RUN-4")
async def test_gateway_that_restarts_says_that_it_drains(short: Stack, program: VerbatimClient) -> None:
    await until_sessions_begin(short, program)
    async with started(short.ws_url, program) as (bare, greeting):
        await bare.audio(0, bytes(32_000))
        while (await bare.hear("ack", within_s=WITHIN_S))["offset"] < 32_000:
            pass
        restarting = asyncio.create_task(short.restart("gateway"))
        heard, code = await to_the_end(bare)
        await restarting
    assert code == 1012
    assert "draining" in [event.get("state") for event in heard]
    assert (heard[-1]["error"], heard[-1]["retry_after"]) == ("service_unavailable", 0.0)
    async with resumed(short, program, greeting) as (_, restored):
        assert restored["offset"] == 32_000
        assert await _resumes(short, "restored") == 1
    lost = {"session_id": greeting["session_id"], "resume_token": "wrong"}
    async with socket(short.ws_url) as stranger:
        await stranger.say(type="start", token=program.access_token, resume=lost)
        assert (await stranger.hear("session_not_found", within_s=WITHIN_S))["error"] == "Session expired"
        assert await stranger.closed() == 4404
    assert await _resumes(short, "not_found") == 1


async def _resumes(stack: Stack, result: str) -> float:
    """Ask the gateway how often a resume ended so."""
    async with httpx2.AsyncClient() as http:
        text = (await http.get(f"{stack.internal_url('gateway')}/metrics")).text
    found = re.search(rf'^ws_resumes_total{{result="{result}"}} (\S+)$', text, re.MULTILINE)
    assert found is not None
    return float(found[1])
