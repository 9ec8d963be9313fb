"""Recordings become meetings, whatever dies on the way."""

from __future__ import annotations

import asyncio
import signal
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import jiwer
import psutil
import pytest
import pytest_asyncio
from nats.js.errors import NotFoundError
from verbatim_client import ApiError, VerbatimClient

from chassis import bus
from dev.plan import Plan
from dev.ports import Ports
from dev.stack import Stack
from tests.corpus import recordings as make
from tests.e2e.conftest import NewClient
from tests.e2e.speech import ASSETS, Message, closing, closing_script, plain, recording
from tests.e2e.test_cli import Cli
from tests.limits import ONE_ENGINE, RAISED

MIB = 1024**2


async def stored(stack: Stack) -> set[str]:
    """Return what there is of files: objects at the broker, scratch files on the disk."""
    async with bus.connect(stack.plan.nats_url, name="looks", replicas=1) as broker:
        try:
            objects = (await broker.js.stream_info("OBJ_UPLOADS", subjects_filter="$O.UPLOADS.>")).state.subjects or {}
        except NotFoundError:
            objects = {}
    scratch = stack.plan.data_folder / "scratch" / "uploads"
    return {*objects, *(path.name for path in scratch.glob("*"))}


async def done(client: VerbatimClient, job_id: str, within_s: float = 110.0) -> Message:
    async with asyncio.timeout(within_s):
        return await client.job_done(job_id)


@pytest.mark.req("R-UP-3", "R-UI-2")
async def test_a_recording_becomes_a_meeting_with_minutes(stack: Stack, new_client: NewClient, tmp_path: Path) -> None:
    client = await new_client()
    cli = Cli(stack.url, tmp_path)
    await cli.login(str((await client.me())["email"]))
    before = await stored(stack)
    file = tmp_path / "Board_meeting.m4a"
    file.write_bytes(make.m4a(closing()))
    result = await cli.run("upload", str(file), "--language", "en", "--wait", "--json")
    assert result.code == 0, result.err
    [told] = result.objects
    assert told["status"] == "completed"
    assert "job_id" in told
    shown = await cli.run("jobs", "show", told["job_id"])
    assert "progress        1" in shown.out

    meeting = await client.meeting(told["meeting_id"])
    assert (meeting["title"], meeting["status"], meeting["coverage"]) == ("Board meeting", "completed", 1.0)
    segments = await client.segments(told["meeting_id"])
    assert jiwer.wer(plain(closing_script()), plain(" ".join(segment["text"] for segment in segments))) < 0.1
    async with asyncio.timeout(30):
        while (minutes := await client.insights(told["meeting_id"]))["status"] != "ready":
            await asyncio.sleep(0.2)
    assert minutes["decisions"]
    assert await stored(stack) <= before


@pytest.mark.req("R-UP-2")
async def test_a_file_that_cannot_be_transcribed_says_why_and_leaves_nothing(
    stack: Stack, client: VerbatimClient, tmp_path: Path
) -> None:
    before = await stored(stack)
    file = tmp_path / "half.wav"
    file.write_bytes((ASSETS / "meeting.wav").read_bytes()[:500_000])
    sent = await client.upload(file)
    job = await done(client, sent["job_id"], 30)
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert "end of the file is missing" in job["error"]
    assert (await client.meeting(sent["meeting_id"]))["status"] == "failed"
    assert await stored(stack) <= before


