"""Transcripts longer than a model reads at once: cut, asked about piece by piece, put together the same each time."""

from __future__ import annotations

import itertools
from datetime import date
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.insights.language import Reading
from services.insights.minutes import ActionItem, Minutes, Point, Transcript
from services.insights.pieces import pieces, together, tokens
from services.insights.sentences import Segment
from services.insights.spending import Spend
from services.insights.tests.fakes import FakeOpenAI
from services.insights.tests.test_language import ask

pytestmark = pytest.mark.req("R-API-3")

SPOKEN = "and then we looked at the figures of the quarter and found that they were better than we had feared"
TEXTS = st.lists(st.text(max_size=60), max_size=40)


def transcript(texts: list[str]) -> Transcript:
    return Transcript(
        "de", date(2026, 11, 25), (), tuple(Segment(f"s{n}", "Anna", n, n + 1, t) for n, t in enumerate(texts))
    )


@given(TEXTS, st.integers(60, 400))
def test_pieces_leave_nothing_out_keep_the_order_and_the_limit(texts: list[str], tokens_max: int) -> None:
    whole = transcript(texts)
    cut = pieces(whole, tokens_max=tokens_max)
    assert all(sum(line.cost() for line in piece) <= tokens_max * 3 for piece in cut)
    lines = list(itertools.chain.from_iterable(cut))
    said = {
        number: "".join(line.text for line in group)
        for number, group in itertools.groupby(lines, lambda line: line.number)
        for number, group in itertools.groupby(lines, lambda line: line.number)
    }
    assert said == dict(enumerate(texts, 1))
    assert [line.number for line in lines] == sorted(line.number for line in lines)
    assert cut == pieces(whole, tokens_max=tokens_max)


def test_pieces_are_about_equally_long() -> None:
    cut = pieces(transcript([SPOKEN] * 150), tokens_max=2500)
    sizes = [sum(line.cost() for line in piece) for piece in cut]
    assert len(sizes) == 3
    assert min(sizes) > 0.8 * max(sizes)


def test_no_language_is_counted_as_fewer_tokens_than_models_count() -> None:
    # Of these a tokenizer makes 6, 8 and 9 tokens at most (one for each word, syllable or sign).
    for text, most in (("we move the launch to may", 6), ("я отправлю отчёт завтра", 8), ("我们明天发送报告吧", 9)):
        assert tokens(text.encode()) >= most


def minutes(number: int, *, points: int = 2) -> Minutes:
    return Minutes(
        f"Part {number}.",
        tuple(Point(f"Point {number}.{n}", (f"s{number * 10 + n}",)) for n in range(points)),
        (Point("We move the launch!", (f"s{number}",)),),
        (ActionItem("Send it", "Anna", date(2026, 11, 27), (f"s{number}",)),),
        "final", "m",
    )  # fmt: skip


def place(segment_id: str) -> int:
    return int(segment_id[1:])


def test_minutes_of_pieces_are_put_together_in_order_and_what_was_said_twice_stands_once() -> None:
    whole = together([minutes(1), minutes(2)], place)
    assert whole.summary == "Part 1. Part 2."
    assert [point.text for point in whole.key_points] == ["Point 1.0", "Point 1.1", "Point 2.0", "Point 2.1"]
    assert whole.decisions == (Point("We move the launch!", ("s1", "s2")),)
    assert whole.action_items == (ActionItem("Send it", "Anna", date(2026, 11, 27), ("s1", "s2")),)
    assert together([minutes(1)], place) == minutes(1)


def test_of_too_many_points_each_piece_keeps_its_first_ones() -> None:
    whole = together([minutes(number, points=40) for number in range(1, 6)], place)
    assert len(whole.key_points) == 100
    assert {point.text.split(".")[0] for point in whole.key_points} == {f"Point {n}" for n in range(1, 6)}


def counting(limit_tokens: int) -> Any:
    """A server that reads each segment of its question, and refuses one that is longer than its context."""

    def answer(request: dict[str, Any]) -> Any:
        said = "".join(message["content"] for message in request["messages"])
        if len(said) / 4 > limit_tokens - request["max_completion_tokens"]:  # English: four characters to a token
            return (400, {}, b'{"error": {"code": "context_length_exceeded", "message": "too long"}}')
        segments = orjson.loads(request["messages"][1]["content"])["segments"]
        found = [one["n"] for one in segments if "decided" in one["text"]]
        return {
            "summary": f"From {segments[0]['n']} to {segments[-1]['n']}.", "key_points": [], "action_items": [],
            "decisions": [{"text": f"Decision {number}", "segments": [number, 999_999]} for number in found],
        }  # fmt: skip

    return answer


async def test_two_hours_of_speech_are_read_whole_within_the_context(record_property: Any) -> None:
    # 1800 segments of four seconds, 150 words a minute.
    texts = [f"we decided number {n} {SPOKEN}" if n % 60 == 0 else SPOKEN[:60] for n in range(1, 1801)]
    spend = Spend()
    async with FakeOpenAI([counting(16_000)]).running() as server:
        made = await ask(
            server, counting(16_000), transcript=transcript(texts), reading=Reading(16_000, 4096), spend=spend
        )
        asked = [orjson.loads(request["messages"][1]["content"])["segments"] for request in server.requests]
    assert [one["n"] for segments in asked for one in segments] == list(range(1, 1801))
    assert [point.text for point in made.decisions] == [f"Decision {number}" for number in range(60, 1801, 60)]
    assert made.decisions[0].segment_ids == ("s59",)
    assert 1 < len(asked) <= 10
    assert spend.calls == len(asked)
    record_property("pieces", len(asked))


async def test_negative_control_one_question_would_not_have_fitted() -> None:
    texts = [SPOKEN] * 1800
    async with FakeOpenAI([counting(16_000)]).running() as server:
        with pytest.raises(Exception, match="400"):
            await ask(server, counting(16_000), transcript=transcript(texts), reading=Reading(2_000_000, 4096))
