"""Transcripts heal by themselves: an outage of the speech API leaves no trace, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from verbatim_client import ApiError, VerbatimClient

from dev.plan import Plan
from dev.ports import Ports
from dev.stack import Stack
from services.transcriber.tests.scripted_server import Answer, Request, answer
from tests.e2e.conftest import PASSWORD
from tests.e2e.speech import Message, Socket, recording, socket, speak, started
from tests.e2e.speech_api import HEALED, SpeechApi
from tests.limits import ONE_ENGINE, OPEN_TO_MANY, RAISED

# The first test waits for the stack as well, and what comes after a test that is broken off would share its API.
pytestmark = [pytest.mark.req("R-STT-5", "R-STT-4"), pytest.mark.timeout(600)]

WITHIN_S = 180.0
FRAME_BYTES = 32_000


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def api() -> AsyncIterator[SpeechApi]:
    server = SpeechApi(away=True)
    async with server.run():
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(stack_folder: Path, nats_binary: str | None, api: SpeechApi) -> AsyncIterator[Stack]:
    plan = Plan(
        stack_folder / "healing", Ports.free(), nats_server=nats_binary,
        extra_env={
            "transcriber": api.settings | ONE_ENGINE,
            "gateway": RAISED | {"VIEWER_HEAL_WAIT_S": "120"}, "meetings": OPEN_TO_MANY,
        },
    )  # fmt: skip
    whole = Stack(plan)
    await whole.start()
    yield whole
    await whole.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def client(stack: Stack, request: pytest.FixtureRequest) -> AsyncIterator[VerbatimClient]:
    name = f"h{abs(hash(request.node.name)) % 10**9}"
    async with VerbatimClient(stack.url) as made:
        await made.register(f"{name}@verbatim.example", name, PASSWORD)
        await made.login(f"{name}@verbatim.example", PASSWORD)
        yield made


async def eventually(holds: Callable[[], Awaitable[Any]]) -> Any:
    """Return what holds, once it does. A platform that is being restarted may refuse a call."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            with contextlib.suppress(ApiError):
                if found := await holds():
                    return found
            await asyncio.sleep(0.1)


async def test_meeting_that_ended_in_an_outage_heals_once_and_for_everybody(
    stack: Stack, client: VerbatimClient, api: SpeechApi
) -> None:
    api.away, api.pause_s = True, 0.0
    events = await speak(client, recording(), speed=10.0, language="en")
    finished = events[-1]
    meeting_id = finished["meeting_id"]
    assert finished["draft_segments"] == finished["segments"] > 10
    assert finished["coverage"] == 1.0
    meeting = await eventually(lambda: _completed(client, meeting_id))
    assert meeting["healing_segments"] == finished["segments"]
    found = await eventually(lambda: _tasks(client, meeting_id, at_least=3))
    changed = await client.update_task(found[0]["id"], found[0]["version"], title="Mine, not the machine's")
    await client.delete_task(found[1]["id"], found[1]["version"])
    drafted = await client.insights(meeting_id)
    assert drafted["status"] == "ready"

    seen: list[Message] = []
    watching = asyncio.create_task(_follow(client, meeting_id, seen))
    api.pause_s, api.away = 0.3, False
    await eventually(lambda: _has_final(client, meeting_id))
    stack.kill("transcriber")
    await stack.restart("transcriber")

    await eventually(lambda: _is_healed(client, meeting_id))
    rows = await client.segments(meeting_id)
    assert [(row["index"], row["revision"], row["quality"]) for row in rows] == [
        (index, 2, "final") for index in range(finished["segments"])
    ]
    assert all(row["text"].startswith(HEALED) for row in rows)
    export = await client.export(meeting_id, "txt")
    assert export.count(HEALED) == finished["segments"]
    assert [m["id"] async for m in client.meetings("interface")] == [meeting_id]
    assert [m["id"] async for m in client.meetings("website")] == []

    minutes = await eventually(lambda: _newer(client, meeting_id, drafted["summary"]))
    assert HEALED in minutes["summary"]
    left = await eventually(lambda: _only(client, meeting_id, changed["id"]))
    assert left[0]["title"] == "Mine, not the machine's"
    async with asyncio.timeout(WITHIN_S):
        await watching
    told = Counter((event["type"], event["index"]) for event in seen if event["type"] in {"segment", "revised"})
    assert {index for kind, index in told if kind == "revised"} == set(range(finished["segments"]))
    assert set(told.values()) == {1}
    assert (seen[-1]["type"], seen[-1]["draft_segments"]) == ("finished", 0)


