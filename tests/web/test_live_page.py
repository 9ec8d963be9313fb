"""A live meeting at the page, in a real browser that hears a spoken recording."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from playwright.async_api import expect

from dev.stack import Stack
from tests.chaos.proxy import Proxy
from tests.web.conftest import SPOKEN_S
from tests.web.listener import Listener
from tests.web.visitor import Visitor

pytestmark = [pytest.mark.req("R-UI-1"), pytest.mark.timeout(900)]

# From the beginning of the recording to the end of its second sentence, and a little.
AGAIN_S = 9
FIRST_SENTENCE = "Hello everyone, and welcome to our weekly meeting."


async def test_who_speaks_reads_it_at_once_and_others_follow(visitor: Visitor) -> None:
    loaded = time.monotonic()
    await visitor.page.reload()
    begun = await visitor.start("Weekly meeting", speaker="Emma")
    await expect(visitor.rows.first).to_have_text(FIRST_SENTENCE)
    now = time.monotonic()
    print(f"first caption {now - loaded:.1f} s after the page was loaded, {now - begun:.1f} s after Start")
    await expect(visitor.page.locator(".row .speaker").first).to_have_text("Emma")
    await expect(visitor.standing).to_contain_text("Live")

    follower = await visitor.context.new_page()
    visitor.listen(follower)
    await follower.goto("/")
    await follower.get_by_role("link", name="Weekly meeting").click()
    await expect(follower.locator(".row .words").first).to_have_text(FIRST_SENTENCE)
    await expect(follower.locator(".sight")).to_contain_text("Following live")
    await expect(follower.locator(".row .words").nth(1)).to_be_visible()

    await visitor.page.keyboard.press("Alt+p")
    await expect(visitor.standing).to_contain_text("Paused")
    await visitor.page.get_by_role("button", name="Go on").click()
    await expect(visitor.standing).to_contain_text("Live")
    meeting = await visitor.finish()
    assert await visitor.words() == [row["text"] for row in await visitor.client.segments(meeting["id"])]
    await expect(follower.locator(".status", has_text="Complete")).to_be_visible()
    assert await follower.locator(".row .words").all_text_contents() == await visitor.words()


@pytest.mark.req("R-WS-3", "R-WS-4")
async def test_no_word_is_lost_or_doubled_on_the_page_when_gateway_and_transcriber_are_killed_mid_sentence(
    visitor: Visitor, stack: Stack, listener: Listener
) -> None:
    await visitor.start("Killed")
    await visitor.heard_for(6)
    stack.kill("gateway")
    stack.kill("transcriber")
    await expect(visitor.standing).to_contain_text("Reconnecting")
    await expect(visitor.standing).to_contain_text("nothing lost")
    await asyncio.gather(stack.restart("transcriber"), stack.restart("gateway"))
    await visitor.live_again()
    await visitor.heard_for(SPOKEN_S + 2)
    meeting = await visitor.finish()

    spoken = listener.said_until(SPOKEN_S)
    await visitor.said(spoken)
    stored = [row["text"] for row in await visitor.client.segments(meeting["id"])]
    assert stored == await visitor.words()
    assert (meeting["coverage"], meeting["gap_seconds"]) == (1.0, 0.0)
    print(
        f"killed mid-sentence: {len(spoken)} words spoken, {len(await visitor.text())} on the page, 0 lost, 0 doubled"
    )


@pytest.mark.long
@pytest.mark.req("R-WS-3", "R-WS-4")
async def test_offline_the_page_keeps_the_sound_and_says_so_and_back_it_goes_on(
    visitor: Visitor, network: Proxy, listener: Listener
) -> None:
    await visitor.start("Underground")
    await visitor.heard_for(5)
    network.refusing = True
    await visitor.context.set_offline(True)
    network.reset()
    await expect(visitor.standing).to_contain_text("You are offline")
    await expect(visitor.standing).to_contain_text("s of audio waiting, nothing lost")
    await visitor.heard_for(12)
    before = await visitor.text()
    network.refusing = False
    await visitor.context.set_offline(False)
    await visitor.live_again()
    await visitor.heard_for(SPOKEN_S + 2)
    await visitor.finish()
    spoken = listener.said_until(SPOKEN_S)
    assert len(before) < len(listener.said_until(11.0)), "nothing came while it was offline"
    await visitor.said(spoken)


@pytest.mark.long
@pytest.mark.req("R-WS-3", "R-WS-4")
async def test_a_tab_that_is_loaded_again_goes_on_with_its_meeting(visitor: Visitor, listener: Listener) -> None:
    await visitor.start("Reloaded")
    await visitor.heard_for(7)
    await visitor.page.reload()
    # By itself: nobody asks for it.
    await expect(visitor.page.get_by_role("heading", name="Reloaded")).to_be_visible()
    await expect(visitor.standing).to_contain_text("Live")
    await expect(visitor.rows.first).to_have_text(FIRST_SENTENCE)
    await visitor.heard_for(await visitor.recorded() + AGAIN_S)
    meeting = await visitor.finish()

    assert_spoken_twice(await visitor.text(), listener)
    assert await visitor.words() == [row["text"] for row in await visitor.client.segments(meeting["id"])]
    assert meeting["coverage"] == 1.0
    assert await visitor.kept() == {}, "what is over is not kept"


@pytest.mark.long
@pytest.mark.req("R-WS-3", "R-WS-4")
async def test_a_second_tab_takes_the_meeting_over_and_the_first_one_stops(
    visitor: Visitor, listener: Listener
) -> None:
    await visitor.start("Two tabs")
    await visitor.heard_for(7)
    second = await visitor.context.new_page()
    visitor.listen(second)
    await second.goto("/#/live")
    await expect(second.get_by_text("is being recorded in another tab")).to_be_visible()
    await second.get_by_role("button", name="Continue here").click()
    await expect(visitor.standing).to_contain_text("Goes on in another tab")
    visitor.page = second
    await expect(visitor.standing).to_contain_text("Live")
    await visitor.heard_for(await visitor.recorded() + AGAIN_S)
    meeting = await visitor.finish()
    assert_spoken_twice(await visitor.text(), listener)
    assert await visitor.words() == [row["text"] for row in await visitor.client.segments(meeting["id"])]
    assert meeting["coverage"] == 1.0
    assert meeting["gap_seconds"] == 0.0


def assert_spoken_twice(words: list[str], listener: Listener) -> None:
    """The microphone plays from its start again: what was said before, then what is said since, each of it once.

    Between the two lies an utterance that is of both: what the listener makes of that is not looked at.
    """
    whole = listener.said_until(SPOKEN_S)
    before = whole[: whole.index("website.") + 1]
    assert words[: len(before)] == before
    today = [at for at, word in enumerate(words) if word == "Today"]
    assert len(today) == 2, words
    since = words[today[1] :]
    assert since == whole[before.index("Today") :][: len(since)]
    assert len(since) >= len(before) - before.index("Today")


@pytest.mark.long
@pytest.mark.req("R-STT-4", "R-STT-5")
async def test_a_draft_is_marked_in_words_and_heals_in_its_place(visitor: Visitor, listener: Listener) -> None:
    listener.away = True
    try:
        await visitor.start("Drafts")
        row = visitor.page.locator(".row").first
        await expect(row.get_by_text("draft", exact=True)).to_be_visible(timeout=120_000)
        await expect(visitor.standing).to_contain_text("drafts")
        name = await row.get_attribute("id")
        listener.away = False
        healed = visitor.page.locator(f"#{name}")
        # The embedded engine knows no capitals; which sentence it could hear first depends on how busy the machine is.
        await expect(healed.locator(".words")).to_have_text(re.compile(r"^(Hello|Today|The) .*\.$"))
        await expect(healed.get_by_text("draft", exact=True)).to_have_count(0)
        await visitor.heard_for(SPOKEN_S + 2)
        await expect(visitor.page.locator(".row.draft")).to_have_count(0)
        # What could not be heard at all meanwhile has come too, each in its place.
        await visitor.said(listener.said_until(SPOKEN_S))
        happened = visitor.page.locator(".happened")
        await happened.locator("summary").click()
        await expect(happened).to_contain_text("healed")
    finally:
        listener.away = False
    meeting = await visitor.finish()
    assert (meeting["draft_segments"], meeting["coverage"]) == (0, 1.0)
