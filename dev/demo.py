"""`make demo`: the main job end to end, through the public API: speak, read along, get minutes and tasks."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

import httpx2
from verbatim_client import ApiError, LiveSettings, StreamError, VerbatimClient

from dev.run import ended_by_signals, local_stack
from dev.seed import RECORDING, RecordingError, read_recording, sign_in
from dev.settings import Settings
from dev.stack import running_state

TITLE = "Demo meeting"
FINISH_WITHIN_S = 120.0
MINUTES_WITHIN_S = 90.0
ASK_EVERY_S = 0.5
INTERRUPTED = 130
ERASE_LINE = "\r\x1b[K"

Json = dict[str, Any]


@dataclass
class Outcome:
    """What arrived."""

    captions: int = 0
    finished: Json | None = None
    insights: Json = field(default_factory=dict)
    tasks: list[Json] = field(default_factory=list)

    def missing(self) -> list[str]:
        """Name what did not arrive."""
        arrived = {
            "captions": self.captions > 0,
            "finished": self.finished is not None,
            "summary": bool(self.insights.get("summary")),
            "tasks": bool(self.tasks),
        }
        return [name for name, there in arrived.items() if not there]


class Captions:
    """Captions on a console: each utterance one line, its partials on the same line where the console can."""

    def __init__(self, console: TextIO) -> None:
        self._console = console
        self._overwrites = console.isatty()

    def show(self, event: Json) -> None:
        """Show a live event, if it is one that people read."""
        match event["type"]:
            case "segment":
                self._line(f"{_clock(event['start'])}  {_speaker(event)}{event['text']}{_mark(event)}")
            case "revised":
                self._line(f"{_clock(event['start'])}  (revised) {event['text']}")
            case "gap":
                self._line(f"{_clock(event['start'])}  (missing until {_clock(event['end'])}: {event['reason']})")
            case "status" if event["state"] != "ok":
                self._line(f"       ({event['state'].replace('_', ' ')}: {event.get('reason', '')})")
            case "error":
                self._line(f"       (error {event['error']}: {event.get('message', '')})")
            case "partial" if self._overwrites:
                room = shutil.get_terminal_size().columns - 10
                print(f"{ERASE_LINE}  ...  {event['text'][-room:]}", end="", file=self._console, flush=True)

    def _line(self, text: str) -> None:
        print(f"{ERASE_LINE if self._overwrites else ''}  {text}", file=self._console, flush=True)


async def demo(settings: Settings) -> int:
    """Do the main job and give 0 if captions, accounts, summary and tasks all arrived, else 1 (130: Ctrl-C)."""
    async with ended_by_signals(), _platform(settings) as url:
        try:
            outcome = await _main_job(url, settings)
        except (ApiError, StreamError, RecordingError, httpx2.TransportError, TimeoutError) as error:
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        if missing := outcome.missing():
            print(f"\nmissing: {', '.join(missing)}", file=sys.stderr)
            return 1
        print("\neverything arrived")
        return 0
    return INTERRUPTED


@contextlib.asynccontextmanager
async def _platform(settings: Settings) -> AsyncIterator[str]:
    if state := running_state(settings.data_folder):
        yield state.url
        return
    print("starting the platform ...", flush=True)
    async with local_stack(settings, quiet=True) as stack:
        yield stack.url


async def _main_job(url: str, settings: Settings) -> Outcome:
    outcome, captions = Outcome(), Captions(sys.stdout)
    pcm = read_recording(RECORDING)
    async with VerbatimClient(url) as client:
        await sign_in(client, settings.data_folder)
        print(f"\nspeaking {len(pcm) / 32_000:.0f} s into {client.ws_url} in real time\n", flush=True)
        speaking = client.stream(pcm, LiveSettings(title=TITLE, language="en"), finish_within_s=FINISH_WITHIN_S)
        async for event in speaking:
            captions.show(event)
            if event["type"] == "segment":
                outcome.captions += 1
            elif event["type"] == "finished":
                outcome.finished = event
        if outcome.finished is not None:
            _print_accounts(outcome.finished)
            await _wait_for_minutes(client, outcome.finished["meeting_id"], outcome)
            _print_minutes(outcome)
    return outcome


async def _wait_for_minutes(client: VerbatimClient, meeting_id: str, outcome: Outcome) -> None:
    async def insights_are_there() -> bool:
        try:
            outcome.insights = await client.insights(meeting_id)
        except ApiError as error:
            if error.status != httpx2.codes.NOT_FOUND:  # not asked for yet
                raise
        return bool(outcome.insights.get("summary")) or outcome.insights.get("status") == "failed"

    async def tasks_are_there() -> bool:
        outcome.tasks = [task async for task in client.tasks() if task["meeting_id"] == meeting_id]
        return bool(outcome.tasks)

    deadline = time.monotonic() + MINUTES_WITHIN_S
    await _asked_until(insights_are_there, deadline)
    await _asked_until(tasks_are_there, deadline)


async def _asked_until(question: Callable[[], Awaitable[bool]], deadline: float) -> None:
    while not await question():
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(ASK_EVERY_S)


def _print_accounts(finished: Json) -> None:
    print("\naccounts")
    for name in ("segments", "audio_seconds", "gap_seconds", "draft_segments", "coverage"):
        print(f"  {name.replace('_', ' '):<15} {finished[name]}")


def _print_minutes(outcome: Outcome) -> None:
    insights = outcome.insights
    if summary := insights.get("summary"):
        print(f"\nsummary ({insights.get('quality')}, {insights.get('engine')})\n  {summary}")
    for name in ("key_points", "decisions", "action_items"):
        if items := insights.get(name):
            print(f"\n{name.replace('_', ' ')}")
            for item in items:
                print(f"  - {_sentence(item)}")
    if outcome.tasks:
        print("\ntasks")
        for task in outcome.tasks:
            print(f"  [ ] {_sentence(task)}")


def _sentence(item: str | Json) -> str:
    if isinstance(item, str):
        return item
    who_and_when = [f"{name}: {item[name]}" for name in ("assignee", "due") if item.get(name)]
    text = str(item.get("text") or item.get("title") or "")
    return f"{text} ({', '.join(who_and_when)})" if who_and_when else text


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def _speaker(segment: Json) -> str:
    return f"{segment['speaker']}: " if segment.get("speaker") else ""


def _mark(segment: Json) -> str:
    return "  (draft)" if segment.get("quality") == "draft" else ""
