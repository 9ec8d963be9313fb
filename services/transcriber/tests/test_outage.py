"""Twenty minutes without the speech API, and the minute after: how often it is asked, what is lost, in which order.

Times are those of production divided by `SCALE`: retries, the breaker, the length of the outage and the pace of speech.
Four people speak; the server is a real one. Who has a draft heals it as soon as the API can be used, as sessions do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import REGISTRY

from chassis.breaker import BreakerSettings, State
from chassis.retry import RetrySettings
from services.transcriber.recognition import Recogniser, RecognitionSettings
from services.transcriber.slow_start import SlowStartSettings
from services.transcriber.speech import OpenAISpeech, SpeechError
from services.transcriber.tests.fakes import CountingSpeech
from services.transcriber.tests.scripted_server import Answer, Request, ScriptedServer, answer
from services.transcriber.tests.signals import noise
from services.transcriber.turnstile import Lane
from services.transcriber.vendor import DEPENDENCY, Vendor, VendorSettings

log = logging.getLogger(__name__)

SCALE = 200.0
TWENTY_MINUTES_S = 1200.0 / SCALE
FOUR_MINUTES_S = 240.0 / SCALE
STEADY_S = 200.0 / SCALE
SPEAKERS = 4
UTTERANCE_EVERY_S = 20.0 / SCALE
API_LATENCY_S = 0.6 / SCALE
PCM = noise(0.2, rms=0.1)
DEFENDED = VendorSettings(
    concurrency_max=8,
    retry=RetrySettings(wait_min_s=2.0 / SCALE, wait_max_s=10.0 / SCALE, least_s=1.0 / SCALE),
    breaker=BreakerSettings(window_s=30.0 / SCALE, open_s=60.0 / SCALE, ramp_s=30.0 / SCALE),
    slow_start=SlowStartSettings(
        hold_s=90.0 / SCALE, least_per_s=0.2 * SCALE, double_s=15.0 / SCALE, remembered_s=60.0 / SCALE
    ),
)
NO_BREAKER = replace(DEFENDED, breaker=replace(DEFENDED.breaker, failures_in_row=10**9, calls_min=10**9))
NO_BUDGET = replace(NO_BREAKER, retry=replace(DEFENDED.retry, budget_share=2.0, budget_burst=10**6))


@dataclass
class Meeting:
    """What one person said, by number: what is in the transcript, and which of it is a draft."""

    name: str
    texts: list[str] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    healed: list[int] = field(default_factory=list)


@dataclass
class World:
    """Four meetings, the server, and everything that was noticed."""

    server: ScriptedServer
    vendor: Vendor
    recogniser: Recogniser
    meetings: list[Meeting]
    down: Callable[[], None]
    up: Callable[[], None]

    def requests(self, since: float, until: float) -> int:
        """Return how many requests came in a span of time."""
        return sum(since <= request.at_s < until for request in self.server.requests)

    def busiest(self, since: float, until: float, span_s: float) -> float:
        """Return the most requests per second in any span of time, counted from each request on."""
        times = [request.at_s for request in self.server.requests if since <= request.at_s < until]
        counts = [sum(begin <= at < begin + span_s for at in times) for begin in times]
        return max(counts, default=0) / span_s


@asynccontextmanager
async def world_of(settings: VendorSettings, fault: Answer) -> AsyncIterator[World]:
    async with ScriptedServer().run() as server:

        def good(request: Request) -> Answer:
            return answer({"text": request.fields["prompt"][0]}, pause_s=API_LATENCY_S)

        def down() -> None:
            server.otherwise = lambda _: fault

        def up() -> None:
            server.otherwise = good

        up()
        engine = OpenAISpeech(base_url=server.url, api_key="key", model="gpt-4o-transcribe")
        await engine.start()
        vendor = Vendor(engine, settings, chance=lambda: 0.5)
        recogniser = Recogniser(CountingSpeech("embedded", quality="draft"), vendor, RecognitionSettings())
        meetings = [Meeting(f"meeting-{number}") for number in range(SPEAKERS)]
        world = World(server, vendor, recogniser, meetings, down, up)
        try:
            async with asyncio.TaskGroup() as people:
                tasks = [people.create_task(_meet(world, meeting)) for meeting in meetings]
                yield world
                for task in tasks:
                    task.cancel()
        finally:
            await recogniser.close()
            await engine.close()


async def _meet(world: World, meeting: Meeting) -> None:
    """Speak, one utterance after the other, and heal what became a draft: oldest first, behind what is said."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_heal(world, meeting))
        while True:
            due = asyncio.create_task(asyncio.sleep(UTTERANCE_EVERY_S))
            number = len(meeting.texts)
            heard = await world.recogniser.final(
                PCM, session_id=meeting.name, language=None, prompt=f"{meeting.name} {number}"
            )
            meeting.texts.append(heard.transcription.text)
            if heard.quality == "draft":
                if heard.late is not None:
                    heard.late.cancel()
                meeting.drafts.append(number)
            await due


