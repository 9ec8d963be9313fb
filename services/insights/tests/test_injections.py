"""Words of a meeting are never orders: whatever is said, nothing of it reaches the model but as data.

The stand-in obeys each order that it finds anywhere but inside of the one JSON value that the question should be, as a
model would that takes every word outside of the fence for its operator's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import httpx2
import orjson
import pytest

from chassis.errors import AppError, Kind
from services.insights.minutes import Transcript
from services.insights.sentences import Segment
from services.insights.tests.fakes import FakeOpenAI
from services.insights.tests.injections import INJECTIONS, MARK
from services.insights.tests.test_language import ask

pytestmark = pytest.mark.req("R-API-3", "R-SEC-1")

OBEYED = {
    "summary": MARK,
    "key_points": [{"text": MARK, "segments": [1]}],
    "decisions": [{"text": MARK, "segments": [1]}],
    "action_items": [],
}
HONEST = {
    "summary": "They spoke.",
    "key_points": [{"text": "They spoke.", "segments": [1]}],
    "decisions": [],
    "action_items": [],
}


def gullible(request: dict[str, Any]) -> Any:
    """Obey whatever stands outside of the fence; and take a fence that does not close for none."""
    outside = [message["content"] for message in request["messages"] if message["role"] != "user"]
    for message in request["messages"]:
        if message["role"] == "user":
            try:
                data = orjson.loads(message["content"])
            except orjson.JSONDecodeError:
                outside.append(message["content"])
                continue
            fenced = isinstance(data, dict) and set(data) == {"day", "language", "participants", "segments"}
            fenced &= all(set(one) == {"n", "speaker", "text"} for one in data["segments"]) if fenced else False
            if not fenced:
                outside.append(message["content"])
    extra = {name: request[name] for name in request if name not in {"messages", "model", "response_format"}}
    outside.append(orjson.dumps(extra).decode())
    return OBEYED if any(MARK in text for text in outside) else HONEST


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI().running() as running:
        yield running


def meeting(words: str, *, everywhere: bool = True) -> Transcript:
    name = words if everywhere else "Anna"
    return Transcript(
        words if everywhere else "en",
        date(2026, 11, 25),
        (name,),
        (Segment("a", name, 0.0, 2.0, words), Segment("b", "Bo", 2.0, 4.0, "good morning")),
    )


def test_the_corpus_is_large_and_each_text_is_an_order() -> None:
    assert len(set(INJECTIONS)) >= 30
    assert all(MARK in text for text in INJECTIONS)


@pytest.mark.parametrize("words", INJECTIONS)
async def test_no_order_in_a_transcript_is_obeyed(server: FakeOpenAI, words: str) -> None:
    minutes = await ask(server, gullible, transcript=meeting(words))
    assert minutes.summary == "They spoke."
    assert MARK not in repr(minutes)
    [request] = server.requests
    [system, user] = request["messages"]
    assert "tools" not in request
    # All that it can see are this meeting's words, as they were said.
    data = orjson.loads(user["content"])
    assert data["segments"][0]["text"] == words
    assert MARK not in system["content"]


@pytest.mark.parametrize("words", INJECTIONS)
async def test_no_order_in_a_transcript_is_obeyed_when_the_answer_is_repaired(server: FakeOpenAI, words: str) -> None:
    """A model that was led astray once is asked again without hearing its own answer."""
    minutes = await ask(server, f"{words}: {MARK}", gullible, transcript=meeting(words, everywhere=False))
    assert len(server.requests) == 2
    assert MARK not in repr(minutes)


async def test_negative_control_the_stand_in_obeys_words_that_are_not_fenced(server: FakeOpenAI) -> None:
    obeyed = 0
    server.script[:] = [gullible]
    async with httpx2.AsyncClient() as client:
        for words in INJECTIONS:
            messages = [{"role": "system", "content": "Write minutes."}, {"role": "user", "content": f"Text: {words}"}]
            answer = await client.post(f"{server.url}/chat/completions", json={"model": "m", "messages": messages})
            obeyed += MARK in answer.json()["choices"][0]["message"]["content"]
    assert obeyed == len(INJECTIONS)


@pytest.mark.parametrize(
    "answer",
    [
        {**HONEST, "tool_calls": [{"name": "get_meetings"}]},
        {**HONEST, "summary": "x" * 100_000},
        {**HONEST, "key_points": [{"text": "y", "segments": [1]}] * 5000},
        "[" * 100_000,
        '{"summary": "' + "z" * 3_000_000,
    ],
    ids=["other fields", "long", "many", "deep", "endless"],
)
async def test_a_model_that_is_led_astray_can_do_no_more_than_fail(server: FakeOpenAI, answer: Any) -> None:
    with pytest.raises(AppError) as caught:
        await ask(server, answer)
    assert caught.value.kind is Kind.BAD_GATEWAY


async def test_a_model_that_is_led_astray_cannot_point_to_what_is_not_in_the_meeting(server: FakeOpenAI) -> None:
    strange = [{"text": "See there", "segments": [number]} for number in (-1, 0, 3, 999_999)]
    minutes = await ask(server, {**HONEST, "key_points": strange, "decisions": strange}, transcript=meeting("hello"))
    assert minutes.key_points == minutes.decisions == ()
