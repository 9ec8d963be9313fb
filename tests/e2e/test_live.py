"""The main job over the public API: speak, read, and find it all again."""

from __future__ import annotations

import asyncio
import math

import httpx2
import jiwer
import pytest
import pytest_asyncio
from verbatim_client import VerbatimClient

from dev.stack import Stack
from tests.e2e.conftest import NewClient
from tests.e2e.speech import Message, plain, recording, script, socket, speak, started

# A byte offset of the recording in the midst of an utterance.
IN_UTTERANCE = 192_000


def of(events: list[Message], kind: str) -> list[Message]:
    return [event for event in events if event["type"] == kind]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def spoken(stack: Stack) -> tuple[VerbatimClient, list[Message]]:
    """The bundled meeting, spoken once for several tests."""
    async with VerbatimClient(stack.url) as client:
        await client.register("speaker@verbatim.example", "speaker", "a long enough password")
        await client.login("speaker@verbatim.example", "a long enough password")
        events = await speak(client, recording(), title="Weekly meeting", speed=6.0)
        return VerbatimClient(stack.url, access_token=client.access_token), events


@pytest.mark.req("R-WS-1", "R-STT-4", "R-STT-6", "R-RUN-1")
async def test_meeting_is_heard_with_few_errors(spoken: tuple[VerbatimClient, list[Message]]) -> None:
    _, events = spoken
    heard = " ".join(event["text"] for event in of(events, "segment"))
    rate = jiwer.wer(plain(script()), plain(heard))
    print(f"word error rate of the bundled recording: {rate:.3f}")
    assert rate <= 0.20


@pytest.mark.req("R-WS-1", "R-WS-4")
async def test_events_grow_by_one_and_indexes_have_no_holes(spoken: tuple[VerbatimClient, list[Message]]) -> None:
    _, events = spoken
    numbers = [event["event"] for event in events if "event" in event]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [event["index"] for event in of(events, "segment")] == list(range(len(of(events, "segment"))))
    assert all(not {"event"} & event.keys() for kind in ("ack", "partial", "status") for event in of(events, kind))


@pytest.mark.req("R-WS-1")
async def test_partial_text_comes_while_somebody_speaks(stack: Stack, client: VerbatimClient) -> None:
    pcm = recording(8.0)
    async with started(stack.ws_url, client) as (bare, _):
        # It is made when there is capacity to spare: for who stops in the midst of speech, in the end.
        for offset in range(0, IN_UTTERANCE, 3200):
            await bare.audio(offset, pcm[offset : min(offset + 3200, IN_UTTERANCE)])
        partial = await bare.hear("partial", within_s=60)
        await bare.audio(IN_UTTERANCE, pcm[IN_UTTERANCE:])
        await bare.say(type="finish", offset=len(pcm))
        segment = await bare.hear("segment", within_s=60)
        while segment["segment_id"] != partial["segment_id"]:
            assert segment["index"] < partial["index"]
            segment = await bare.hear("segment", within_s=60)
    assert partial["text"]
    assert 0 <= partial["stable_chars"] <= len(partial["text"])


@pytest.mark.req("R-WS-4")
async def test_accounts_tell_that_nothing_is_missing(spoken: tuple[VerbatimClient, list[Message]]) -> None:
    _, events = spoken
    finished = events[-1]
    assert finished["type"] == "finished"
    assert finished["segments"] == finished["draft_segments"] == len(of(events, "segment"))
    assert finished["audio_seconds"] == pytest.approx(len(recording()) / 32_000)
    assert (finished["gap_seconds"], finished["coverage"]) == (0, 1.0)
    assert of(events, "ack")[-1]["offset"] == len(recording())


@pytest.mark.req("R-STT-4")
async def test_person_is_told_that_the_engine_only_drafts(spoken: tuple[VerbatimClient, list[Message]]) -> None:
    _, events = spoken
    assert of(events, "status")[0]["state"] == "degraded"
    assert {event["quality"] for event in of(events, "segment")} == {"draft"}


@pytest.mark.req("R-WS-6", "R-STT-4")
async def test_viewer_who_comes_late_is_told_that_captions_are_drafts(stack: Stack, client: VerbatimClient) -> None:
    meeting = (await client.create_meeting("Late"))["id"]
    async with started(stack.ws_url, client, meeting_id=meeting) as (bare, _), asyncio.timeout(60):
        await bare.hear("status")
        told = None
        async for event in client.watch(meeting):
            if event["type"] == "status":
                told = event["state"]
                break
    assert told == "degraded"