async def _heal(world: World, meeting: Meeting) -> None:
    while True:
        await world.recogniser.until_recovered()
        if not meeting.drafts:
            await asyncio.sleep(UTTERANCE_EVERY_S)
            continue
        number = meeting.drafts[0]
        try:
            healed = await world.recogniser.again(
                PCM, session_id=meeting.name, language=None, prompt=f"{meeting.name} {number}", lane=Lane.HEAL
            )
        except SpeechError:
            continue
        meeting.texts[number] = healed.transcription.text
        meeting.healed.append(meeting.drafts.pop(0))


@dataclass(frozen=True)
class Figures:
    """What one outage came to; seconds are scaled back."""

    utterances: int
    drafted: int
    lost: int
    disordered: int
    asked_until_open: int
    asked_before_per_s: float
    asked_during: int
    retried_during: int
    peak_after_per_s: float
    sustained_after_per_s: float
    most_at_one_time: int
    reopened: bool
    healed_after_s: float

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in vars(self).items())


async def outage(settings: VendorSettings, fault: Answer, outage_s: float) -> Figures:
    """Let the API be well, gone, and well again until every draft is healed."""
    async with world_of(settings, fault) as world:
        await asyncio.sleep(STEADY_S)
        began = time.monotonic()
        before = world.requests(began - STEADY_S / 2, began) / (STEADY_S / 2)
        world.down()
        retried = _retried()
        opened_at = 0.0
        while time.monotonic() < began + outage_s:
            await asyncio.sleep(0.005)
            if not opened_at and world.vendor.breaker.state is not State.CLOSED:
                opened_at = time.monotonic()
        world.up()
        over, closed_at, reopened = time.monotonic(), 0.0, False
        during, retried = world.requests(began, over), _retried() - retried
        world.server.running_most = 0
        drafted = sum(len(meeting.drafts) + len(meeting.healed) for meeting in world.meetings)
        async with asyncio.timeout(60):
            while any(meeting.drafts for meeting in world.meetings):
                await asyncio.sleep(0.01)
                if world.vendor.breaker.state is State.CLOSED:
                    closed_at = closed_at or time.monotonic()
                elif closed_at:
                    reopened = True
        healed_at = time.monotonic()
        await asyncio.sleep(STEADY_S)
        said = {meeting.name: list(meeting.texts) for meeting in world.meetings}
        span_s = 10.0 / SCALE
        ramp_ends = closed_at + settings.breaker.ramp_s
        figures = Figures(
            utterances=sum(map(len, said.values())),
            drafted=drafted,
            lost=sum(text != f"{name} {number}" for name, texts in said.items() for number, text in enumerate(texts)),
            disordered=sum(meeting.healed != sorted(meeting.healed) for meeting in world.meetings),
            asked_until_open=world.requests(began, opened_at or over),
            asked_before_per_s=before / SCALE,
            asked_during=during,
            retried_during=int(retried),
            peak_after_per_s=world.busiest(over, ramp_ends, span_s) / SCALE,
            sustained_after_per_s=world.busiest(ramp_ends, healed_at, span_s) / SCALE,
            most_at_one_time=world.server.running_most,
            reopened=reopened,
            healed_after_s=(healed_at - over) * SCALE,
        )
        log.info(str(figures))
        return figures


def _retried() -> float:
    return REGISTRY.get_sample_value("retry_attempts_total", {"dependency": DEPENDENCY, "outcome": "retried"}) or 0.0


DOWN = answer({"error": {"message": "down"}}, status=503)


@pytest.mark.req("R-STT-2", "R-STT-3", "R-STT-4", "R-STT-5")
async def test_twenty_minutes_without_the_api_cost_no_word_and_the_api_no_storm() -> None:
    figures = await outage(DEFENDED, DOWN, TWENTY_MINUTES_S)
    assert (figures.lost, figures.disordered) == (0, 0), figures
    assert figures.drafted > 100, figures
    assert figures.asked_until_open <= 5 + SPEAKERS, figures
    # One look a minute, by two probes at most, and what it took to open.
    assert figures.asked_during <= 20 * 2 + 5 + SPEAKERS, figures
    assert not figures.reopened, figures
    assert figures.most_at_one_time <= 8, figures
    # No more at first than when it drains at its best; the peak against live speech alone: test_slow_start.py.
    assert figures.peak_after_per_s <= 1.2 * max(figures.sustained_after_per_s, figures.asked_before_per_s), figures


@pytest.mark.req("R-STT-3")
async def test_without_the_breaker_every_utterance_would_ask_the_api_that_is_down() -> None:
    """The first negative control."""
    figures = await outage(NO_BREAKER, DOWN, FOUR_MINUTES_S)
    assert figures.asked_during > figures.drafted > 0, figures
    assert figures.retried_during <= 10 + 0.1 * (figures.utterances + figures.asked_during), figures


@pytest.mark.req("R-STT-2")
async def test_without_the_budget_as_well_most_of_what_is_asked_would_be_retries() -> None:
    """The second negative control."""
    figures = await outage(NO_BUDGET, DOWN, FOUR_MINUTES_S)
    assert figures.retried_during > 0.4 * figures.asked_during, figures
