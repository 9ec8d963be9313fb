"""What everything that writes minutes must do, with a language model and without. One that joins joins `model` here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import date

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response

from chassis.breaker import Breaker, BreakerSettings
from chassis.tests.clocks import Clock
from services.insights.language import (
    GuardedLanguageModel,
    LanguageModel,
    NoLanguageModel,
    OpenAILanguageModel,
    Reading,
)
from services.insights.minutes import DRAFT, FINAL, Minutes, Transcript
from services.insights.sentences import Segment
from services.insights.spending import Spend
from services.insights.tests.fakes import FakeOpenAI

pytestmark = pytest.mark.req("R-API-3", "R-STT-2")

LINES = (
    "hello everyone and welcome to our weekly meeting",
    "we decided to move the launch of the website to september",
    "anna will send the budget to the client by friday",
    "the support team answered every customer within two days",
)
TRANSCRIPT = Transcript(
    "en",
    date(2026, 11, 25),
    ("Anna",),
    tuple(Segment(f"s{n}", "", n * 4.0, n * 4.0 + 3.0, line) for n, line in enumerate(LINES)),
)


class Diligent(FakeOpenAI):
    """A model that cites the last segment it was shown, whatever that is."""

    async def _answer(self, request: Request) -> Response:
        asked = orjson.loads(await request.body())
        last = orjson.loads(asked["messages"][1]["content"])["segments"][-1]["n"]
        point = {"text": "It was said.", "segments": [last]}
        task = {"text": "Send it", "assignee": "", "due": "", "segments": [last]}
        self.script = [{"summary": "They met.", "key_points": [point], "decisions": [point], "action_items": [task]}]
        self.requests.append(asked)
        return await self._say()

    async def _say(self) -> Response:
        choice = {
            "index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": orjson.dumps(self.script[0]).decode()},
        }  # fmt: skip
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return Response(orjson.dumps(body), media_type="application/json")


@pytest.fixture(params=["none", "openai", "guarded"])
async def model(request: pytest.FixtureRequest) -> AsyncIterator[LanguageModel]:
    if request.param == "none":
        yield NoLanguageModel()
        return
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Diligent().running())
        bare = OpenAILanguageModel(api_key="k", base_url=server.url, model="m", timeout_s=20.0, reading=Reading())
        stack.push_async_callback(bare.aclose)
        breaker = Breaker("conformance", BreakerSettings(), clock=Clock(), chance=lambda: 0.0)
        yield bare if request.param == "openai" else GuardedLanguageModel(bare, breaker)


def citations(minutes: Minutes) -> list[tuple[str, ...]]:
    """Return the segments that each point and each task rests on."""
    tasks = [task.segment_ids for task in minutes.action_items]
    return [*(point.segment_ids for point in (*minutes.key_points, *minutes.decisions)), *tasks]


def cited(minutes: Minutes) -> set[str]:
    return {segment for segments in citations(minutes) for segment in segments}


async def test_minutes_have_a_summary_and_cite_what_was_said(model: LanguageModel) -> None:
    minutes = await model.write_minutes(TRANSCRIPT, Spend())
    assert minutes.summary
    assert minutes.decisions
    assert minutes.action_items
    assert cited(minutes) <= {segment.id for segment in TRANSCRIPT.segments}
    assert all(citations(minutes))


async def test_they_say_who_wrote_them_and_how_good_they_are(model: LanguageModel) -> None:
    minutes = await model.write_minutes(TRANSCRIPT, Spend())
    assert minutes.engine
    assert minutes.quality == (DRAFT if isinstance(model, NoLanguageModel) else FINAL)


async def test_a_day_that_is_not_known_is_no_failure(model: LanguageModel) -> None:
    assert (await model.write_minutes(replace(TRANSCRIPT, day=None), Spend())).summary


async def test_transcripts_at_the_same_time_get_their_own_minutes(model: LanguageModel) -> None:
    """Segments are numbered anew for each: a mix-up would cite what another meeting said."""
    others = [replace(TRANSCRIPT, segments=TRANSCRIPT.segments[:length]) for length in (2, 3, 4)]
    written = await asyncio.gather(*(model.write_minutes(other, Spend()) for other in others))
    for other, minutes in zip(others, written, strict=True):
        assert cited(minutes) <= {segment.id for segment in other.segments}


async def test_one_that_is_cancelled_ends_and_the_next_is_unharmed(model: LanguageModel) -> None:
    writing = asyncio.create_task(model.write_minutes(TRANSCRIPT, Spend()))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing], timeout=10.0)
    assert writing.done()
    assert (await model.write_minutes(TRANSCRIPT, Spend())).summary
