"""Live sessions against a small real WebSocket server that can be told to misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from verbatim_client import (
    Backoff,
    ConnectionGivenUpError,
    LiveSession,
    SessionLostError,
    StreamError,
    VerbatimClient,
)
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from tests.scripted_platform import SETTINGS, SPEECH, ScriptedPlatform, session, spoken, token


@pytest.fixture
async def platform() -> AsyncIterator[ScriptedPlatform]:
    async with ScriptedPlatform().listening() as platform:
        yield platform


async def test_everything_spoken_arrives_once_and_in_order(platform: ScriptedPlatform) -> None:
    live = session(platform)
    events = await spoken(live, SPEECH)
    assert bytes(platform.audio) == SPEECH
    assert platform.received_bytes == len(SPEECH)
    assert [event["type"] for event in events if event["type"] != "ack"] == ["started", "segment", "finished"]
    assert live.acked_offset == len(SPEECH)
    start = {"type": "start", "token": "old", "title": "Planning"}
    assert start.items() <= platform.starts[0].items()


@pytest.mark.req("R-WS-3")
@pytest.mark.parametrize("lost_acks", [False, True])
async def test_a_broken_connection_costs_no_byte_and_doubles_none(platform: ScriptedPlatform, lost_acks: bool) -> None:
    platform.acknowledges = not lost_acks
    frames = 0

    async def break_off(_: ScriptedPlatform, socket: ServerConnection) -> bool:
        nonlocal frames
        frames += 1
        if frames in (7, 40):  # with the frame in hand: the client cannot know whether it was kept
            socket.transport.abort()
            return True
        return False

    platform.on_frame = break_off
    live = session(platform)
    events = await spoken(live, SPEECH)
    assert bytes(platform.audio) == SPEECH
    assert live.reconnects == 2
    assert [event["type"] for event in events].count("finished") == 1
    resumes = [start["resume"] for start in platform.starts[1:]]
    assert [resume["resume_token"] for resume in resumes] == ["resume-1", "resume-2"]
    assert all(resume["session_id"] == "s1" and resume["last_event"] >= 1 for resume in resumes)


async def test_audio_is_sent_again_from_inside_a_frame(platform: ScriptedPlatform) -> None:
    async def keep_half(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        platform.on_frame = None
        platform.audio += SPEECH[:1001]
        socket.transport.abort()
        return True

    platform.on_frame = keep_half
    await spoken(session(platform), SPEECH[:32_000])
    assert bytes(platform.audio) == SPEECH[:32_000]


async def test_a_hole_that_the_platform_sees_is_filled(platform: ScriptedPlatform) -> None:
    async def forget_one(platform: ScriptedPlatform, _: ServerConnection) -> bool:
        platform.on_frame = None
        return True

    platform.on_frame = forget_one
    await spoken(session(platform), SPEECH[:64_000])
    assert bytes(platform.audio) == SPEECH[:64_000]


@pytest.mark.req("R-WS-2")
async def test_no_more_than_the_window_is_unacknowledged(platform: ScriptedPlatform) -> None:
    platform.acknowledges, platform.window_bytes = False, 32_000
    async with session(platform) as live:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                for start in range(0, len(SPEECH), 3200):
                    await live.send(SPEECH[start : start + 3200])
        assert live.written_offset == 32_000


async def test_on_hold_nothing_is_sent_until_it_is_lifted(platform: ScriptedPlatform) -> None:
    async def hold(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        platform.on_frame = None
        await platform.tell(socket, "status", state="hold", reason="behind", lag_s=9.0)

        async def lift() -> None:
            held = len(platform.audio)
            await asyncio.sleep(0.3)
            assert len(platform.audio) - held <= 6400, "at most what was under way"
            await platform.tell(socket, "status", state="ok", reason="", lag_s=0.0)

        lifts.append(asyncio.create_task(lift()))
        return False

    lifts: list[asyncio.Task[None]] = []
    platform.on_frame = hold
    live = session(platform)
    async with asyncio.timeout(10), live:
        await live.send(SPEECH[:3200])
        async for event in live:
            if event["type"] == "status" and event["state"] == "hold":
                await live.send(SPEECH[3200:32_000])
            if event["type"] == "status" and event["state"] == "ok":
                break
        await live.finish(5)
    await lifts[0]
    assert bytes(platform.audio) == SPEECH[:32_000]


async def test_a_declared_gap_and_what_follows_keep_their_places(platform: ScriptedPlatform) -> None:
    async with session(platform) as live:
        await live.send(SPEECH[:3200])
        await live.gap(6400)
        await live.send(SPEECH[9600:12_800])
        await live.finish(5)
    assert bytes(platform.audio) == SPEECH[:3200] + bytes(6400) + SPEECH[9600:12_800]
    assert {"type": "gap", "from": 3200, "to": 9600, "held": 3200} in platform.messages


async def test_finalize_comes_after_the_audio_before_it(platform: ScriptedPlatform) -> None:
    async with session(platform) as live:
        await live.send(SPEECH[:9600])
        await live.finalize()
        await live.send(SPEECH[9600:19_200])
        await live.finish(5)
    assert {"type": "finalize", "held": 9600} in platform.messages


async def test_a_token_that_expired_is_renewed(platform: ScriptedPlatform) -> None:
    platform.token_wanted = "new"
    await spoken(session(platform), SPEECH[:32_000])
    assert [start["token"] for start in platform.starts] == ["old", "new"]


async def test_a_session_that_is_gone_ends_with_its_own_error(platform: ScriptedPlatform) -> None:
    async def expire(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        if len(platform.starts) == 1:
            return False
        await platform.tell(socket, "session_not_found", error="Session expired")
        await socket.close(4404)
        return True

    async def break_off(_: ScriptedPlatform, socket: ServerConnection) -> bool:
        socket.transport.abort()
        return True

    platform.on_start, platform.on_frame = expire, break_off
    with pytest.raises(SessionLostError):
        await spoken(session(platform), SPEECH)


async def test_a_session_taken_over_elsewhere_is_not_fought_for(platform: ScriptedPlatform) -> None:
    async def take_over(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        await platform.refuse(socket, 4409, "conflict", retryable=True)
        return True

    platform.on_frame = take_over
    with pytest.raises(StreamError) as caught:
        await spoken(session(platform), SPEECH)
    assert caught.value.close_code == 4409
    assert len(platform.starts) == 1


async def test_a_refused_start_raises_what_the_platform_said(platform: ScriptedPlatform) -> None:
    async def refuse(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        await platform.refuse(socket, 4400, "validation_failed", retryable=False)
        return True

    platform.on_start = refuse
    with pytest.raises(StreamError) as caught:
        async with session(platform):
            pass
    assert caught.value.code == "validation_failed"


@pytest.mark.parametrize(("status", "given_up"), [(503, True), (403, False)])
async def test_an_http_answer_in_place_of_a_socket_is_told(status: int, given_up: bool) -> None:
    attempts = 0

    def refuse(connection: ServerConnection, _: Request) -> Response:
        nonlocal attempts
        attempts += 1
        return connection.respond(status, json.dumps({"error": "its_code", "message": "Not served here."}))

    async def nobody(_: ServerConnection) -> None:
        raise AssertionError("no socket is accepted")

    async with serve(nobody, "127.0.0.1", 0, process_request=refuse) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        live = LiveSession(f"ws://127.0.0.1:{port}", token, SETTINGS, backoff=Backoff(draw=lambda *_: 0.0))
        with pytest.raises(ConnectionGivenUpError if given_up else StreamError, match="Not served here") as caught:
            async with live:
                pass
    assert caught.value.code == "its_code"
    assert attempts == (10 if given_up else 1)


async def test_an_unreachable_platform_is_given_up_in_the_end() -> None:
    live = LiveSession("ws://127.0.0.1:1/transcribe", token, SETTINGS, backoff=Backoff(draw=lambda *_: 0.0))
    with pytest.raises(ConnectionGivenUpError):
        async with live:
            pass


async def test_a_platform_that_falls_silent_is_left_and_found_again(platform: ScriptedPlatform) -> None:
    async def freeze(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        platform.on_frame = None
        socket.transport.pause_reading()  # half open: no answer, no close
        return True

    platform.on_frame = freeze
    await spoken(session(platform), SPEECH[:32_000])
    assert bytes(platform.audio) == SPEECH[:32_000]
    assert len(platform.starts) == 2


async def test_finish_does_not_wait_for_ever(platform: ScriptedPlatform) -> None:
    platform.finishes = False
    async with session(platform) as live:
        await live.send(SPEECH[:3200])
        with pytest.raises(TimeoutError):
            await live.finish(0.3)


async def test_a_stream_keeps_the_pace_of_speech(platform: ScriptedPlatform) -> None:
    client = VerbatimClient(platform.url.replace("ws", "http", 1).removesuffix("/transcribe"), access_token="old")
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with client:
        events = [event async for event in client.stream(SPEECH[:64_000], SETTINGS, speed=4.0)]
    assert 0.5 <= loop.time() - started < 2.0
    assert events[-1]["type"] == "finished"
    assert bytes(platform.audio) == SPEECH[:64_000]


async def test_a_stream_that_is_never_finished_raises_and_does_not_hang(platform: ScriptedPlatform) -> None:
    platform.finishes = False
    client = VerbatimClient(platform.url.replace("ws", "http", 1).removesuffix("/transcribe"), access_token="old")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5), client:
            async for _ in client.stream(SPEECH[:3200], SETTINGS, speed=None, finish_within_s=0.3):
                pass
