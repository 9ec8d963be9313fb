"""What is deleted is gone from every store: each is searched for words that were there before."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
from verbatim_client import VerbatimClient

from chassis import bus, dead_letters, ids
from dev.stack import Stack
from services.meetings.tests.logbook import Logbook
from tests.e2e.conftest import NewClient
from tests.e2e.stores import places

pytestmark = pytest.mark.req("R-API-1", "R-AUTH-2")


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


async def test_words_of_a_deleted_meeting_are_in_no_store_any_more(stack: Stack, new_client: NewClient) -> None:
    client, word = await new_client(), f"zyx{secrets.token_hex(6)}"
    me = await client.call("GET", "/api/auth/me")
    meeting = await client.call(
        "POST",
        "/api/meetings",
        json={"title": f"About {word}", "participants": [word]},
        idempotency_key=f"k-{word[:6]}",
    )
    meeting_id = meeting["id"]
    await told(stack, me["id"], meeting_id, word)
    assert word in (await made(client, meeting_id))["title"]
    await client.create_task(f"My own about {word}", meeting_id=meeting_id)
    insights = await client.insights(meeting_id)
    await client.update_insights(meeting_id, insights["version"], summary=f"Mine about {word}.")
    assert (await client.call("GET", f"/api/meetings?q={word}"))["items"]

    before = await places(stack, word)
    # The control: the search finds the word wherever it is kept.
    assert {
        "meetings.meetings", "meetings.segments", "meetings.suppressed", "meetings.tasks", "meetings.idempotency_keys",
        "insights.insights", "insights.outbox", "TRANSCRIPT transcript.*", "AUDIO audio.*",
        "EVENTS events.insights.ready", "DLQ dlq.transcript",
    } <= before.keys()  # fmt: skip

    await client.delete_meeting(meeting_id, (await client.meeting(meeting_id))["version"])
    after = before
    try:
        async with asyncio.timeout(120):
            while after := await places(stack, word):
                await asyncio.sleep(0.5)
    except TimeoutError:
        pytest.fail(f"still in {after}")
    assert (await client.call("GET", f"/api/meetings?q={word}"))["items"] == []


async def test_what_is_anothers_stays_when_a_meeting_is_deleted(stack: Stack, new_client: NewClient) -> None:
    client, word = await new_client(), f"zyx{secrets.token_hex(6)}"
    me = await client.call("GET", "/api/auth/me")
    kept, gone = ids.new_id(), ids.new_id()
    for meeting_id, said in ((kept, f"{word}kept"), (gone, f"{word}gone")):
        await told(stack, me["id"], meeting_id, said)
        await made(client, meeting_id)
    before = await places(stack, f"{word}kept")
    await client.delete_meeting(gone, (await client.meeting(gone))["version"])
    async with asyncio.timeout(120):
        while await places(stack, f"{word}gone"):
            await asyncio.sleep(0.5)
    assert await places(stack, f"{word}kept") == before
