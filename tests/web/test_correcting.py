"""Correcting what was heard, at the page."""

from __future__ import annotations

import pytest
from playwright.async_api import Locator, Page, expect

from tests.web.test_reading_along import FIRST_SENTENCE, speak
from tests.web.visitor import Visitor

pytestmark = [pytest.mark.req("R-UI-1", "R-API-5"), pytest.mark.timeout(900), pytest.mark.long]

CORRECTED = "Hello everyone, and welcome to our monthly meeting."


async def chosen(page: Page, at: int) -> Locator:
    """Choose a row by its time, and give it."""
    row = page.locator(".row").nth(at)
    await row.locator("a.time").click()
    await expect(page.locator(".row.target")).to_be_focused()
    return row


async def test_words_and_speakers_are_corrected_and_given_back(visitor: Visitor) -> None:
    page, client = visitor.page, visitor.client
    meeting_id = await speak(client, "To be corrected", 15.8)
    await page.reload()
    await page.get_by_role("link", name="To be corrected").click()
    await expect(visitor.rows.first).to_have_text(FIRST_SENTENCE)
    count = await visitor.rows.count()
    assert count >= 3

    # With the keyboard alone: from the row that was chosen, Tab leads to its time and on to the button.
    await chosen(page, 0)
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Correct")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Words")).to_be_focused()
    await page.get_by_label("Words").fill(CORRECTED)
    await page.get_by_role("button", name="Save").click()
    await expect(visitor.rows.first).to_have_text(CORRECTED)
    await expect(page.locator(".row").first.get_by_text("corrected", exact=True)).to_be_visible()
    assert (await client.segments(meeting_id))[0]["text"] == CORRECTED

    await chosen(page, 1)
    await page.get_by_role("button", name="Correct").click()
    await page.get_by_label("Who").fill("Grace")
    await page.get_by_label("Who").press("Enter")
    await expect(page.locator(".row .speaker", has_text="Grace")).to_have_count(count)
    assert {row["speaker"] for row in await client.segments(meeting_id)} == {"Grace"}

    await chosen(page, 0)
    await page.get_by_role("button", name="Correct").click()
    await expect(page.get_by_text(f"Heard was: {FIRST_SENTENCE}")).to_be_visible()
    await page.get_by_role("button", name="As it was heard").click()
    await expect(visitor.rows.first).to_have_text(FIRST_SENTENCE)

    # Somebody else was faster: the newest is shown, and nothing of theirs is lost.
    first = (await client.segments(meeting_id))[0]
    await page.get_by_role("button", name="Correct").click()
    await client.update_segment(meeting_id, first["id"], first["version"], text="Somebody was faster.")
    await page.get_by_label("Words").fill(CORRECTED)
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("alert").get_by_text("changed meanwhile")).to_be_visible()
    await expect(visitor.rows.first).to_have_text("Somebody was faster.")
