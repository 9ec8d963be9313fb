"""Audio as browsers record it, over the public API."""

from __future__ import annotations

import asyncio
from pathlib import Path

import jiwer
import pytest
from verbatim_client import LiveSettings, VerbatimClient

from dev.stack import Stack
from services.transcriber.tests.recorder import CONTAINERS, Container, record
from tests.e2e.speech import Message, plain, recording, script, socket, started

CHANNELS = {"webm": 2, "ogg": 1}


def as_recorded(folder: Path, container: Container, pcm: bytes) -> bytes:
    """Return what a recorder makes of audio; made once for a folder."""
    path = folder / f"{len(pcm)}.{container}"
    if not path.exists():
        path.write_bytes(record(pcm, container, channels=CHANNELS[container]))
    return path.read_bytes()


async def stream(client: VerbatimClient, data: bytes, container: Container, *, speed: float) -> list[Message]:
    """Send a recording in the pieces of a recorder, about a quarter of a second each, and return every event."""
    duration_s = len(recording()) / 32_000
    piece_bytes = int(len(data) / duration_s / 4)
    settings = LiveSettings(title="Recorded", encoding=f"{container}_opus", channels=CHANNELS[container])
    events: list[Message] = []
    async with client.live(settings) as session:

        async def speak() -> None:
            for at in range(0, len(data), piece_bytes):
                await session.send(data[at : at + piece_bytes])
                await asyncio.sleep(0.25 / speed)
            await session.finish(within_s=90)

        speaking = asyncio.create_task(speak())
        events = [event async for event in session]
        await speaking
    return events


@pytest.mark.req("R-WS-1", "R-WS-4")
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.long
async def test_recorded_meeting_is_heard_with_few_errors(
    client: VerbatimClient, container: Container, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = as_recorded(tmp_path_factory.getbasetemp(), container, recording())
    events = await stream(client, data, container, speed=6.0)
    heard = " ".join(event["text"] for event in events if event["type"] == "segment")
    rate = jiwer.wer(plain(script()), plain(heard))
    print(f"word error rate of the bundled recording as {container}: {rate:.3f}")
    assert rate <= 0.20
    finished = events[-1]
    assert (finished["coverage"], finished["gap_seconds"]) == (1.0, 0)
    assert finished["audio_seconds"] == pytest.approx(len(recording()) / 32_000, abs=0.1)
    assert [event for event in events if event["type"] == "ack"][-1]["offset"] == len(data)
    assert events[0]["settings"]["encoding"] == f"{container}_opus"


@pytest.mark.req("R-WS-3")
@pytest.mark.parametrize("container", CONTAINERS)
async def test_recording_goes_on_over_a_new_connection(
    stack: Stack, client: VerbatimClient, container: Container, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = as_recorded(tmp_path_factory.getbasetemp(), container, recording(12.0))
    half = len(data) // 2 + 1
    async with started(stack.ws_url, client, encoding=f"{container}_opus") as (first, greeting):
        for offset in range(0, half, 1_501):
            await first.audio(offset, data[offset : min(offset + 1_501, half)])
        while (await first.hear("ack"))["offset"] < half:
            pass
    resume = {"session_id": greeting["session_id"], "resume_token": greeting["resume_token"]}
    async with socket(stack.ws_url) as second:
        await second.say(type="start", token=client.access_token, resume=resume)
        assert (await second.hear("session_restored"))["offset"] == half
        await second.audio(half, data[half:])
        await second.say(type="finish", offset=len(data))
        finished = await second.hear("finished")
        assert (finished["coverage"], finished["gap_seconds"]) == (1.0, 0)
        assert finished["audio_seconds"] == pytest.approx(12.0, abs=0.1)


@pytest.mark.req("R-WS-2")
async def test_what_is_not_the_promised_container_is_refused(stack: Stack, client: VerbatimClient) -> None:
    async with started(stack.ws_url, client, encoding="webm_opus") as (bare, _):
        await bare.audio(0, recording(1.0))
        error = await bare.hear("error")
        assert (error["error"], error["fatal"]) == ("unsupported_media_type", True)
        assert await bare.closed() == 4400
