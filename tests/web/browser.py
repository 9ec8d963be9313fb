"""A real Chromium with a spoken recording as its microphone."""

from __future__ import annotations

import os
import shutil
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from playwright.async_api import Browser, async_playwright

from dev.servers import ServersMissingError, install_debian_packages

NAMES = ("chromium", "chromium-browser", "google-chrome")
LEAD_IN_S = 0.5
# A file that ends in sound repeats its last 10 ms for ever; one that ends in silence stays silent.
TAIL_S = 3.0
ASSETS = Path(__file__).parents[2] / "dev/assets"


def find_or_install(say: Callable[[str], None] = print) -> Path:
    """Return Chromium's program; as root it is installed where it is missing. Raises ServersMissingError."""
    if named := os.environ.get("VERBATIM_CHROMIUM"):
        return Path(named)
    if (found := _on_path()) is None:
        install_debian_packages(["chromium"], say)
        found = _on_path()
    if found is None:
        raise ServersMissingError("Chromium is needed on the PATH")
    return found


def _on_path() -> Path | None:
    return next((Path(found) for name in NAMES if (found := shutil.which(name))), None)


def record(target: Path, seconds: float) -> Path:
    """Write the first seconds of the bundled meeting as a microphone hears them: silence before and after."""
    with wave.open(str(ASSETS / "meeting.wav")) as meeting:
        rate = meeting.getframerate()
        spoken = np.frombuffer(meeting.readframes(int(seconds * rate)), dtype="<i2")
    parts = [np.zeros(int(LEAD_IN_S * rate), "<i2"), spoken, np.zeros(int(TAIL_S * rate), "<i2")]
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.concatenate(parts).tobytes())
    return target


@asynccontextmanager
async def sharing(program: Path, title: str) -> AsyncIterator[Browser]:
    """Run a browser whose person, asked what to share, takes the tab of this title with its sound."""
    arguments = [
        "--no-sandbox",
        "--autoplay-policy=no-user-gesture-required",
        f"--auto-select-tab-capture-source-by-title={title}",
    ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(program), args=arguments, ignore_default_args=["--mute-audio"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def launched(program: Path, microphone: Path) -> AsyncIterator[Browser]:
    """Run the browser. The recording plays from its start, once, each time that a page opens the microphone."""
    arguments = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
    ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(program), args=arguments)
        try:
            yield browser
        finally:
            await browser.close()
