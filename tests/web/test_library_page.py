"""Recordings, search, minutes, tasks and exports at the page."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.chaos.proxy import Proxy
from tests.web import browser as browsers
from tests.web.visitor import Visitor

pytestmark = [pytest.mark.req("R-UI-1"), pytest.mark.timeout(900)]

FIRST_SENTENCE = "Hello everyone, and welcome to our weekly meeting."
SPOKEN_S = 15.8


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording of about 600 kB."""
    return browsers.record(tmp_path / "Budget talk.wav", SPOKEN_S)


@pytest.mark.long
@pytest.mark.req("R-UP-3", "R-API-1", "R-API-2", "R-API-5")
async def test_a_recording_is_handed_in_over_a_network_that_breaks_and_worked_with(
    visitor: Visitor, network: Proxy, recording: Path
) -> None:
    page, client = visitor.page, visitor.client
    await expect(page.get_by_text("Nothing here yet")).to_be_visible()
    sent_from: list[int] = []
    page.on(
        "request",
        lambda one: sent_from.append(int(one.headers["upload-offset"])) if "upload-offset" in one.headers else None,
    )
    network.up.close_after_bytes = 300_000
    async with page.expect_event("requestfailed", lambda one: one.method == "PATCH"):
        await page.get_by_label("choose a file").set_input_files(recording)
    network.up.close_after_bytes = None
    await expect(page.get_by_text("Transcribed.", exact=True)).to_be_visible()

    assert sent_from[0] == 0
    assert sent_from[-1] > 0, "it went on where it broke off"

    await page.get_by_label("Search titles and transcripts").fill("quarter")
    await page.get_by_role("link", name="Budget talk").click()
    await expect(visitor.rows.first).to_have_text(FIRST_SENTENCE)
    (meeting,) = [one async for one in client.meetings("quarter")]
    assert await visitor.words() == [row["text"] for row in await client.segments(meeting["id"])]

    await page.get_by_role("button", name="Rename").click()
    await page.get_by_label("Title").fill("Budget, second quarter")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("heading", name="Budget, second quarter")).to_be_visible()

    for name in ("TXT", "MD", "SRT", "VTT", "JSON"):
        async with page.expect_download() as download:
            await page.get_by_role("button", name=name, exact=True).click()
        saved = await (await download.value).path()
        assert b"welcome to our weekly meeting" in await asyncio.to_thread(Path(saved).read_bytes)
        assert (await download.value).suggested_filename == f"Budget, second quarter.{name.lower()}"


@pytest.mark.long
@pytest.mark.req("R-API-2", "R-API-3", "R-API-5")
async def test_minutes_lead_to_what_was_said_and_tasks_are_worked_off(visitor: Visitor, recording: Path) -> None:
    page, client = visitor.page, visitor.client
    await page.get_by_label("choose a file").set_input_files(recording)
    await page.get_by_role("link", name="Open", exact=True).click()
    await expect(page.get_by_role("heading", name="Key points")).to_be_visible()
    source = page.locator(".points a").first
    await source.click()
    target = page.locator(".row.target")
    await expect(target).to_be_focused()

    await page.get_by_label("New task").fill("Send the report")
    await page.get_by_role("button", name="Add").click()
    await page.get_by_role("button", name="Edit “Send the report”").click()
    await page.get_by_label("Who").fill("Grace")
    await page.get_by_label("Until").fill("2026-12-24")
    await page.get_by_role("button", name="Save").click()
    await page.get_by_role("checkbox", name="Send the report").check()
    await expect(page.locator(".task[data-done=true]")).to_have_text("Send the report")
    (task,) = [one async for one in client.tasks() if one["title"] == "Send the report"]
    assert (task["assignee"], task["due"], task["status"]) == ("Grace", "2026-12-24", "done")

    # Somebody else was faster.
    await client.update_task(task["id"], task["version"], title="Send the report to Ada")
    await page.get_by_role("checkbox", name="Send the report").click()
    await expect(page.get_by_role("alert").get_by_text("changed meanwhile")).to_be_visible()
    await expect(page.get_by_role("checkbox", name="Send the report to Ada")).to_be_checked()

    await page.get_by_role("button", name="Delete", exact=True).click()
    await page.get_by_role("button", name="Cancel").click()
    assert [one async for one in client.meetings()]
    await page.get_by_role("button", name="Delete", exact=True).click()
    await page.get_by_role("button", name="Delete for good").click()
    await expect(page.get_by_text("Nothing here yet")).to_be_visible()
    assert not [one async for one in client.meetings()]


@pytest.mark.long
async def test_what_cannot_be_taken_is_refused_with_the_reason(visitor: Visitor, tmp_path: Path) -> None:
    false = tmp_path / "not really.mp3"
    false.write_bytes(b"This is no sound at all." * 100)
    await visitor.page.get_by_label("choose a file").set_input_files(false)
    item = visitor.page.locator(".uploads li")
    await expect(item.get_by_role("button", name="Try again")).to_be_visible()
    await expect(item.locator(".words")).not_to_be_empty()


@pytest.mark.long
async def test_when_the_platform_is_away_the_page_says_so_and_offers_another_try(
    visitor: Visitor, network: Proxy
) -> None:
    network.refusing = True
    network.reset()
    try:
        await visitor.page.get_by_label("Search titles and transcripts").fill("anything")
        await expect(visitor.page.get_by_role("alert").get_by_text("cannot be reached")).to_be_visible()
    finally:
        network.refusing = False
    await visitor.page.get_by_role("button", name="Try again").click()
    await expect(visitor.page.get_by_text("No meeting has these words")).to_be_visible()
