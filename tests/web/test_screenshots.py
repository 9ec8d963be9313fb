"""`make screenshots`: the pictures of the documents, from the page as it is."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.web.browser import ASSETS
from tests.web.conftest import SPOKEN_S
from tests.web.listener import Listener
from tests.web.visitor import Visitor

TARGET = os.environ.get("VERBATIM_SCREENSHOTS", "")

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not TARGET, reason="make screenshots asks for them"),
]


async def test_the_pictures_of_the_documents(visitor: Visitor, listener: Listener, tmp_path: Path) -> None:
    page = visitor.page
    target = Path(TARGET)  # Playwright makes the folder
    recording = tmp_path / "Weekly meeting.wav"
    await asyncio.to_thread(shutil.copy, ASSETS / "meeting.wav", recording)
    await page.get_by_label("choose a file").set_input_files(recording)
    await expect(page.get_by_text("Transcribed.", exact=True)).to_be_visible()

    await visitor.start("Budget and website", speaker="Emma")
    await visitor.heard_for(15)
    listener.away = True
    draft = page.locator(".row.draft")
    try:
        await expect(draft.first).to_be_visible()
        await page.screenshot(path=target / "live.png")
    finally:
        listener.away = False
    await expect(draft).to_have_count(0)
    await visitor.heard_for(SPOKEN_S + 2)
    await visitor.finish()

    await page.get_by_role("link", name="Library", exact=True).click()
    await page.get_by_label("Search titles and transcripts").fill("website")
    await expect(page.get_by_role("link", name="Weekly meeting")).to_be_visible()
    await page.screenshot(path=target / "library.png")
    await page.get_by_role("link", name="Weekly meeting").click()
    await expect(page.locator(".task")).to_have_count(5)
    await page.locator(".points a").first.click()
    await page.emulate_media(color_scheme="dark")
    await page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    await page.screenshot(path=target / "meeting.png")
