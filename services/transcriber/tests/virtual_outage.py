"""An outage of the speech API: it is well, gone for twenty, and well again until every draft is healed.

Time is virtual (`chassis/tests/virtual_time.py`) and the API a program in the same process, so thousands of calls are
exact, and the same in each run.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from chassis.breaker import State
from services.transcriber.recognition import Recogniser, Recognition
from services.transcriber.slow_start import SlowStartSettings
from services.transcriber.speech import SpeechError
from services.transcriber.tests.fakes import CountingSpeech
from services.transcriber.transcription import Transcription
from services.transcriber.turnstile import Lane
from services.transcriber.vendor import Vendor, VendorSettings

SPEAKERS = 30
UTTERANCE_EVERY_S = 10.0
OUTAGE_S = 1200.0
SPAN_S = 10.0
FIRST_MINUTES_S = 90.0
PCM = bytes(8 * 32_000)


class ScriptedApi:
    """The speech API: away when it is told to be, else it answers within `latency_s`. Notes each call."""

    name = "openai"
    quality: Literal["final", "draft"] = "final"

    def __init__(self, clock: Callable[[], float], latency_s: float = 0.6) -> None:
        self._clock = clock
        self._latency_s = latency_s
        self._running = 0
        self.away = False
        self.asked_at: list[float] = []
        self.running_most = 0

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to close."""

    async def transcribe(self, pcm: bytes, *, language: str | None, prompt: str, deadline_s: float) -> Transcription:
        """Return the prompt."""
        del pcm, language, deadline_s
        self.asked_at.append(self._clock())
        self._running += 1
        self.running_most = max(self.running_most, self._running)
        try:
            await asyncio.sleep(0.05 if self.away else self._latency_s)
        finally:
            self._running -= 1
        if self.away:
            raise SpeechError("scripted", retryable=True, reason="server")
        return Transcription(prompt)

    def per_s(self, since: float, until: float) -> float:
        return self.asked(since, until) / (until - since)

    def asked(self, since: float, until: float) -> int:
        return bisect_left(self.asked_at, until) - bisect_left(self.asked_at, since)

    def busiest_per_s(self, since: float, until: float) -> float:
        """Return the most calls per second in any `SPAN_S` of a time."""
        begins = self.asked_at[bisect_left(self.asked_at, since) : bisect_left(self.asked_at, until)]
        return max(self.asked(begin, min(until, begin + SPAN_S)) for begin in begins) / SPAN_S


@dataclass
class Said:
    """What one person said, by number, and which of it waits to be healed."""

    name: str
    texts: list[str] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    healed: list[int] = field(default_factory=list)


@dataclass
class Course:
    """What became of an outage; times in seconds."""

    opened_after_s: float = 0.0
    asked_until_open: int = 0
    asked_while_away: int = 0
    probes_most: int = 0
    steady_per_s: float = 0.0
    peak_first_minutes_per_s: float = 0.0
    peak_later_per_s: float = 0.0
    drafted: int = 0
    lost: int = 0
    disordered: int = 0
    healed_after_s: float = 0.0
    reopened: int = 0
    running_most: int = 0

    @property
    def peak(self) -> float:
        """The peak of the first minutes after closing, as a multiple of the steady rate."""
        return self.peak_first_minutes_per_s / self.steady_per_s


async def course_of(clock: Callable[[], float], slow_start: SlowStartSettings) -> Course:
    """Let forty people speak while the API is well, gone, and well again until all is healed."""
    api = ScriptedApi(clock)
    settings = VendorSettings(slow_start=slow_start)
    vendor = Vendor(api, settings, clock=clock, chance=random.Random(1).random)
    recogniser = Recogniser(CountingSpeech("embedded", quality="draft"), vendor, clock=clock)
    people = [Said(f"meeting-{number}") for number in range(SPEAKERS)]
    moves: list[tuple[float, State]] = []
    vendor.breaker.watch(lambda state: moves.append((clock(), state)))
    found = Course()
    going_on: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as tasks:
        for number, said in enumerate(people):
            going_on.append(tasks.create_task(_speak(recogniser, said, number * UTTERANCE_EVERY_S / SPEAKERS)))
            going_on.append(tasks.create_task(_heal(recogniser, said)))
        await asyncio.sleep(300.0)
        began = clock()
        found.steady_per_s = api.per_s(began - 200.0, began)
        api.away = True
        await asyncio.sleep(OUTAGE_S)
        over, api.away, api.running_most = clock(), False, 0
        found.drafted = sum(len(said.drafts) + len(said.healed) for said in people)
        while any(said.drafts for said in people):
            await asyncio.sleep(1.0)
        found.healed_after_s = clock() - over
        await asyncio.sleep(60.0)
        closed_at = next(at for at, state in moves if at >= over and state is State.CLOSED)
        opened_at = next(at for at, state in moves if state is State.OPEN)
        found.opened_after_s = opened_at - began
        found.asked_until_open = api.asked(began, opened_at)
        found.asked_while_away = api.asked(began, over)
        found.peak_first_minutes_per_s = api.busiest_per_s(over, closed_at + FIRST_MINUTES_S)
        found.peak_later_per_s = api.busiest_per_s(closed_at + FIRST_MINUTES_S, clock())
        found.reopened = sum(at > closed_at and state is not State.CLOSED for at, state in moves)
        found.running_most = api.running_most
        found.lost = sum(text != f"{said.name} {n}" for said in people for n, text in enumerate(said.texts))
        found.disordered = sum(said.healed != sorted(said.healed) for said in people)
        for (at, state), (until, _) in itertools.pairwise(moves):
            if state is State.HALF_OPEN and until < over:
                found.probes_most = max(found.probes_most, api.asked(at, until))
        for task in going_on:
            task.cancel()
    return found


async def _speak(recogniser: Recogniser, said: Said, late_s: float) -> None:
    await asyncio.sleep(late_s)
    while True:
        due = asyncio.get_running_loop().time() + UTTERANCE_EVERY_S
        number = len(said.texts)
        heard = await recogniser.final(PCM, session_id=said.name, language=None, prompt=f"{said.name} {number}")
        said.texts.append(heard.transcription.text)
        if heard.quality == "draft":
            late = await _heard_late(heard)
            if late:
                said.texts[number] = late
            else:
                said.drafts.append(number)
        await asyncio.sleep(due - asyncio.get_running_loop().time())


async def _heard_late(heard: Recognition) -> str:
    """Return what the API says behind a draft, as sessions take it; empty if it says nothing."""
    with suppress(SpeechError):
        return (await heard.late).transcription.text if heard.late is not None else ""
    return ""


async def _heal(recogniser: Recogniser, said: Said) -> None:
    while True:
        await recogniser.until_recovered()
        if not said.drafts:
            await asyncio.sleep(1.0)
            continue
        number = said.drafts[0]
        try:
            healed = await recogniser.again(
                PCM, session_id=said.name, language=None, prompt=f"{said.name} {number}", lane=Lane.HEAL
            )
        except SpeechError:
            await asyncio.sleep(2.0)
            continue
        said.texts[number] = healed.transcription.text
        said.healed.append(said.drafts.pop(0))
