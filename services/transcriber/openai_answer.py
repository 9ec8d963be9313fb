"""Read the answer of an OpenAI-compatible transcription, as real servers give it.

Servers differ: no words, no segments, nulls where numbers should be, the wrong content type, an error with
status 200. Whatever has a text is accepted; figures that are missing or make no sense are None.
"""

import math
from collections.abc import Iterable
from typing import Any

import orjson

from services.transcriber.transcription import Transcription, Word


class MalformedAnswerError(Exception):
    """The body is not a transcription."""


class ReportedError(Exception):
    """The body says that the transcription failed, whatever its status says."""

    def __init__(self, code: str | None) -> None:
        super().__init__("the answer reports an error")
        self.code = code


def read_answer(body: bytes) -> Transcription:
    """Return the transcription in a `json` or `verbose_json` body.

    Raises `MalformedAnswerError` or `ReportedError`. Figures of several segments are means weighted by
    duration.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedAnswerError("the answer is not JSON") from error
    if not isinstance(answer, dict):
        raise MalformedAnswerError("the answer is not an object")
    if answer.get("error"):
        error_body = answer["error"]
        raise ReportedError(_text(error_body.get("code")) if isinstance(error_body, dict) else None)
    text = answer.get("text")
    if not isinstance(text, str):
        raise MalformedAnswerError("the answer has no text")

    segments = _objects(answer.get("segments"))
    words = tuple(_words(_objects(answer.get("words")) or _words_of_segments(segments)))
    average_logprob = _mean(segments, "avg_logprob")
    probabilities = [word.probability for word in words if word.probability is not None]
    confidence = None
    if average_logprob is not None:
        confidence = math.exp(min(0.0, average_logprob))
    elif probabilities:
        confidence = sum(probabilities) / len(probabilities)
    return Transcription(
        text=text.strip(),
        words=words,
        confidence=confidence,
        language=_text(answer.get("language")),
        no_speech_probability=_mean(segments, "no_speech_prob"),
        average_logprob=average_logprob,
        compression_ratio=_mean(segments, "compression_ratio"),
    )


def _words(found: Iterable[dict[str, Any]]) -> Iterable[Word]:
    for word in found:
        text = _text(word.get("word")) or _text(word.get("text")) or ""
        start_s, end_s = _number(word.get("start")), _number(word.get("end"))
        # A word without times cannot be placed; its text is in the whole text.
        if text.strip() and start_s is not None and end_s is not None and 0 <= start_s <= end_s:
            yield Word(text.strip(), start_s, end_s, _probability(word.get("probability")))


def _words_of_segments(segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [word for segment in segments for word in _objects(segment.get("words"))]


def _mean(segments: list[dict[str, Any]], name: str) -> float | None:
    total = weights = 0.0
    for segment in segments:
        value = _number(segment.get(name))
        if value is None:
            continue
        duration_s = (_number(segment.get("end")) or 0.0) - (_number(segment.get("start")) or 0.0)
        # A segment without times still counts, a little.
        weight = max(duration_s, 0.01)
        total += value * weight
        weights += weight
    return total / weights if weights else None


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _probability(value: object) -> float | None:
    number = _number(value)
    return None if number is None else min(1.0, max(0.0, number))
