"""The page for those who do not see it, do not use a mouse, or have sat in a very long meeting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect
from verbatim_client import VerbatimClient

from dev.ports import HOST
from dev.stack import Stack
from tests.chaos.proxy import Proxy
from tests.web.conftest import NewVisitor
from tests.web.visitor import PASSWORD, Visitor

pytestmark = [pytest.mark.req("R-UI-1"), pytest.mark.timeout(900)]

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SEGMENTS = 10_000
FRAME_MS = 16.7


@pytest.fixture(scope="session")
def axe(node_modules: Path) -> str:
    """The program that finds what is not accessible."""
    return (node_modules / "axe-core/axe.min.js").read_text(encoding="utf-8")


async def problems(visitor: Visitor, axe: str, where: str) -> list[str]:
    """Return what axe finds in the page as it is."""
    page = visitor.page
    await page.evaluate(axe)
    found: dict[str, Any] = await page.evaluate(
        "tags => axe.run(document, {runOnly: {type: 'tag', values: tags}, resultTypes: ['violations']})", WCAG
    )
    assert found["passes"], "axe has looked at something"
    return [f"{where}: {one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]


@pytest.mark.long
async def test_axe_finds_nothing_in_any_view_in_either_theme(new_visitor: NewVisitor, axe: str) -> None:
    # axe measures with styles of its own, which the page's policy refuses.
    visitor = await new_visitor(bypass_csp=True)
    page = visitor.page
    found = await problems(visitor, axe, "empty library")
    await page.get_by_role("link", name="New meeting").first.click()
    found += await problems(visitor, axe, "new meeting")
    await visitor.start("For everybody", speaker="Emma")
    await expect(visitor.rows.first).to_be_visible()
    for theme in ("light", "dark"):
        await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        found += await problems(visitor, axe, f"live, {theme}")
    await visitor.finish()
    found += await problems(visitor, axe, "finished, dark")
    await page.get_by_role("link", name="Open the meeting").click()
    await expect(visitor.rows.first).to_be_visible()
    await expect(page.get_by_text("Write them again")).to_be_visible()
    found += await problems(visitor, axe, "meeting, dark")
    await page.emulate_media(color_scheme="light", reduced_motion="reduce")
    found += await problems(visitor, axe, "meeting, light")
    await page.get_by_role("button", name="Share").click()
    await expect(page.get_by_label("Link")).to_be_visible()
    found += await problems(visitor, axe, "share")
    await page.get_by_role("button", name="Done").click()
    await page.locator(".row a.time").first.click()
    await page.get_by_role("button", name="Correct").click()
    found += await problems(visitor, axe, "correct")
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="Delete", exact=True).click()
    found += await problems(visitor, axe, "question")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Display").click()
    await page.get_by_label("High").check()
    found += await problems(visitor, axe, "display, high contrast")
    await page.get_by_role("button", name="Done").click()
    await page.get_by_role("link", name="Library", exact=True).click()
    await expect(page.get_by_role("link", name="For everybody")).to_be_visible()
    found += await problems(visitor, axe, "library")
    await page.set_viewport_size({"width": 320, "height": 640})
    found += await problems(visitor, axe, "library, narrow")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "no sideways scrolling (WCAG 1.4.10)"
    )
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    found += await problems(visitor, axe, "sign in")
    assert found == [], "\n".join(found)
    # The control: it does find what is there to be found.
    await page.evaluate("document.querySelector('label[for=email]').remove()")
    assert "label" in str(await problems(visitor, axe, "without a label"))


@pytest.mark.long
async def test_a_meeting_is_held_with_the_keyboard_alone(browser: Browser, stack: Stack, network: Proxy) -> None:
    async with VerbatimClient(stack.url) as client:
        visitor = await Visitor.arriving(browser, f"http://{HOST}:{network.port}", client, "keys@verbatim.example")
        page = visitor.page
        await _tab_to(page, "Make an account")
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Email")).to_be_focused()
        await page.keyboard.type("keys@verbatim.example")
        await page.keyboard.press("Tab")
        await page.keyboard.type("keys")
        await page.keyboard.press("Tab")
        await page.keyboard.type(PASSWORD)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Library")).to_be_visible()
        await client.login("keys@verbatim.example", PASSWORD)

        await _tab_to(page, "New meeting")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="New meeting")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.type("By keyboard")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        await expect(visitor.rows.first).to_be_visible()
        await page.keyboard.press("Alt+p")
        await expect(visitor.standing).to_contain_text("Paused")
        await page.keyboard.press("Alt+p")
        await expect(visitor.standing).to_contain_text("Live")
        await _tab_to(page, "Stop")
        await page.keyboard.press("Enter")
        meeting = await visitor.finished()
        await _tab_to(page, "Open the meeting")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="By keyboard")).to_be_focused()
        await _tab_to(page, "Delete")
        await page.keyboard.press("Enter")
        # What does no harm has the focus.
        await expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        await page.keyboard.press("Escape")
        assert (await client.meeting(meeting["id"]))["title"] == "By keyboard"
        assert visitor.complaints == []
        await visitor.context.close()


async def _tab_to(page: Page, name: str, *, within: int = 40) -> None:
    """Press Tab until something of that name has the focus, and see that the focus can be seen."""
    for _ in range(within):
        await page.keyboard.press("Tab")
        focused = await page.evaluate(
            """() => {
                const one = document.activeElement;
                const name = (one.getAttribute("aria-label") ?? one.textContent ?? "").trim();
                return {name, seen: getComputedStyle(one).outlineStyle !== "none"};
            }"""
        )
        if focused["name"] == name:
            assert focused["seen"], f"the focus on {name} cannot be seen"
            return
    raise AssertionError(f"{name} cannot be reached with Tab")


@pytest.mark.long
async def test_ten_thousand_segments_stay_smooth(visitor: Visitor) -> None:
    """A meeting of ten hours: what one more segment costs, and what scrolling does. Only the stream is made up."""
    page = visitor.page
    await visitor.start("Very long")
    await expect(visitor.rows.first).to_be_visible()
    await visitor.finish()
    rows = "".join(_event(index) for index in range(SEGMENTS))
    body = f"{rows}event: finished\ndata: {json.dumps({'type': 'finished', 'segments': SEGMENTS})}\n\n"

    async def answer(route: Route) -> None:
        await route.fulfill(content_type="text/event-stream", body=body)

    await page.route("**/live", answer)
    await page.get_by_role("link", name="Open the meeting").click()
    await expect(page.locator(".row")).to_have_count(SEGMENTS)
    figures = await page.evaluate(MEASURE, SEGMENTS)
    print(f"{SEGMENTS} segments: {figures}")
    # Loose bounds: the machine of the tests may be busy with other things. Without care it is hundreds of milliseconds.
    assert figures["per_segment_ms"] < FRAME_MS
    assert figures["frames"] > 10


def _event(index: int) -> str:
    text = (
        f"This is sentence number {index} of a meeting that does not want to end, and it is as long as sentences are."
    )
    data = {
        "type": "segment", "id": f"segment-{index}", "session_id": "s", "index": index, "revision": 1,
        "speaker": "Emma" if index % 3 else "David", "start": 3.6 * index, "end": 3.6 * index + 3, "text": text,
        "confidence": 0.9, "engine": "e", "quality": "final" if index % 10 else "draft",
    }  # fmt: skip
    return f"id: {index + 1}\nevent: segment\ndata: {json.dumps(data)}\n\n"


MEASURE = """async count => {
    const log = document.querySelector("transcript-log");
    const segment = index => ({id: `more-${index}`, session_id: "s", index, revision: 1, speaker: "Emma",
        start: 3.6 * index, end: 3.6 * index + 3, text: "One more sentence, as long as sentences usually are.",
        engine: "e", quality: "final"});
    const times = [];
    for (let at = 0; at < 100; at += 1) {
        const row = {kind: "segment", key: `s/${count + at}`, start: 3.6 * (count + at), segment: segment(count + at)};
        const begun = performance.now();
        log.show({type: "add", row, before: null});
        log.tails = [{index: count + at, start: 0, end: 1, text: `what is said just now ${at}`, stable_chars: 0}];
        log.getBoundingClientRect();  // forces the layout that the row asks for
        times.push(performance.now() - begun);
        if (at % 10 === 9) await new Promise(requestAnimationFrame);
    }
    times.sort((a, b) => a - b);
    const frames = [];
    let last = await new Promise(requestAnimationFrame);
    for (let at = 0; at < 40; at += 1) {
        document.scrollingElement.scrollBy(0, 1500);
        const now = await new Promise(requestAnimationFrame);
        frames.push(now - last);
        last = now;
    }
    frames.sort((a, b) => a - b);
    const round = value => Math.round(value * 100) / 100;
    return {per_segment_ms: round(times[50]), per_segment_p95_ms: round(times[95]),
        frame_p50_ms: round(frames[20]), frame_p95_ms: round(frames[38]), frames: frames.length};
}"""
