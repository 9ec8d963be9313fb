"""The client rules of the live protocol, one by one, against a real server that follows a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from verbatim_client import (
    ApiError,
    Backoff,
    Buffering,
    ConnectionGivenUpError,
    LiveSession,
    StreamError,
)
from websockets.asyncio.server import ServerConnection

from tests.scripted_platform import SETTINGS, SPEECH, ScriptedPlatform, session, spoken, token

pytestmark = pytest.mark.req("R-WS-3")

MEMORY = 64 * 1024


@pytest.fixture
async def platform() -> AsyncIterator[ScriptedPlatform]:
    async with ScriptedPlatform().listening() as platform:
        yield platform


async def break_off(_: ScriptedPlatform, socket: ServerConnection) -> bool:
    socket.transport.abort()
    return True


async def until(live: LiveSession, type_: str) -> dict[str, object]:
    async for event in live:
        if event["type"] == type_:
            return event
    raise AssertionError(f"no {type_} came")


async def test_what_cannot_be_kept_is_declared_and_the_rest_is_whole(platform: ScriptedPlatform) -> None:
    """A microphone goes on while the platform holds: memory, then disk, then a gap that is told."""
    held_back = asyncio.Event()

    async def hold_first(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        platform.on_frame = None
        await platform.tell(socket, "status", state="hold", reason="broker", lag_s=1.0)
        held_back.set()
        return False

    platform.on_frame = hold_first
    buffering = Buffering(memory_bytes=MEMORY, disk_bytes=96_000, catch_up=None)
    async with asyncio.timeout(10), session(platform, buffering=buffering) as live:
        await live.offer(SPEECH[:3200])
        await until(live, "status")
        assert held_back.is_set()
        dropped = [await live.offer(SPEECH[start : start + 3200]) for start in range(3200, 320_000, 3200)]
        assert live.dropped_bytes == sum(dropped) > 0
        await platform.tell(platform.sockets[0], "status", state="ok", lag_s=0.0)
        finished = await live.finish(5)
    kept = 320_000 - live.dropped_bytes
    assert kept >= MEMORY + 96_000 - 2 * 3200
    gap = next(message for message in platform.messages if message["type"] == "gap")
    assert (gap["from"], gap["to"]) == (kept, 320_000)
    assert bytes(platform.audio) == SPEECH[:kept] + bytes(320_000 - kept)
    assert finished["audio_seconds"] == 10.0


async def test_what_the_platform_acknowledged_and_lost_becomes_a_gap_and_the_session_goes_on(
    platform: ScriptedPlatform,
) -> None:
    """Somebody deleted its log: it asked for audio that nobody has any more, and the client gave the session up."""
    half = len(SPEECH) // 2 // 3200 * 3200

    async def forget(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        if len(platform.audio) < half:
            return False
        platform.on_frame = None
        del platform.audio[3200:]
        socket.transport.abort()
        return True

    platform.on_frame = forget
    events = await spoken(session(platform), SPEECH)
    assert events[-1]["type"] == "finished"
    (gap,) = [message for message in platform.messages if message["type"] == "gap"]
    assert gap["from"] == 3200
    assert half - 3200 <= gap["to"] <= half
    kept = SPEECH[:3200] + bytes(gap["to"] - 3200) + SPEECH[gap["to"] :]
    assert bytes(platform.audio) == kept


async def test_a_backlog_is_sent_at_the_bounded_pace(platform: ScriptedPlatform) -> None:
    """Four seconds that gathered go at sixteen times real time; what is spoken after that goes at once."""

    async def hold(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        platform.on_frame = None
        await platform.tell(socket, "status", state="hold", reason="window", lag_s=1.0)
        return False

    platform.on_frame = hold
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10), session(platform, buffering=Buffering(catch_up=16.0)) as live:
        await live.send(SPEECH[:3200])
        await until(live, "status")
        for start in range(3200, 131_200, 3200):
            await live.send(SPEECH[start : start + 3200])
        before = loop.time()
        await platform.tell(platform.sockets[0], "status", state="ok", lag_s=0.0)
        await live.finish(5)
    seconds = platform.frames[-1][0] - before
    assert 128_000 / 32_000 / 16 * 0.9 <= seconds < 2.0
    for (at, _, _), (later, start, end) in zip(platform.frames[2:], platform.frames[12:], strict=False):
        assert later - at >= 10 * (end - start) / 32_000 / 16 * 0.5, "no burst in between"


async def test_a_late_event_of_a_lost_socket_changes_nothing(platform: ScriptedPlatform) -> None:
    """More of this, with sockets of any age and events of any kind: test_outbox_model.py."""

    async def end_badly(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        platform.on_frame = None
        await platform.tell(socket, "error", error="service_unavailable", message="moving", fatal=True, retryable=True)
        await platform.tell(socket, "ack", offset=10_000_000, stored_offset=10_000_000)
        await platform.tell(socket, "status", state="hold", lag_s=0.0)
        await socket.close(1012)
        return True

    platform.on_frame = end_badly
    live = session(platform)
    events = await spoken(live, SPEECH[:64_000])
    assert "moving" in [event.get("reason") for event in events]
    assert bytes(platform.audio) == SPEECH[:64_000]
    assert (live.acked_offset, live.stored_offset) == (64_000, 0)


async def test_whoever_leaves_does_not_come_back(platform: ScriptedPlatform) -> None:
    async with asyncio.timeout(5), session(platform, wait_s=0.0) as live:
        await live.send(SPEECH[:3200])
        live.leave()
        assert (await anext(aiter(live)))["type"] == "started"
        assert [event["type"] async for event in live if event["type"] != "ack"] == []
        with pytest.raises(StreamError, match="over"):
            await live.send(SPEECH[:3200])
    await platform.sockets[0].wait_closed()
    assert len(platform.starts) == 1


async def test_leaving_ends_the_wait_for_the_next_try_too(platform: ScriptedPlatform) -> None:
    async def refuse_second(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        if len(platform.starts) > 1:
            await platform.refuse(socket, 1013, "service_unavailable", retryable=True, retry_after=60)
        return len(platform.starts) > 1

    platform.on_start, platform.on_frame = refuse_second, break_off
    async with asyncio.timeout(5), session(platform) as live:
        await live.send(SPEECH[:3200])
        while (await until(live, "disconnected"))["retry_in_s"] != 60:
            pass
        live.leave()
        assert [event async for event in live] == []
    assert len(platform.starts) == 2


async def test_the_wait_that_the_platform_asks_for_wins(platform: ScriptedPlatform) -> None:
    async def overloaded(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        platform.on_start = None
        await platform.refuse(socket, 1013, "service_unavailable", retryable=True, retry_after=0.4)
        return True

    platform.on_start = overloaded
    events = await spoken(session(platform, wait_s=0.0), SPEECH[:3200])
    assert events[0] == {"type": "disconnected", "reason": "service_unavailable", "retry_in_s": 0.4}
    assert platform.started_at[1] - platform.started_at[0] >= 0.39


async def test_three_short_lives_end_it_and_the_person_is_told(platform: ScriptedPlatform) -> None:
    platform.on_frame = break_off
    with pytest.raises(ConnectionGivenUpError, match="too often"):
        await spoken(session(platform), SPEECH)
    assert len(platform.starts) == 3


async def test_a_token_is_renewed_once_not_for_ever(platform: ScriptedPlatform) -> None:
    platform.token_wanted = "another"
    with pytest.raises(StreamError, match="unauthorized") as caught:
        await spoken(session(platform), SPEECH[:3200])
    assert caught.value.close_code == 4401
    assert [start["token"] for start in platform.starts] == ["old", "new"]


async def test_a_token_that_expires_later_is_renewed_again(platform: ScriptedPlatform) -> None:
    """Once in a row, not once in a session: a meeting outlives many access tokens."""
    renewals = 0

    async def tokens(renew: bool) -> str:
        nonlocal renewals
        renewals += renew
        return f"token-{renewals}"

    async def expire(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        if platform.token_wanted == "token-2":
            return False
        platform.token_wanted = f"token-{len(platform.starts)}"
        await platform.refuse(socket, 4401, "unauthorized", retryable=False)
        return True

    platform.on_frame = expire
    live = LiveSession(platform.url, tokens, SETTINGS, backoff=Backoff(draw=lambda *_: 0.0))
    await spoken(live, SPEECH[:32_000])
    assert [start["token"] for start in platform.starts] == ["token-0", "token-1", "token-2"]
    assert bytes(platform.audio) == SPEECH[:32_000]


@pytest.mark.parametrize("failure", [ApiError(503, {"message": "later"}, "r1", None), httpx2.ConnectError("no route")])
async def test_a_token_that_cannot_be_renewed_now_is_tried_again(
    platform: ScriptedPlatform, failure: Exception
) -> None:
    platform.token_wanted = "new"
    failures = [failure]

    async def tokens(renew: bool) -> str:
        if renew and failures:
            raise failures.pop()
        return await token(renew)

    live = LiveSession(platform.url, tokens, SETTINGS, backoff=Backoff(draw=lambda *_: 0.0))
    await spoken(live, SPEECH[:3200])
    assert bytes(platform.audio) == SPEECH[:3200]


async def test_a_login_that_has_ended_ends_the_session(platform: ScriptedPlatform) -> None:
    platform.token_wanted = "new"

    async def tokens(renew: bool) -> str:
        if renew:
            raise ApiError(401, {"error": "unauthorized", "message": "Log in again."}, "r1", None)
        return "old"

    with pytest.raises(StreamError, match="Log in again") as caught:
        await spoken(LiveSession(platform.url, tokens, SETTINGS), SPEECH[:3200])
    assert (caught.value.close_code, caught.value.code) == (4401, "unauthorized")


async def test_segments_and_gaps_that_were_missed_come_with_the_restore(platform: ScriptedPlatform) -> None:
    platform.missed = {
        "segments": [{"type": "segment", "index": 0, "text": "missed", "event": 7}],
        "gaps": [{"type": "gap", "start": 1.0, "end": 2.0, "reason": "undecodable", "event": 8}],
    }

    async def break_once(platform: ScriptedPlatform, socket: ServerConnection) -> bool:
        platform.on_frame = None
        return bool(await break_off(platform, socket))

    platform.on_frame = break_once
    live = session(platform)
    events = [event for event in await spoken(live, SPEECH[:3200]) if event["type"] != "ack"]
    assert [event["type"] for event in events] == [
        *("started", "disconnected", "session_restored", "segment", "gap", "segment", "finished"),
    ]
    assert live.last_event >= 8


async def test_a_pause_is_said_again_after_a_restore(platform: ScriptedPlatform) -> None:
    async with asyncio.timeout(5), session(platform) as live:
        await live.send(SPEECH[:3200])
        await live.pause()
        await until(live, "ack")
        platform.sockets[0].transport.abort()
        await until(live, "session_restored")
        await live.unpause()
        await live.send(SPEECH[3200:6400])
        await live.finish(5)
    said = [message["type"] for message in platform.messages if message["type"] != "ping"]
    assert said in (["pause", "pause", "unpause", "finish"], ["pause", "unpause", "finish"])
    assert said.index("unpause") == len(said) - 2
    assert bytes(platform.audio) == SPEECH[:6400]


@pytest.mark.parametrize(
    "nonsense",
    ["not json", json.dumps(["a", "list"]), json.dumps({"type": "ack", "offset": 10**9}), json.dumps({"type": "ack"})],
)
async def test_a_platform_that_makes_no_sense_is_not_believed(platform: ScriptedPlatform, nonsense: str) -> None:
    async def talk_nonsense(_: ScriptedPlatform, socket: ServerConnection) -> bool:
        await socket.send(nonsense)
        return False

    platform.on_frame = talk_nonsense
    with pytest.raises(StreamError, match="protocol"):
        await spoken(session(platform), SPEECH)
    assert len(platform.starts) == 1
