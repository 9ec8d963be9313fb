"""The OpenAI adapter against a real server with scripted answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import orjson
import pytest

from chassis.errors import AppError, Kind
from services.insights.language import NoLanguageModel, OpenAILanguageModel, Reading
from services.insights.minutes import ActionItem, Point, Transcript
from services.insights.sentences import Segment
from services.insights.spending import Spend
from services.insights.tests.fakes import FakeOpenAI, ScriptedChat

pytestmark = pytest.mark.req("R-API-3")

SECRET = "the merger is off"
TRANSCRIPT = Transcript(
    "en",
    date(2026, 11, 25),
    ("Anna",),
    (
        Segment("a", "Anna", 0.0, 2.0, f"we decided {SECRET}"),
        Segment("b", "Bo", 2.0, 4.0, "anna will tell them by friday"),
    ),
)
GOOD = {
    "summary": "The merger is off.",
    "key_points": [{"text": "No merger.", "segments": [1]}],
    "decisions": [{"text": "The merger is off.", "segments": [1, 1]}],
    "action_items": [{"text": "Tell them", "assignee": "Anna", "due": "2026-11-27", "segments": [2]}],
}


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI().running() as running:
        yield running


async def ask(
    server: FakeOpenAI,
    *script: Any,
    timeout_s: float = 5.0,
    transcript: Transcript = TRANSCRIPT,
    reading: Reading = Reading(),  # noqa: B008 - it is frozen
    spend: Spend | None = None,
) -> Any:
    server.script[:] = script
    model = OpenAILanguageModel(api_key="k", base_url=server.url, model="m", timeout_s=timeout_s, reading=reading)
    try:
        return await model.write_minutes(transcript, Spend() if spend is None else spend)
    finally:
        await model.aclose()


async def test_a_good_answer_becomes_minutes_that_cite_segments(server: FakeOpenAI) -> None:
    minutes = await ask(server, GOOD)
    assert minutes.summary == "The merger is off."
    assert minutes.decisions == (Point("The merger is off.", ("a",)),)
    assert minutes.action_items == (ActionItem("Tell them", "Anna", date(2026, 11, 27), ("b",)),)
    assert (minutes.quality, minutes.engine) == ("final", "m")


async def test_the_transcript_is_sent_as_data_apart_from_the_instructions(server: FakeOpenAI) -> None:
    await ask(server, GOOD)
    [request] = server.requests
    system, user = request["messages"]
    assert SECRET not in system["content"]
    assert orjson.loads(user["content"])["segments"][0] == {"n": 1, "speaker": "Anna", "text": f"we decided {SECRET}"}
    assert "tools" not in request
    assert request["response_format"]["json_schema"]["strict"] is True


async def test_minutes_are_wanted_in_the_language_of_the_meeting(server: FakeOpenAI) -> None:
    said = Segment("a", "Anna", 0.0, 2.0, "wir verschieben den Start auf September")
    german = Transcript("de", None, (), (said,))
    await ask(server, GOOD | {"action_items": []}, transcript=german)
    system, user = server.requests[0]["messages"]
    assert "in the language of the transcript" in system["content"]
    assert orjson.loads(user["content"])["language"] == "de"
    # Without a model they are what was said.
    draft = await NoLanguageModel().write_minutes(german, Spend())
    assert draft.summary.casefold().startswith("wir verschieben den start")


def changed(**values: Any) -> dict[str, Any]:
    return {**GOOD, **values}


@pytest.mark.parametrize(
    "answer",
    [
        "not json",
        "",
        "[]",
        '{"summary": "x"}',
        changed(extra="field"),
        changed(summary=""),
        changed(summary="x" * 6000),
        changed(decisions=[{"text": "Wrong type.", "segments": ["a"]}]),
        changed(decisions=[{"text": "Many.", "segments": [1]}] * 101),
        changed(action_items=[{"text": "x", "assignee": "", "due": "friday", "segments": [1]}]),
        (200, {}, b"{broken"),
        (200, {}, b"{}"),
        (200, {}, b'"text"'),
    ],
    ids=lambda answer: str(answer)[:40],
)
async def test_an_answer_that_cannot_be_used_may_be_asked_for_again(server: FakeOpenAI, answer: Any) -> None:
    with pytest.raises(AppError) as caught:
        await ask(server, answer)
    assert caught.value.kind is Kind.BAD_GATEWAY
    assert caught.value.codes.retryable


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable"),
    [
        (500, {}, Kind.BAD_GATEWAY, True),
        (503, {}, Kind.BAD_GATEWAY, True),
        (401, {}, Kind.FORBIDDEN, False),
        (404, {}, Kind.FORBIDDEN, False),
        (400, {}, Kind.FORBIDDEN, False),
        (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, Kind.FORBIDDEN, False),
        (429, {"error": {"code": "rate_limit_exceeded", "message": "slow"}}, Kind.RATE_LIMIT_EXCEEDED, True),
    ],
)
async def test_each_status_says_whether_a_retry_can_help(
    server: FakeOpenAI, status: int, body: dict[str, Any], kind: Kind, retryable: bool
) -> None:
    with pytest.raises(AppError) as caught:
        await ask(server, (status, {"retry-after": "7"}, orjson.dumps(body)))
    assert caught.value.kind is kind
    assert caught.value.codes.retryable is retryable
    if kind is Kind.RATE_LIMIT_EXCEEDED:
        assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("asked", "least_s", "most_s"),
    [
        (None, 1.0, 1.0),
        ("7", 7.0, 7.0),
        ("3600", 300.0, 300.0),
        ("-1", 0.0, 0.0),
        ("soon", 1.0, 1.0),
        ("inf", 1.0, 1.0),
        ("a date", 200.0, 251.0),
        ("Mon, 23 Nov 2020 11:00:00 GMT", 0.0, 0.0),
    ],
)
async def test_how_long_a_model_wants_to_be_left_alone_is_told(
    server: FakeOpenAI, asked: str | None, least_s: float, most_s: float
) -> None:
    if asked == "a date":
        asked = format_datetime(datetime.now(UTC) + timedelta(seconds=250), usegmt=True)
    headers = {} if asked is None else {"retry-after": asked}
    with pytest.raises(AppError) as caught:
        await ask(server, (429, headers, b"{}"))
    assert caught.value.retry_after_s is not None
    assert least_s <= caught.value.retry_after_s <= most_s


async def test_a_model_whose_answer_never_ends_is_left() -> None:
    """Each byte comes in time; all of them do not."""
    async with ScriptedChat(trickle_s=0.1).running() as url:
        model = OpenAILanguageModel(api_key="k", base_url=url, model="m", timeout_s=0.5, reading=Reading())
        try:
            with pytest.raises(AppError) as caught:
                await model.write_minutes(TRANSCRIPT, Spend())
        finally:
            await model.aclose()
    assert caught.value.kind is Kind.TIMEOUT


async def test_a_model_that_hangs_up_in_the_midst_may_be_asked_again() -> None:
    async with ScriptedChat(reset_after=40).running() as url:
        model = OpenAILanguageModel(api_key="k", base_url=url, model="m", timeout_s=5.0, reading=Reading())
        try:
            with pytest.raises(AppError) as caught:
                await model.write_minutes(TRANSCRIPT, Spend())
        finally:
            await model.aclose()
    assert caught.value.codes.retryable
    assert caught.value.kind in {Kind.UNAVAILABLE, Kind.BAD_GATEWAY}


async def test_the_client_makes_one_request_and_no_hidden_retries(server: FakeOpenAI) -> None:
    with pytest.raises(AppError):
        await ask(server, (500, {}, b"{}"))
    assert len(server.requests) == 1


async def test_a_model_that_does_not_answer_in_time_is_left(server: FakeOpenAI) -> None:
    with pytest.raises(AppError) as caught:
        await ask(server, 1.5, timeout_s=0.3)
    assert caught.value.kind is Kind.TIMEOUT


async def test_a_model_that_is_not_there_is_unavailable(server: FakeOpenAI) -> None:
    server.script[:] = [GOOD]
    model = OpenAILanguageModel(
        api_key="k", base_url="http://127.0.0.1:9/v1", model="m", timeout_s=2.0, reading=Reading()
    )
    with pytest.raises(AppError) as caught:
        await model.write_minutes(TRANSCRIPT, Spend())
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_a_transcript_of_too_many_pieces_is_not_sent(server: FakeOpenAI) -> None:
    long = Transcript("en", None, (), tuple(Segment(f"s{n}", "", n, n + 1, "word " * 100) for n in range(100)))
    with pytest.raises(AppError) as caught:
        await ask(server, GOOD, transcript=long, reading=Reading(6000, 4096, pieces_max=3))
    assert caught.value.kind is Kind.PAYLOAD_TOO_LARGE
    assert not caught.value.codes.retryable
    assert server.requests == []


async def test_an_answer_that_cannot_be_used_is_asked_for_once_more_and_is_not_sent_back(server: FakeOpenAI) -> None:
    spend = Spend()
    minutes = await ask(server, f"Sure! {SECRET}", GOOD, spend=spend)
    assert minutes.summary == "The merger is off."
    first, second = server.requests
    assert [message["role"] for message in second["messages"]] == ["system", "user"]
    assert "could not be used" in second["messages"][0]["content"]
    assert SECRET not in second["messages"][0]["content"]
    assert first["messages"][1] == second["messages"][1]
    assert (spend.calls, spend.input_tokens, spend.output_tokens) == (2, 200, 40)


async def test_repairs_end_when_their_budget_is_spent(server: FakeOpenAI) -> None:
    server.script[:] = ["nonsense"]
    model = OpenAILanguageModel(api_key="k", base_url=server.url, model="m", timeout_s=5, reading=Reading())
    for _ in range(20):
        with pytest.raises(AppError):
            await model.write_minutes(TRANSCRIPT, Spend())
    await model.aclose()
    assert 20 + 5 <= len(server.requests) <= 20 + 5 + 4  # five at once, then a fifth of all


async def test_a_point_that_rests_on_no_segment_is_dropped_and_a_number_that_is_none_too(server: FakeOpenAI) -> None:
    minutes = await ask(
        server,
        changed(
            key_points=[{"text": "Made up.", "segments": [3]}, {"text": "Half.", "segments": [0, 2, 99, -1]}],
            decisions=[{"text": "Cites nothing.", "segments": []}],
        ),
    )
    assert minutes.key_points == (Point("Half.", ("b",)),)
    assert minutes.decisions == ()
    assert len(server.requests) == 1


async def test_words_of_a_model_come_out_as_plain_text(server: FakeOpenAI) -> None:
    evil = "<img src=x onerror=alert(1)><b>Fine</b>\u0000\u202e &lt;script&gt;alert(2)&lt;/script&gt;\x1b[31m ok"
    minutes = await ask(server, changed(summary=evil, key_points=[{"text": evil, "segments": [1]}]))
    for text in (minutes.summary, minutes.key_points[0].text):
        assert "<" not in text
        assert "script" not in text
        assert text.isprintable()
        assert "Fine" in text


@pytest.mark.req("R-SEC-1")
async def test_no_failure_carries_words_of_the_transcript(server: FakeOpenAI) -> None:
    echo = orjson.dumps({"error": {"message": f"bad request: {SECRET}", "code": "x"}})
    answers: list[Any] = [SECRET, changed(summary=[SECRET]), (400, {}, echo), (500, {}, echo), (200, {}, SECRET)]
    for answer in answers:
        with pytest.raises(AppError) as caught:
            await ask(server, answer)
        seen: BaseException | None = caught.value
        while seen is not None:
            assert SECRET not in str(seen) + repr(seen)
            seen = seen.__cause__