async def test_speaker_sees_drafts_heal_and_after_a_lost_connection_what_healed_meanwhile(
    stack: Stack, client: VerbatimClient, api: SpeechApi
) -> None:
    api.away, api.pause_s = True, 0.0
    pcm = recording(24.0)
    async with started(stack.ws_url, client, language="en") as (bare, greeting):
        await _say(bare, pcm[: len(pcm) // 2])
        told = await _until_all(bare, "segment", "status")
        first = told["segment"]
        assert (first["quality"], first["index"]) == ("draft", 0)
        assert (told["status"]["state"], told["status"]["reason"]) == ("degraded", "speech_api")
        api.away = False
        revised = await bare.hear("revised", within_s=WITHIN_S)
        assert (revised["index"], revised["revision"], revised["quality"]) == (0, 2, "final")
        assert revised["event"] > first["event"]
        assert (revised["start"], revised["segment_id"]) == (first["start"], first["segment_id"])
    resume = {name: greeting[name] for name in ("session_id", "resume_token")} | {"last_event": first["event"]}
    async with socket(stack.ws_url) as bare:
        await bare.say(type="start", token=client.access_token, resume=resume)
        restored = await bare.hear("session_restored")
        missed = {row["index"]: row["revision"] for row in restored["segments"]}
        assert missed[0] == 2
        await _say(bare, pcm[restored["offset"] :], start=restored["offset"])
        await bare.say(type="finish", offset=len(pcm))
        finished = await bare.hear("finished", within_s=WITHIN_S)
    await eventually(lambda: _is_healed(client, finished["meeting_id"]))
    rows = await client.segments(finished["meeting_id"])
    assert [row["index"] for row in rows] == list(range(finished["segments"]))
    assert {row["quality"] for row in rows} == {"final"}


async def test_person_is_told_that_captions_are_drafts_and_that_they_are_not_any_more(
    stack: Stack, client: VerbatimClient, api: SpeechApi
) -> None:
    api.away, api.pause_s = True, 0.0
    pcm, first_part = recording(40.0), 8 * FRAME_BYTES
    async with started(stack.ws_url, client, language="en") as (bare, _):
        await _say(bare, pcm[:first_part])
        told = await _until_all(bare, "segment", "status")
        assert (told["status"]["state"], told["status"]["reason"]) == ("degraded", "speech_api")
        api.away = False
        # It is believed to be well when it has answered three times.
        await _say(bare, pcm[first_part:], start=first_part)
        while (status := await bare.hear("status", within_s=WITHIN_S))["state"] != "ok":
            assert status["state"] == "degraded"
        await bare.say(type="finish", offset=len(pcm))
        finished = await bare.hear("finished", within_s=WITHIN_S)
    await eventually(lambda: _is_healed(client, finished["meeting_id"]))


@pytest.mark.long
async def test_draft_that_the_api_refuses_is_given_up_and_said_to_be(
    stack: Stack, client: VerbatimClient, api: SpeechApi
) -> None:
    """What the alert DraftsGivenUp looks at; all others heal."""
    api.away, api.pause_s = True, 0.0
    finished = (await speak(client, recording(30.0), speed=10.0, language="en"))[-1]
    assert finished["draft_segments"] == finished["segments"] > 3
    before = await _given_up(stack)
    refused: list[int] = []

    def hear(request: Request) -> Answer:
        if not refused:
            refused.append(len(request.file))
        if len(request.file) == refused[0]:
            return answer({"error": {"message": "scripted"}}, 400)
        return answer({"text": HEALED})

    api.otherwise = hear
    try:
        meeting = await eventually(lambda: _settled(client, finished["meeting_id"]))
    finally:
        api.otherwise = api.hear
        api.away = False
    assert (meeting["draft_segments"], meeting["given_up_segments"]) == (1, 1)
    assert await _given_up(stack) - before == 1
    rows = await client.segments(finished["meeting_id"])
    assert sorted(row["quality"] for row in rows) == ["draft", *["final"] * (finished["segments"] - 1)]


async def _settled(client: VerbatimClient, meeting_id: str) -> Message | None:
    meeting = await client.meeting(meeting_id)
    return meeting if meeting["status"] == "completed" and not meeting["healing_segments"] else None


async def _given_up(stack: Stack) -> float:
    async with httpx2.AsyncClient() as http:
        page = (await http.get(f"{stack.internal_url('transcriber')}/metrics")).text
    name = 'transcript_drafts_given_up_total{reason="refused"}'
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))


async def _say(bare: Socket, pcm: bytes, start: int = 0) -> None:
    for offset in range(0, len(pcm), FRAME_BYTES):
        await bare.audio(start + offset, pcm[offset : offset + FRAME_BYTES])


async def _until_all(bare: Socket, *types: str) -> dict[str, Message]:
    """Return the first message of each type, in whatever order they come."""
    told: dict[str, Message] = {}
    while set(told) != set(types):
        message = await bare.hear(*types, within_s=WITHIN_S)
        told.setdefault(message["type"], message)
    return told


async def _follow(client: VerbatimClient, meeting_id: str, seen: list[Message]) -> None:
    async for event in client.watch(meeting_id):
        seen.append(event)  # noqa: PERF401 - what was seen so far is of interest too


async def _completed(client: VerbatimClient, meeting_id: str) -> Message | None:
    meeting = await client.meeting(meeting_id)
    return meeting if meeting["status"] == "completed" else None


async def _tasks(client: VerbatimClient, meeting_id: str, *, at_least: int) -> list[Message] | None:
    found = [task async for task in client.tasks(meeting_id=meeting_id)]
    return found if len(found) >= at_least else None


async def _only(client: VerbatimClient, meeting_id: str, task_id: str) -> list[Message] | None:
    found = [task async for task in client.tasks(meeting_id=meeting_id)]
    return found if [task["id"] for task in found] == [task_id] else None


async def _has_final(client: VerbatimClient, meeting_id: str) -> bool:
    return any(row["quality"] == "final" for row in await client.segments(meeting_id))


async def _is_healed(client: VerbatimClient, meeting_id: str) -> bool:
    meeting = await client.meeting(meeting_id)
    return bool(meeting["segments"]) and meeting["draft_segments"] == 0


async def _newer(client: VerbatimClient, meeting_id: str, summary: str) -> Message | None:
    minutes = await client.insights(meeting_id)
    return minutes if minutes["status"] == "ready" and minutes["summary"] != summary else None
