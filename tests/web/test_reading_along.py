"""Who reads what others say, and who looks for what was said."""

from __future__ import annotations

import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, expect
from verbatim_client import VerbatimClient
from verbatim_client.settings import LiveSettings

from dev.ports import HOST
from tests.chaos.proxy import Proxy
from tests.web.browser import ASSETS
from tests.web.visitor import Visitor

pytestmark = [pytest.mark.req("R-UI-1"), pytest.mark.timeout(900), pytest.mark.long]

FIRST_SENTENCE = "Hello everyone, and welcome to our weekly meeting."


def spoken(seconds: float) -> bytes:
    with wave.open(str(ASSETS / "meeting.wav")) as meeting:
        return bytes(meeting.readframes(int(seconds * meeting.getframerate())))


async def speak(
    client: VerbatimClient,
    title: str | None,
    seconds: float,
    *,
    gap_s: float = 0.0,
    speaker: str = "Emma",
    meeting_id: str | None = None,
) -> str:
    """Speak the recording's beginning as fast as it is taken; with a gap behind it, if wanted. Give the meeting."""
    async with client.live(LiveSettings(title=title, language="en", speaker=speaker, meeting_id=meeting_id)) as session:
        await session.send(spoken(seconds))
        if gap_s:
            await session.gap(int(gap_s * 32_000))
        await session.finish(300)
        assert session.meeting_id
        return session.meeting_id


@asynccontextmanager
async def stranger(browser: Browser, network: Proxy) -> AsyncIterator[Page]:
    """Somebody without an account, in a browser of their own."""
    context = await browser.new_context(base_url=f"http://{HOST}:{network.port}", locale="en-GB")
    try:
        yield await context.new_page()
    finally:
        await context.close()


@pytest.mark.req("R-WS-6", "R-AUTH-2")
async def test_who_has_the_link_reads_along_without_an_account_and_can_do_nothing_else(
    visitor: Visitor, browser: Browser, network: Proxy
) -> None:
    await visitor.start("For the team", speaker="Emma")
    await expect(visitor.rows.first).to_have_text(FIRST_SENTENCE)
    owner = await visitor.context.new_page()
    visitor.listen(owner)
    await owner.goto("/")
    await owner.get_by_role("link", name="For the team").click()
    await owner.get_by_role("button", name="Share").click()
    link = await owner.get_by_label("Link").input_value()
    await owner.get_by_role("button", name="Done").click()
    async with stranger(browser, network) as other:
        asked: list[str] = []
        other.on("request", lambda request: asked.append(request.url))
        await other.goto(link)
        await expect(other.get_by_role("heading", name="For the team")).to_be_visible()
        await expect(other.locator(".row .words").first).to_have_text(FIRST_SENTENCE)
        await expect(other.locator(".sight")).to_contain_text("Following live")
        # And what is said from now on: somebody else speaks in the same meeting.
        meeting_id = urlsplit(link).fragment.split("/")[2]
        await speak(visitor.client, None, 7.0, speaker="David", meeting_id=meeting_id)
        await expect(other.locator(".row .speaker", has_text="David").first).to_be_visible()
        for name in ("Rename", "Delete", "Share", "Write them again", "Add"):
            await expect(other.get_by_role("button", name=name, exact=True)).to_have_count(0)
        meeting = await visitor.finish()
        await expect(other.locator(".facts .status")).to_contain_text("Complete")
        said = [row["text"] for row in await visitor.client.segments(meeting_id) if row["text"]]
        assert sorted(await other.locator(".row .words").all_text_contents()) == sorted(said)
        async with other.expect_download() as download:
            await other.get_by_role("button", name="TXT", exact=True).click()
        assert (await download.value).suggested_filename == "For the team.txt"
        assert not [url for url in asked if "share_" in url.split("#")[0]], (
            "the secret is in no address that is asked for"
        )
        # To the rest of the page it opens nothing.
        await other.get_by_role("link", name="Verbatim").click()
        await expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
        newest = await visitor.client.meeting(meeting["id"])
        await visitor.client.delete_meeting(meeting["id"], newest["version"])
        await other.goto("about:blank")
        await other.goto(link)
        await expect(other.get_by_role("alert").get_by_text("This meeting is gone")).to_be_visible()


