"""Where the sound comes from, and what becomes of it when something goes wrong in the browser itself."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import Route, expect
from verbatim_client import VerbatimClient

from dev.ports import HOST
from dev.stack import Stack
from tests.chaos.proxy import Proxy
from tests.web import browser as browsers
from tests.web.conftest import SPOKEN_S, NewVisitor
from tests.web.listener import Listener
from tests.web.visitor import PASSWORD, Visitor

pytestmark = [pytest.mark.req("R-UI-1"), pytest.mark.timeout(900), pytest.mark.long]

FIRST_SENTENCE = "Hello everyone, and welcome to our weekly meeting."

# https://bugzilla.mozilla.org/show_bug.cgi?id=1674892
AS_FIREFOX = """() => {
    const original = AudioContext.prototype.createMediaStreamSource;
    window.contexts = [];
    AudioContext.prototype.createMediaStreamSource = function (stream) {
        window.contexts.push(this.sampleRate);
        if (this.sampleRate === 16000) {
            throw new DOMException("Connecting AudioNodes from AudioContexts with different sample-rate",
                "NotSupportedError");
        }
        return original.call(this, stream);
    };
}"""

# Counts what the page holds of the screen.
WATCHED_WAKE_LOCK = """() => {
    const request = navigator.wakeLock.request.bind(navigator.wakeLock);
    window.wakeLocks = [];
    navigator.wakeLock.request = async kind => {
        const lock = await request(kind);
        window.wakeLocks.push(lock);
        return lock;
    };
}"""


@pytest.mark.req("R-WS-1")
async def test_a_browser_that_refuses_16_khz_is_heard_word_for_word_and_the_screen_stays_on(
    visitor: Visitor, listener: Listener
) -> None:
    page = visitor.page
    for script in (AS_FIREFOX, WATCHED_WAKE_LOCK):
        await page.add_init_script(f"({script})()")
    await page.reload()
    await visitor.start("Another rate")
    meter = page.get_by_role("meter", name="Level of the microphone")
    await expect(meter).to_be_visible()
    await page.wait_for_function("document.querySelector('meter').value > 0.3")
    await page.wait_for_function("window.wakeLocks.length === 1 && !window.wakeLocks[0].released")
    await visitor.heard_for(SPOKEN_S + 2)
    meeting = await visitor.finish()
    rates = await page.evaluate("window.contexts")
    assert rates[0] == 16_000
    assert rates[-1] != 16_000, "it was resampled by the page"
    await visitor.said(listener.said_until(SPOKEN_S))
    assert meeting["coverage"] == 1.0
    await page.wait_for_function("window.wakeLocks.every(lock => lock.released)")


async def test_the_sound_of_a_shared_tab_is_written_down(
    stack: Stack, network: Proxy, listener: Listener, tmp_path: Path
) -> None:
    call = browsers.record(tmp_path / "call.wav", SPOKEN_S)
    async with (
        browsers.sharing(browsers.find_or_install(), "A call") as browser,
        VerbatimClient(stack.url) as client,
    ):
        await client.register("tab@verbatim.example", "tab", PASSWORD)
        await client.login("tab@verbatim.example", PASSWORD)
        url = f"http://{HOST}:{network.port}"
        visitor = await Visitor.arriving(browser, url, client, "tab@verbatim.example")
        await visitor.sign_in()
        other = await visitor.context.new_page()

        async def answer(route: Route) -> None:
            if route.request.url.endswith(".wav"):
                await route.fulfill(path=call, content_type="audio/wav")
            else:
                await route.fulfill(
                    content_type="text/html", body="<title>A call</title><audio src='/call.wav'></audio>"
                )

        await other.route("http://call.example/**", answer)
        await other.goto("http://call.example/")
        await visitor.page.bring_to_front()
        await visitor.page.get_by_role("link", name="New meeting").first.click()
        await visitor.page.get_by_label("Title").fill("Shared tab")
        await visitor.page.get_by_label("Listen to").select_option("tab")
        await visitor.page.get_by_role("button", name="Start").click()
        await expect(visitor.standing).to_contain_text("Live")
        await other.evaluate("document.querySelector('audio').play()")
        began = await visitor.recorded()
        await visitor.heard_for(began + SPOKEN_S + 3)
        meeting = await visitor.finish()
        await visitor.said(listener.said_until(SPOKEN_S))
        assert meeting["coverage"] == 1.0
        assert visitor.complaints == []


async def test_without_a_microphone_the_page_says_why_and_listens_when_it_is_there(visitor: Visitor) -> None:
    page = visitor.page
    await page.add_init_script(
        """(() => {
            const devices = navigator.mediaDevices, original = devices.getUserMedia.bind(devices);
            window.refusal = "NotAllowedError";
            devices.getUserMedia = asked =>
                window.refusal ? Promise.reject(new DOMException("", window.refusal)) : original(asked);
        })()"""
    )
    await page.reload()
    await visitor.start("No microphone")
    await expect(visitor.standing).to_contain_text("The browser may not use the microphone")
    await page.evaluate("window.refusal = 'NotReadableError'")
    await page.get_by_role("button", name="Listen again").click()
    await expect(visitor.standing).to_contain_text("Another program is using the microphone")
    await page.evaluate("window.refusal = ''")
    await page.get_by_role("button", name="Listen again").click()
    await expect(visitor.rows.first).to_have_text(FIRST_SENTENCE)
    await visitor.finish()


@pytest.mark.req("R-WS-3")
async def test_sound_that_the_browser_has_thrown_away_becomes_a_gap_in_its_place(
    visitor: Visitor, network: Proxy
) -> None:
    """The platform cannot be reached, the tab goes away, and the browser clears its storage: nobody has the sound."""
    await visitor.start("Forgotten")
    await expect(visitor.rows.first).to_have_text(FIRST_SENTENCE)
    network.refusing = True
    network.reset()
    await expect(visitor.standing).to_contain_text("of audio waiting, nothing lost")
    await visitor.heard_for(14)
    kept = await visitor.kept()
    assert kept["written"] > kept["acked"] + 2 * 32_000
    await visitor.page.close()
    network.refusing = False
    page = visitor.page = await visitor.context.new_page()
    visitor.listen(page)
    # A document of the same origin that is not the page.
    await page.goto("/healthz")
    await page.evaluate(
        """() => new Promise((resolve, reject) => {
            const asked = indexedDB.open("verbatim");
            asked.onerror = () => reject(asked.error);
            asked.onsuccess = () => {
                const db = asked.result;
                const change = db.transaction(["audio", "sessions"], "readwrite");
                const all = change.objectStore("audio").getAll();
                all.onsuccess = () => {
                    // The last one stays: so the hole lies between what was acknowledged and what is there.
                    for (const one of all.result.slice(0, -1)) change.objectStore("audio").delete([one.id, one.start]);
                };
                change.oncomplete = () => { db.close(); resolve(); };
                change.onerror = () => reject(change.error);
            };
        })"""
    )
    await page.goto("/")
    await expect(visitor.standing).to_contain_text("Live")
    gap = page.locator(".row.gap")
    await expect(gap).to_have_count(1)
    await expect(gap).to_contain_text("s missing: was not recorded: this device could not keep it")
    happened = page.locator(".happened")
    await happened.locator("summary").click()
    await expect(happened).to_contain_text("s missing: was not recorded")
    meeting = await visitor.finish()
    assert meeting["gap_seconds"] > 1.0
    await expect(page.get_by_text("are missing and marked as gaps")).to_be_visible()
    await page.get_by_role("link", name="Open the meeting").click()
    await expect(page.locator(".row.gap")).to_have_count(1)
    await expect(page.locator(".facts .status")).to_contain_text("missing")


@pytest.mark.req("R-WS-3", "R-WS-4")
async def test_a_tab_that_crashed_is_gone_on_with(new_visitor: NewVisitor) -> None:
    visitor = await new_visitor()
    await visitor.start("Crashed")
    await expect(visitor.rows.first).to_have_text(FIRST_SENTENCE)
    async with visitor.page.expect_event("crash"):
        # Chromium's own address for this; the navigation never arrives.
        with contextlib.suppress(PlaywrightError):
            await visitor.page.goto("chrome://crash")
    page = visitor.page = await visitor.context.new_page()
    visitor.listen(page)
    await page.goto("/")
    await expect(page.get_by_role("heading", name="Crashed")).to_be_visible()
    await expect(visitor.rows.first).to_have_text(FIRST_SENTENCE)
    await expect(visitor.rows.nth(1)).to_be_visible()
    meeting = await visitor.finish()
    assert meeting["coverage"] == 1.0