@pytest.mark.req("R-API-1", "R-SVC-3")
async def test_transcript_is_in_the_library_when_finished_is_told(
    spoken: tuple[VerbatimClient, list[Message]],
) -> None:
    client, events = spoken
    meeting_id = events[-1]["meeting_id"]
    stored = await client.segments(meeting_id)
    fields = ("id", "session_id", "index", "text", "quality", "engine", "speaker")
    assert [[row[f] for f in fields] for row in stored] == [[e[f] for f in fields] for e in of(events, "segment")]
    meeting = await client.meeting(meeting_id)
    assert (meeting["title"], meeting["status"]) == ("Weekly meeting", "completed")
    found = [row["id"] async for row in client.meetings("marketing")]
    assert found == [meeting_id]


@pytest.mark.req("R-API-1")
@pytest.mark.parametrize("format_", ["txt", "md", "srt", "vtt", "json"])
async def test_exports_hold_every_segment(spoken: tuple[VerbatimClient, list[Message]], format_: str) -> None:
    client, events = spoken
    exported = plain(await client.export(events[-1]["meeting_id"], format_))
    assert all(plain(event["text"]) in exported for event in of(events, "segment"))


@pytest.mark.req("R-API-2", "R-API-3", "R-DB-4", "R-JOB-1", "R-SVC-4")
async def test_minutes_and_tasks_arrive_by_themselves(spoken: tuple[VerbatimClient, list[Message]]) -> None:
    client, events = spoken
    meeting_id = events[-1]["meeting_id"]
    async with asyncio.timeout(30):
        while (insights := await client.insights(meeting_id))["status"] != "ready":
            await asyncio.sleep(0.2)
        while len(tasks := [task async for task in client.tasks(meeting_id=meeting_id)]) < 3:
            await asyncio.sleep(0.2)
    assert insights["quality"] == "draft"
    assert insights["summary"]
    decisions = " ".join(point["text"] for point in insights["decisions"]).lower()
    assert "september" in decisions and "two days" in decisions
    segments = {event["segment_id"] for event in of(events, "segment")}
    assert {task["source_segment_id"] for task in tasks} <= segments
    assert {(task["assignee"] or "").lower() for task in tasks} == {"anna", "peter", "james"}
    assert all(task["due"] for task in tasks)


@pytest.mark.req("R-AUTH-2")
async def test_nobody_else_sees_the_meeting(
    stack: Stack, spoken: tuple[VerbatimClient, list[Message]], new_client: NewClient
) -> None:
    _, events = spoken
    meeting_id = events[-1]["meeting_id"]
    stranger = await new_client()
    for path in (f"/api/meetings/{meeting_id}", f"/api/meetings/{meeting_id}/segments", f"/api/insights/{meeting_id}"):
        with pytest.raises(Exception, match="not_found"):
            await stranger.call("GET", path)
    async with socket(stack.ws_url) as bare:
        await bare.say(type="start", token=stranger.access_token, meeting_id=meeting_id)
        assert (await bare.hear("error"))["error"] == "not_found"
        assert await bare.closed() == 4404


@pytest.mark.req("R-WS-7")
async def test_two_tracks_of_one_meeting_keep_their_speakers(client: VerbatimClient) -> None:
    meeting = await client.create_meeting("Two tracks")
    halves = [recording(9.0), recording(16.0)[9 * 32_000 :]]
    await asyncio.gather(
        *(speak(client, half, meeting_id=meeting["id"], speaker=name) for half, name in zip(halves, "AB", strict=True))
    )
    speakers = {row["speaker"] for row in await client.segments(meeting["id"])}
    assert speakers == {"A", "B"}
    assert (await client.meeting(meeting["id"]))["status"] == "completed"


@pytest.mark.req("R-WS-1")
async def test_finalize_ends_the_utterance_and_the_session_stays_open(stack: Stack, client: VerbatimClient) -> None:
    async with started(stack.ws_url, client) as (bare, _):
        await bare.audio(0, recording(2.5)[: 64 * 1024])
        await bare.audio(64 * 1024, recording(2.5)[64 * 1024 :])
        await bare.say(type="finalize")
        assert (await bare.hear("segment"))["text"]
        await bare.say(type="ping", t=7)
        assert (await bare.hear("pong"))["t"] == 7


