"""Search, figures and editing at once, as clients meet them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from verbatim_client import VerbatimClient

from dev.stack import Stack
from tests.e2e.conftest import NewClient

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
