"""What is said on the socket and to viewers, kind by kind, against docs/asyncapi.yaml."""

from __future__ import annotations

import asyncio

import pytest

from dev.stack import Stack
from tests.asyncapi import faults
from tests.e2e.conftest import NewClient
from tests.e2e.speech import Message, recording, socket

pytestmark = [pytest.mark.req("R-WS-1", "R-WS-6", "R-RUN-7"), pytest.mark.long, pytest.mark.timeout(900)]

SPOKEN_S = 7.0
PIECE = 32_000
WITHIN_S = 120.0


async def test_every_kind_of_frame_and_event_is_as_documented(stack: Stack, new_client: NewClient) -> None:
    client = await new_client()
    pcm = recording(SPOKEN_S)
    seen: dict[str, Message] = {}

    async with socket(stack.ws_url) as bare:

        async def hear(*types: str) -> Message:
            message = await bare.hear(*types, within_s=WITHIN_S)
            seen[message["type"]] = message
            return message

        await bare.say(type="start", token=client.access_token, title="Frames", language="en", speaker="Ada")
        begun = await hear("started")
        told: list[Message] = []

        async def follow() -> None:
            # As they came: without the id, which is the event's.
            async for event in client.watch(begun["meeting_id"]):
                told.append({name: value for name, value in event.items() if name != "event_id"})  # noqa: PERF401

        following = asyncio.create_task(follow())
        await bare.say(type="ping", t=1)
        await hear("pong")
        await bare.audio(len(pcm), pcm[:PIECE])
        assert (await hear("error"))["error"] == "offset_gap"
        for at in range(0, len(pcm), PIECE):
            await bare.audio(at, pcm[at : at + PIECE])
        await hear("ack")
        await hear("partial")
        await hear("segment")

    async with socket(stack.ws_url) as bare:
        resume = {"session_id": begun["session_id"], "resume_token": begun["resume_token"], "last_event": 1}
        await bare.say(type="start", token=client.access_token, resume=resume)
        restored = await bare.hear("session_restored", within_s=WITHIN_S)
        for at in range(restored["offset"], len(pcm), PIECE):
            await bare.audio(at, pcm[at : at + PIECE])
        await bare.say(type="gap", **{"from": len(pcm), "to": len(pcm) + PIECE})
        heard = {"session_restored"}
        await bare.say(type="finish", offset=len(pcm) + PIECE)
        while "finished" not in heard:
            message = await bare.hear("gap", "status", "segment", "revised", "finished", within_s=WITHIN_S)
            heard.add(message["type"])

    async with socket(stack.ws_url) as bare:
        lost = {"session_id": begun["session_id"], "resume_token": "another", "last_event": 1}
        await bare.say(type="start", token=client.access_token, resume=lost)
        await bare.hear("session_not_found", within_s=WITHIN_S)

    async with asyncio.timeout(WITHIN_S):
        await following
    assert {"started", "pong", "error", "ack", "partial", "segment"} <= seen.keys()
    assert {"gap", "finished"} <= heard
    assert {"segment", "gap", "insights", "finished"} <= {event["type"] for event in told}
    assert [fault for event in told for fault in faults("toViewer", event)] == []