@pytest.mark.req("R-API-1")
async def test_the_library_shows_page_after_page_and_a_hit_leads_to_where_it_was_said(visitor: Visitor) -> None:
    page, client = visitor.page, visitor.client
    for number in range(22):
        await client.create_meeting(f"Earlier meeting {number}")
    meeting_id = await speak(client, "The one with the money", 15.8, gap_s=2.5)
    await page.reload()
    items = page.locator("ul.meetings > li")
    await expect(items).to_have_count(20)
    await page.get_by_role("button", name="More meetings").click()
    await expect(items).to_have_count(23)
    await expect(page.get_by_role("button", name="More meetings")).to_have_count(0)

    await page.get_by_label("From").fill("2031-01-01")
    await expect(page.get_by_text("No meeting has these words, dates and status.")).to_be_visible()
    await page.get_by_label("From").fill("")
    await page.get_by_label("Status").select_option("Complete")
    await expect(items).to_have_count(1)
    await page.get_by_label("Status").select_option("Any")
    await expect(items).to_have_count(20)
    await page.get_by_label("Search titles and transcripts").fill("marketing")
    await expect(items).to_have_count(1)
    # The minutes may have the word too; they lead nowhere.
    hits = page.get_by_role("list", name="Where it was said").get_by_role("listitem")
    hit = hits.filter(has=page.get_by_role("link")).first
    await expect(hit.locator("mark")).to_have_text("marketing")
    await hit.get_by_role("link").click()
    target = page.locator(".row.target")
    await expect(target).to_be_focused()
    await expect(target).to_contain_text("marketing")

    # What was not heard is a row of its own, with the reason, and in the line of what happened.
    gap = page.locator(".row.gap")
    await expect(gap).to_contain_text("2.5 s missing: was not recorded")
    await expect(page.locator(".facts .status")).to_contain_text("missing")
    await expect(page.locator(".happened summary")).to_contain_text("What happened on the way (1)")
    assert (await client.meeting(meeting_id))["gap_seconds"] == pytest.approx(2.5, abs=0.1)


async def test_who_scrolls_up_stays_there_until_they_jump_to_live(visitor: Visitor) -> None:
    page = visitor.page
    await page.set_viewport_size({"width": 500, "height": 420})
    await page.get_by_role("button", name="Display").click()
    await page.get_by_label("Size of captions").fill("250")
    await page.get_by_label("Dark").check()
    await page.get_by_label("High").check()
    await page.get_by_role("button", name="Done").click()
    await visitor.start("Scrolled")
    await expect(visitor.rows.nth(1)).to_be_visible()
    log = page.locator("transcript-log")
    await page.wait_for_function(
        "() => { const log = document.querySelector('transcript-log');"
        " return log.scrollHeight > log.clientHeight + 200; }"
    )
    await log.hover()
    await page.mouse.wheel(0, -5000)
    jump = page.get_by_role("button", name="Jump to live")
    await expect(jump).to_be_visible()
    count = await visitor.rows.count()
    await expect(visitor.rows.nth(count)).to_be_attached()
    assert await log.evaluate("log => log.scrollTop") < 20, "what is read does not move"
    await expect(jump).to_contain_text("new)")
    await page.keyboard.press("Alt+j")
    await expect(jump).to_have_count(0)
    await page.wait_for_function(
        "() => { const log = document.querySelector('transcript-log');"
        " return log.scrollHeight - log.scrollTop - log.clientHeight < 80; }"
    )
    await visitor.finish()
    # How it looks is kept.
    await page.reload()
    chosen = await page.evaluate(
        "() => [document.documentElement.dataset.theme, document.documentElement.dataset.contrast,"
        " document.documentElement.style.getPropertyValue('--caption-scale')]"
    )
    assert chosen == ["dark", "high", "2.5"]
