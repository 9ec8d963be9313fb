"""What is wrong gets its documented error, leaks nothing, and leaves the next session unharmed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from verbatim_client import VerbatimClient

from dev.stack import Stack
from tests.e2e.conftest import NewClient
from tests.e2e.speech import Socket, recording, socket, speak, started

START = {"type": "start"}


async def error_of(bare: Socket) -> tuple[str, bool]:
    error = await bare.hear("error")
    assert error["request_id"].startswith("req_")
    assert "Traceback" not in json.dumps(error)
    return error["error"], error["fatal"]


@pytest.mark.req("R-WS-2", "R-ERR-1")
@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("not json", "bad_request"),
        ("[1, 2]", "bad_request"),
        ('{"type": "dance"}', "bad_request"),
        ('{"type": "start"}', "conflict"),
        ('{"type": "finish", "offset": "all"}', "validation_failed"),
        ('{"type": "finish", "offset": 6400}', "offset_gap"),
        (b"", "bad_request"),
        (b"\0\0\0\0\0\0\0\0", "bad_request"),
        (b"\0\0\0\0\0\0\0\0odd", "validation_failed"),
        (b"\0\0\0\0\0\0\x10\0even", "offset_gap"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xffeven", "bad_request"),
    ],
)
async def test_bad_frame_gets_an_error_and_the_session_goes_on(
    stack: Stack, client: VerbatimClient, frame: str | bytes, code: str
) -> None:
    async with started(stack.ws_url, client) as (bare, _):
        await bare.say_raw(frame)
        assert await error_of(bare) == (code, False)
        pcm = recording(1.0)
        await bare.audio(0, pcm)
        await bare.say(type="finish", offset=len(pcm))
        assert (await bare.hear("finished"))["coverage"] == 1.0


@pytest.mark.req("R-WS-2")
@pytest.mark.parametrize(
    ("frame", "code", "close"),
    [
        (b"\0" * 8 + b"audio!", "bad_request", 4400),
        ("not json", "bad_request", 4400),
        ('{"type": "finish"}', "bad_request", 4400),
        ('{"type": "start"}', "unauthorized", 4401),
        ('{"type": "start", "token": "wrong"}', "unauthorized", 4401),
        ('{"type": "start", "sample_rate": 44100}', "validation_failed", 4400),
        ('{"type": "start", "encoding": "mp3"}', "unsupported_media_type", 4400),
        ('{"type": "start", "encoding": "webm_opus", "channels": 6}', "validation_failed", 4400),
    ],
)
async def test_bad_first_message_is_answered_and_closed(
    stack: Stack, frame: str | bytes, code: str, close: int
) -> None:
    async with socket(stack.ws_url) as bare:
        await bare.say_raw(frame)
        assert await error_of(bare) == (code, True)
        assert await bare.closed() == close


@pytest.mark.req("R-WS-2")
async def test_silent_client_is_closed_after_five_seconds(stack: Stack) -> None:
    async with socket(stack.ws_url) as bare:
        assert await error_of(bare) == ("bad_request", True)
        assert await bare.closed() == 4400


@pytest.mark.req("R-WS-2")
async def test_frame_over_64_kib_closes_with_1009(stack: Stack, client: VerbatimClient) -> None:
    async with started(stack.ws_url, client) as (bare, _):
        await bare.audio(0, bytes(64 * 1024 + 2))
        assert await error_of(bare) == ("payload_too_large", True)
        assert await bare.closed() == 1009


@pytest.mark.req("R-WS-2")
async def test_endless_nonsense_is_cut_off(stack: Stack, client: VerbatimClient) -> None:
    async with started(stack.ws_url, client) as (bare, _):
        for _ in range(101):
            await bare.say_raw("nonsense")
        assert await bare.closed() == 4400


@pytest.mark.req("R-WS-3", "R-AUTH-2")
async def test_unknown_and_foreign_sessions_look_the_same(
    stack: Stack, client: VerbatimClient, new_client: NewClient
) -> None:
    stranger = await new_client()
    async with started(stack.ws_url, client) as (_, greeting):
        mine = {"session_id": greeting["session_id"], "resume_token": greeting["resume_token"]}
        unknown = mine | {"session_id": "01930000-0000-7000-8000-000000000000"}
        answers = []
        for who, resume in ((stranger, mine), (client, unknown), (client, mine | {"resume_token": "guess"})):
            async with socket(stack.ws_url) as bare:
                await bare.say(type="start", token=who.access_token, resume=resume)
                answer = await bare.hear("session_not_found")
                answers.append((answer["error"], answer["message"], await bare.closed()))
        assert set(answers) == {("Session expired", "Session expired", 4404)}


@pytest.mark.req("R-STT-6")
@pytest.mark.parametrize("seconds", [0, 6])
async def test_nothing_and_silence_are_honest_empty_results(client: VerbatimClient, seconds: int) -> None:
    events = await speak(client, bytes(seconds * 32_000))
    finished = events[-1]
    assert (finished["segments"], finished["audio_seconds"], finished["coverage"]) == (0, seconds, 1.0)


async def test_clients_that_vanish_leave_nothing_behind(stack: Stack, client: VerbatimClient) -> None:
    async def vanish(say: Callable[[Socket], Awaitable[None]]) -> None:
        async with socket(stack.ws_url) as bare:
            await say(bare)

    token = client.access_token
    await asyncio.gather(
        vanish(lambda bare: bare.say_raw("")),
        *(vanish(lambda bare: bare.say(**START, token=token)) for _ in range(5)),
    )
    assert (await speak(client, recording(4.0)))[-1]["coverage"] == 1.0


@pytest.mark.req("R-SEC-1", "R-OBS-5")
async def test_logs_hold_no_words_tokens_or_passwords_and_no_traceback(stack: Stack, client: VerbatimClient) -> None:
    await speak(client, recording(8.0), title="Quarterly canary title")
    token = client.access_token or "no token"
    for service in ("gateway", "transcriber", "meetings", "insights", "janitor"):
        log = stack.log(service).read_text()
        for secret in (token, "weekly meeting", "canary title", "correct horse battery", "@verbatim.example"):
            assert secret not in log.lower(), f"{secret} in the log of {service}"
        assert "Traceback" not in log, f"traceback in the log of {service}"