@pytest.mark.req("R-WS-3")
async def test_session_is_restored_on_a_new_connection(stack: Stack, client: VerbatimClient) -> None:
    pcm = recording(12.0)
    async with started(stack.ws_url, client) as (first, greeting):
        for offset in range(0, len(pcm), 32_000):
            await first.audio(offset, pcm[offset : offset + 32_000])
        seen = await first.hear("segment")
    resume = {"session_id": greeting["session_id"], "resume_token": greeting["resume_token"]}
    async with socket(stack.ws_url) as second:
        await second.say(type="start", token=client.access_token, resume=resume | {"last_event": seen["event"]})
        restored = await second.hear("session_restored")
        assert (restored["status"], restored["offset"]) == ("resumed", len(pcm))
        assert restored["resume_token"] != greeting["resume_token"]
        assert all(segment["index"] > seen["index"] for segment in restored["segments"])
        await second.say(type="finish", offset=len(pcm))
        assert (await second.hear("finished"))["coverage"] == 1.0
        assert await second.closed() == 1000


@pytest.mark.req("R-WS-3")
async def test_newer_connection_takes_over(stack: Stack, client: VerbatimClient) -> None:
    async with started(stack.ws_url, client) as (first, greeting), socket(stack.ws_url) as second:
        resume = {"session_id": greeting["session_id"], "resume_token": greeting["resume_token"]}
        await second.say(type="start", token=client.access_token, resume=resume)
        await second.hear("session_restored")
        assert (await first.hear("error"))["fatal"] is True
        assert await first.closed() == 4409


@pytest.mark.req("R-SVC-6", "R-OBS-5", "R-ERR-1")
async def test_request_id_is_answered_and_logged(stack: Stack, client: VerbatimClient) -> None:
    answer = await client.answer("GET", "/api/meetings", headers={"X-Request-ID": "req_findmeagain1234"})
    assert answer.headers["X-Request-ID"] == "req_findmeagain1234"
    missing = "/api/meetings/01930000-0000-7000-8000-000000000000"
    with pytest.raises(Exception, match="not_found"):
        await client.answer("GET", missing, headers={"X-Request-ID": "req_findmeagain5678"})
    async with asyncio.timeout(15):
        # A process writes its log behind the answer.
        while "req_findmeagain5678" not in stack.log("gateway").read_text():
            await asyncio.sleep(0.05)


@pytest.mark.req("R-SVC-7", "R-OBS-1")
async def test_each_service_tells_of_itself_on_its_internal_port(stack: Stack) -> None:
    async with httpx2.AsyncClient(timeout=5) as http:
        for service in ("gateway", "transcriber", "meetings", "insights", "janitor"):
            for path, wanted in (("/healthz", "ok"), ("/readyz", "ready")):
                answer = await http.get(stack.internal_url(service) + path)
                assert (answer.status_code, answer.json()["status"]) == (200, wanted)
            metrics = (await http.get(f"{stack.internal_url(service)}/metrics")).text
            assert f'build_info{{service="{service}"' in metrics


@pytest.mark.req("R-STT-6")
async def test_sine_of_20_khz_is_not_speech(client: VerbatimClient) -> None:
    # What a 16 kHz stream holds of a 20 kHz tone is its alias at 4 kHz.
    wave = b"".join(
        int(12_000 * math.sin(2 * math.pi * 20_000 * n / 16_000)).to_bytes(2, "little", signed=True)
        for n in range(5 * 16_000)
    )
    events = await speak(client, wave)
    assert events[-1]["coverage"] == 1.0
    assert events[-1]["segments"] <= 1


@pytest.mark.req("R-OBS-1")
async def test_platform_adds_little_to_the_engine(stack: Stack, spoken: tuple[VerbatimClient, list[Message]]) -> None:
    """From the cut of an utterance to its segment in the log, queue and engine taken out: median below 50 ms."""
    async with httpx2.AsyncClient(timeout=5) as http:
        page = (await http.get(f"{stack.internal_url('transcriber')}/metrics")).text
    buckets = [
        (float(line.split('le="')[1].split('"')[0]), float(line.rsplit(" ", 1)[1]))
        for line in page.splitlines()
        if line.startswith("segment_overhead_seconds_bucket")
    ]
    total = buckets[-1][1]
    p50, p95 = (next(limit for limit, count in buckets if count >= share * total) for share in (0.5, 0.95))
    print(f"overhead per segment: p50 <= {p50} s, p95 <= {p95} s over {total:.0f} segments")
    assert total >= len(of(spoken[1], "segment"))
    assert p50 <= 0.05
