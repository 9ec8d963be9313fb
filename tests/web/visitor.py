"""A person at the page: what they do and what they see. Knows labels and roles, not the page's code."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, BrowserContext, Locator, Page, expect
from verbatim_client import VerbatimClient

from tests.web.frames import Frames

PASSWORD = "correct horse battery staple"
WITHIN_MS = 120_000

expect.set_options(timeout=WITHIN_MS)


@dataclass
class Visitor:
    """One signed-in person with one page; `client` is the same account over the API."""

    context: BrowserContext
    page: Page
    client: VerbatimClient
    email: str
    complaints: list[str] = field(default_factory=list)
    """What the browser's console said of errors; a refused style or script is among it."""
    frames: Frames = field(default_factory=Frames)

    @classmethod
    async def arriving(
        cls, browser: Browser, url: str, client: VerbatimClient, email: str, *, bypass_csp: bool = False
    ) -> Visitor:
        """Open the page; nobody is signed in. `bypass_csp` is for tools that put styles of their own into the page."""
        context = await browser.new_context(
            base_url=url,
            permissions=["microphone"],
            viewport={"width": 1200, "height": 800},
            locale="en-GB",
            bypass_csp=bypass_csp,
        )
        context.set_default_timeout(WITHIN_MS)
        visitor = cls(context, await context.new_page(), client, email)
        visitor.listen(visitor.page)
        await visitor.page.goto("/")
        return visitor

    def listen(self, page: Page) -> None:
        """Note what goes wrong in a page."""
        page.on("websocket", self.frames.listen)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.on("console", lambda said: self._hear(said.type, said.text))

    def _hear(self, kind: str, text: str) -> None:
        # That a server is away, or refuses, the browser logs by itself.
        if (
            kind == "error"
            and "net::" not in text
            and "Failed to load resource" not in text
            and "WebSocket" not in text
        ):
            self.complaints.append(text)

    async def sign_in(self) -> None:
        """Sign in with the form."""
        await self.page.get_by_label("Email").fill(self.email)
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.page.get_by_role("button", name="Sign in").click()
        await expect(self.page.get_by_role("heading", name="Library")).to_be_visible()

    async def start(self, title: str, *, speaker: str = "") -> float:
        """Start a meeting with the microphone; give when (monotonic)."""
        await self.page.get_by_role("link", name="New meeting").first.click()
        await self.page.get_by_label("Title").fill(title)
        await self.page.get_by_label("Your name").fill(speaker)
        await self.page.get_by_label("Language").select_option("en")
        await self.page.get_by_role("button", name="Start").click()
        begun = time.monotonic()
        await expect(self.page.get_by_role("button", name="Stop")).to_be_visible()
        return begun

    async def finish(self) -> dict[str, Any]:
        """Stop, wait for the accounts, and give the meeting as it is stored."""
        await self.page.get_by_role("button", name="Stop").click()
        return await self.finished()

    async def finished(self) -> dict[str, Any]:
        """Wait for the accounts and give the meeting as it is stored."""
        opened = self.page.get_by_role("link", name="Open the meeting")
        await expect(opened).to_be_visible()
        meeting_id = str(await opened.get_attribute("href")).rpartition("/")[2]
        return await self.client.meeting(meeting_id)

    @property
    def rows(self) -> Locator:
        """What was said, row by row."""
        return self.page.locator("transcript-log .row .words")

    async def text(self) -> list[str]:
        """Give every word of every row."""
        return " ".join(await self.words()).split()

    async def said(self, words: Sequence[str]) -> None:
        """Wait until the page shows these words, each of them once and nothing else."""
        await self.page.wait_for_function(
            """wanted => Array.from(document.querySelectorAll("transcript-log .row .words"))
                .map(one => one.textContent).join(" ").split(/\\s+/).length >= wanted""",
            arg=len(words),
        )
        assert await self.text() == list(words)

    @property
    def standing(self) -> Locator:
        """The state in words."""
        return self.page.locator(".standing")

    async def words(self) -> list[str]:
        """Give the text of every row."""
        return await self.rows.all_text_contents()

    async def live_again(self) -> None:
        """Wait until it is live. When the page has given up, and says so, ask for another try as it offers."""
        live = self.standing.get_by_role("status").get_by_text("Live")
        again = self.page.get_by_role("button", name="Try now")
        gave_up = self.standing.get_by_text("given up")
        await expect(live.or_(gave_up)).to_be_visible()
        if await gave_up.is_visible():
            await again.click()
            await expect(live).to_be_visible()

    async def heard_for(self, seconds: float) -> None:
        """Wait until so much was recorded."""
        await self.page.wait_for_function(
            """wanted => {
                const shown = document.querySelector(".elapsed")?.textContent ?? "0:00";
                const [minutes, rest] = shown.split(":").map(Number);
                return 60 * minutes + rest >= wanted;
            }""",
            arg=seconds,
        )

    async def recorded(self) -> int:
        """Give the seconds that were recorded so far."""
        minutes, seconds = (await self.page.locator(".elapsed").inner_text()).split(":")
        return 60 * int(minutes) + int(seconds)

    async def kept(self) -> dict[str, Any]:
        """Give what the browser keeps of the session under way."""
        kept: str = await self.page.evaluate(
            """() => new Promise((resolve, reject) => {
                const asked = indexedDB.open("verbatim");
                asked.onerror = () => reject(asked.error);
                asked.onsuccess = () => {
                    const all = asked.result.transaction("sessions").objectStore("sessions").getAll();
                    all.onsuccess = () => { asked.result.close(); resolve(JSON.stringify(all.result)); };
                };
            })"""
        )
        found = json.loads(kept)
        return found[0] if found else {}
