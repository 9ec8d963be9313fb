"""`make demo`: the main job end to end, through the public API: speak, read along, get minutes and tasks."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
from verbatim_client import ApiError, LiveSettings, StreamError, VerbatimClient
from verbatim_client.cli.captions import Captions
from verbatim_client.cli.minutes import minutes_lines, task_lines

from dev.run import ended_by_signals, local_stack
from dev.seed import RECORDING, RecordingError, read_recording, sign_in
from dev.settings import Settings
from dev.stack import running_state

TITLE = "Demo meeting"
FINISH_WITHIN_S = 120.0
MINUTES_WITHIN_S = 90.0
ASK_EVERY_S = 0.5
INTERRUPTED = 130

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
    outcome, captions = Outcome(), Captions(sys.stdout, sys.stdout)
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


def _print_minutes(outcome: Outcome) -> None:
    tasks = ["", "tasks", *task_lines(outcome.tasks)] if outcome.tasks else []
    for line in ["", *minutes_lines(outcome.insights), *tasks]:
        print(line)
