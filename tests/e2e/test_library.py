"""Search, figures and editing at once, as clients meet them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from verbatim_client import ApiError, VerbatimClient

from dev.stack import Stack
from tests.e2e.conftest import NewClient
from tests.e2e.meetings import made, told

EDITORS = 50
WITHIN_S = 90.0

Json = dict[str, Any]


async def figures(client: VerbatimClient, holds: Callable[[Json], bool]) -> Json:
    """Return the figures of the last thirty days as soon as they hold."""
    async with asyncio.timeout(WITHIN_S):
        while not holds(found := await client.analytics(tz="Europe/Berlin")):
            await asyncio.sleep(0.2)
    return found


@pytest.mark.req("R-API-4")
async def test_figures_follow_what_is_made_changed_and_deleted(client: VerbatimClient, new_client: NewClient) -> None:
    assert (await client.analytics())["meetings"] == 0
    meeting = await client.create_meeting("Harbour")
    task = await client.create_task("Count boats", meeting_id=meeting["id"])
    found = await figures(client, lambda f: (f["meetings"], f["tasks_open"]) == (1, 1))
    assert (found["stale"], found["tasks_done"], len(found["days"])) == (False, 0, 30)
    assert found["days"][-1]["meetings"] + found["days"][-2]["meetings"] == 1
    await client.update_task(task["id"], 1, status="done")
    await figures(client, lambda f: (f["tasks_open"], f["tasks_done"]) == (0, 1))
    assert (await (await new_client()).analytics())["meetings"] == 0
    await client.delete_meeting(meeting["id"], 1)
    await figures(client, lambda f: (f["meetings"], f["tasks_done"]) == (0, 0))


@pytest.mark.req("R-API-4")
async def test_while_insights_are_away_figures_are_the_last_known_and_say_so(
    stack: Stack, client: VerbatimClient
) -> None:
    await client.create_meeting("Before the storm")
    known = await figures(client, lambda f: f["meetings"] == 1)
    stack.kill("insights")
    try:
        stale = await figures(client, lambda f: bool(f["stale"]))
        assert stale == known | {"stale": True, "as_of": stale["as_of"]}
    finally:
        await stack.restart("insights")
    await figures(client, lambda f: not f["stale"])


@pytest.mark.req("R-API-1")
async def test_a_meeting_is_found_at_once_with_where_and_not_after_its_end(
    client: VerbatimClient, new_client: NewClient
) -> None:
    meeting = await client.create_meeting("Lighthouse repairs")
    other = await new_client()
    (found,) = [one async for one in client.meetings("lighthouse -boats")]
    assert found["id"] == meeting["id"]
    parts = found["hits"][0]["snippet"]
    assert [part["text"] for part in parts if part["match"]] == ["Lighthouse"]
    assert [one async for one in other.meetings("lighthouse")] == []
    await client.delete_meeting(meeting["id"], 1)
    assert [one async for one in client.meetings("lighthouse")] == []


async def at_once(stack: Stack, path: str, token: str, changes: list[Json], version: int) -> list[httpx2.Response]:
    """Send changes of one version at once."""
    headers = {"Authorization": f"Bearer {token}", "If-Match": f'"{version}"'}
    async with httpx2.AsyncClient(base_url=stack.url, timeout=60.0) as http:

        async def send(change: Json) -> httpx2.Response:
            while True:
                answer = await http.patch(path, json=change, headers=headers)
                if answer.status_code != 503:  # a pool that is full says so
                    return answer
                await asyncio.sleep(0.2)

        return list(await asyncio.gather(*(send(change) for change in changes)))


@pytest.mark.req("R-STT-5", "R-WS-6", "R-API-1", "R-UI-2")
async def test_a_transcript_that_people_correct_reads_so_everywhere(stack: Stack, client: VerbatimClient) -> None:
    """A word and a speaker are corrected: viewers, search, exports and minutes follow; a written summary stays."""
    meeting_id = (await client.create_meeting("Harbour"))["id"]
    await told(stack, (await client.me())["id"], meeting_id, "zeppelin")
    await made(client, meeting_id)
    first = (await client.segments(meeting_id))[0]
    before = await client.insights(meeting_id)
    written = await client.update_insights(meeting_id, before["version"], summary="What a person wrote.")

    seen: list[Json] = [event async for event in client.watch(meeting_id)]
    *_, end = seen
    assert end["type"] == "finished"
    corrected = await client.update_segment(meeting_id, first["id"], 1, text="Good morning, this is about the airship.")
    assert (corrected["edited"], corrected["heard"]["text"]) == (["text"], first["text"])
    with pytest.raises(ApiError) as refused:
        await client.update_segment(meeting_id, first["id"], 1, text="Too late.")
    assert (refused.value.status, refused.value.body["version"]) == (412, 2)
    command = await verbatim(stack, client, "rename-speaker", meeting_id, "zeppelin Smith", "Ada")
    assert command == ""
    shown = await verbatim(stack, client, "edit", meeting_id, first["id"], "--speaker", "Grace", "--json")
    assert json.loads(shown)["speaker"] == "Grace"

    now = await client.segments(meeting_id)
    assert [(s["speaker"], s["version"]) for s in now] == [("Grace", 4), ("Ada", 2), ("Ada", 2)]
    revised = [event async for event in client.watch(meeting_id) if event["type"] == "revised"]
    assert sorted(event["version"] for event in revised) == [2, 2, 4]
    assert [one["id"] async for one in client.meetings("airship")] == [meeting_id]
    text = await client.export(meeting_id, "txt")
    assert "Grace: Good morning, this is about the airship." in text
    assert "zeppelin Smith" not in text
    async with asyncio.timeout(WITHIN_S):
        while (minutes := await client.insights(meeting_id))["version"] <= written["version"]:
            await asyncio.sleep(0.2)
    assert (minutes["summary"], minutes["edited"]) == ("What a person wrote.", ["summary"])
    await figures(client, lambda f: {one["speaker"] for one in f["speakers"]} == {"Ada", "Grace"})


async def verbatim(stack: Stack, client: VerbatimClient, *command: str) -> str:
    """Run the command line as the client's account and return what it printed."""
    environment = dict(os.environ) | {"VERBATIM_URL": stack.url, "VERBATIM_TOKEN": str(client.access_token)}
    arguments = (sys.executable, "-m", "verbatim_client", *command)
    process = await asyncio.create_subprocess_exec(*arguments, env=environment, stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.req("R-API-5")
@pytest.mark.parametrize("kind", ["meetings", "tasks"])
async def test_of_fifty_editors_one_wins_and_the_others_are_told_the_version(
    stack: Stack, client: VerbatimClient, kind: str
) -> None:
    make: Callable[[str], Awaitable[Json]] = client.create_meeting if kind == "meetings" else client.create_task
    thing = await make("Nobody's")
    path = f"/api/{kind}/{thing['id']}"
    for version in (1, 2):
        changes = [{"title": f"Editor {number} of version {version}"} for number in range(EDITORS)]
        answers = await at_once(stack, path, str(client.access_token), changes, version)
        (winner,) = [number for number, answer in enumerate(answers) if answer.status_code == 200]
        lost = [answer for answer in answers if answer.status_code == 412]
        assert len(lost) == EDITORS - 1
        assert {(answer.json()["version"], answer.headers["etag"]) for answer in lost} == {
            (version + 1, f'"{version + 1}"')
        }
        now = await client.call("GET", path)
        assert (now["title"], now["version"]) == (changes[winner]["title"], version + 1)
