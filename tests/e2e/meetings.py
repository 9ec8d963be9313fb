"""Meetings that nobody has to speak: their logs are written as a transcriber writes them."""

from __future__ import annotations

import asyncio
from typing import Any

from verbatim_client import VerbatimClient

from chassis import bus, dead_letters, ids
from dev.stack import Stack
from services.meetings.tests.logbook import Logbook


async def told(stack: Stack, owner_id: str, meeting_id: str, word: str) -> Logbook:
    """Write the log of a session as a transcriber does, with a word that nobody says."""
    log = Logbook(owner_id, meeting_id, title=f"Title {word}", speaker=f"{word} Smith")
    log.say(f"good morning everybody this is about {word}")
    log.say(f"we decided to move the launch of {word} to september")
    log.say(f"anna will send the {word} budget to the client by friday")
    log.suppress(f"thanks for watching {word}")
    log.close()
    async with bus.connect(stack.plan.nats_url, name="test", replicas=1) as broker:
        for entry in log.entries:
            await broker.publish(f"transcript.{log.session_id}", entry.SerializeToString())
        await broker.publish(f"audio.{log.session_id}", word.encode() * 100)
        letter = dead_letters.letter(
            ids.new_id(), kind="transcript", subject=f"transcript.{log.session_id}",
            payload=log.entries[1].SerializeToString(), error="bad", about={"meeting_id": meeting_id},
        )  # fmt: skip
        await dead_letters.publish(broker, letter)
    return log


async def made(client: VerbatimClient, meeting_id: str) -> dict[str, Any]:
    """Wait until the meeting has its minutes, and its task."""
    async with asyncio.timeout(120):
        while not (tasks := (await client.call("GET", f"/api/tasks?meeting_id={meeting_id}"))["items"]):
            await asyncio.sleep(0.2)
    return dict(tasks[0])
