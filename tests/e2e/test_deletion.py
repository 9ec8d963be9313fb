"""What is deleted is gone from every store: each is searched for words that were there before."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from chassis import ids
from dev.stack import Stack
from tests.e2e.conftest import NewClient
from tests.e2e.meetings import made, told
from tests.e2e.stores import places

pytestmark = pytest.mark.req("R-API-1", "R-AUTH-2")


async def vanished(stack: Stack, word: str) -> None:
    """Wait until a word is in no store any more."""
    left: dict[str, int] = {}
    try:
        async with asyncio.timeout(90):
            while left := await places(stack, word):
                await asyncio.sleep(0.5)
    except TimeoutError:
        pytest.fail(f"still in {left}")


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
    await vanished(stack, word)
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
    await vanished(stack, f"{word}gone")
    after = await places(stack, f"{word}kept")
    assert all(after.get(place, 0) >= count for place, count in before.items())  # what is told meanwhile comes later