@pytest.mark.req("R-UP-1")
async def test_a_long_file_costs_the_gateway_no_memory(stack: Stack, client: VerbatimClient) -> None:
    gateway = psutil.Process(stack.runner.pid("gateway"))
    head = make.wav(make.tone(0.1))
    peaks = []

    async def content(total: int) -> AsyncIterator[bytes]:
        yield head
        for sent in range(len(head), total, MIB):
            peaks.append(gateway.memory_info().rss)
            yield bytes(min(MIB, total - sent))

    headers = {"Authorization": f"Bearer {client.access_token}"}
    await client._http.put("/api/uploads/warm.wav", content=content(4 * MIB), headers=headers, timeout=60)
    before = gateway.memory_info().rss
    peaks.clear()
    answer = await client._http.put("/api/uploads/a.wav", content=content(90 * MIB), headers=headers, timeout=60)
    assert answer.status_code == 202, answer.text
    assert max(peaks) - before < 20 * MIB
    await done(client, answer.json()["job_id"])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def replicated(stack_folder: Path, nats_binary: str | None) -> AsyncIterator[Stack]:
    """A platform of its own, to be broken."""
    replicas = {"transcriber": 2, "meetings": 2, "janitor": 0}
    plan = Plan(
        stack_folder / "uploads",
        Ports.free(),
        replicas=replicas,
        extra_env={"gateway": RAISED, "transcriber": ONE_ENGINE},
        nats_server=nats_binary,
    )
    stack = Stack(plan)
    await stack.start()
    yield stack
    await stack.stop()


def sentences(segments: list[Message]) -> list[tuple[float, float, str]]:
    """Return what was said and when, after checking that nothing is missing or doubled."""
    assert [segment["index"] for segment in segments] == list(range(len(segments)))
    return [(segment["start"], segment["end"], segment["text"]) for segment in segments]


@pytest.mark.req("R-UP-3", "R-JOB-1", "R-HEAL-2")
@pytest.mark.timeout(900)
@pytest.mark.long
async def test_whatever_dies_on_the_way_the_transcript_is_the_same(replicated: Stack, tmp_path: Path) -> None:
    stack = replicated
    file = tmp_path / "Weekly.wav"
    with wave.open(str(file), "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(recording(45.0))
    async with VerbatimClient(stack.url) as client:
        await client.register("survivor@verbatim.example", "survivor", "a long enough password")
        await client.login("survivor@verbatim.example", "a long enough password")
        undisturbed = await client.upload(file)
        assert (await done(client, undisturbed["job_id"], 240))["status"] == "completed"
        expected = sentences(await client.segments(undisturbed["meeting_id"]))
        assert len(expected) >= 6

        killed: list[str] = []

        def kill_once(name: str) -> None:
            if name not in killed:
                killed.append(name)
                stack.kill(name, signal.SIGKILL)

        def half_way(sent: int, total: int) -> None:
            if sent > total // 2:
                kill_once("gateway")

        async def revive(name: str) -> None:
            while name not in killed:
                await asyncio.sleep(0.05)
            await stack.runner.ended(name, 10)
            await stack.restart(name)

        reviving = asyncio.create_task(revive("gateway"))
        sent = await client.upload(file, progress=half_way)
        await reviving

        async def reaches(progress: float) -> None:
            async with asyncio.timeout(240):
                while True:
                    try:
                        job = await client.job(sent["job_id"])
                    except (ApiError, httpx2.TransportError) as fault:  # what answers was just killed
                        assert not isinstance(fault, ApiError) or fault.status >= 500, fault
                        job = {"progress": 0.0, "status": "unknown"}
                    assert job["status"] not in {"failed", "dead"}, str(job)
                    if job["progress"] >= progress:
                        return
                    await asyncio.sleep(0.05)

        for progress, victims in (
            (0.1, ("transcriber", "transcriber-2")),
            (0.3, ("meetings", "meetings-2")),
            (0.5, ("nats",)),
        ):
            await reaches(progress)
            for victim in victims:
                kill_once(victim)
            for victim in victims:
                await stack.runner.ended(victim, 10)
                await stack.restart(victim)
        assert set(killed) == {"gateway", "transcriber", "transcriber-2", "meetings", "meetings-2", "nats"}
        job = await done(client, sent["job_id"], 300)
        assert job["status"] == "completed", job
        assert sentences(await client.segments(sent["meeting_id"])) == expected
        assert await stored(stack) == set()
