"""A transcript that is longer than a model can read at once: cut into pieces between segments, minutes put together.

Both are pure and give the same for the same input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import orjson

from services.insights.minutes import ActionItem, Minutes, Point, Transcript

# No tokenizer is the right one for every model. Three bytes of UTF-8 are at least one token for English (about four
# characters), for other alphabets (about two bytes a character) and for Chinese (three bytes a character).
_BYTES_PER_TOKEN = 3
_POINTS_MAX = 100
_SUMMARY_CHARS_MAX = 5000

P = TypeVar("P", bound=Point | ActionItem)


@dataclass(frozen=True, slots=True)
class Line:
    """What one segment says, or a part of that. `number` is the segment's place in the transcript, from 1."""

    number: int
    speaker: str
    text: str

    def cost(self) -> int:
        """Return its bytes in a question."""
        return len(orjson.dumps({"n": self.number, "speaker": self.speaker, "text": self.text})) + 1


def tokens(text: bytes) -> int:
    """Return at least as many tokens as a model counts."""
    return -(-len(text) // _BYTES_PER_TOKEN)


def pieces(transcript: Transcript, *, tokens_max: int) -> list[list[Line]]:
    """Cut a transcript into pieces of at most so many tokens, in order; nothing is left out.

    The pieces are about equally long, so that the last one is not a mere rest. A segment that is longer than a piece is
    cut between words, or if need be within one.
    """
    bytes_max = tokens_max * _BYTES_PER_TOKEN
    lines = [
        line
        for number, segment in enumerate(transcript.segments, 1)
        for line in _lines(Line(number, segment.speaker[:200], segment.text), bytes_max)
    ]
    costs = [line.cost() for line in lines]
    if not costs:
        return []
    share = -(-sum(costs) // -(-sum(costs) // bytes_max))
    # Each piece gets at least its share, for the line that would go beyond it has room.
    return _filled(lines, min(bytes_max, share + max(costs)))


def _filled(lines: Sequence[Line], bytes_max: int) -> list[list[Line]]:
    found: list[list[Line]] = []
    room = 0
    for line in lines:
        cost = line.cost()
        if not found or cost > room:
            found.append([])
            room = bytes_max
        found[-1].append(line)
        room -= cost
    return found


def _lines(line: Line, bytes_max: int) -> list[Line]:
    if line.cost() <= bytes_max:
        return [line]
    # A character is at most six bytes in JSON (\\u0000).
    chars = max(1, (bytes_max - replace(line, text="").cost()) // 6)
    parts, text = [], line.text
    while text:
        cut = len(text) if len(text) <= chars else (text.rfind(" ", 1, chars) + 1 or chars)
        parts.append(replace(line, text=text[:cut]))
        text = text[cut:]
    return parts


def together(parts: Sequence[Minutes], place: Callable[[str], int]) -> Minutes:
    """Put the minutes of a transcript's pieces together. `place` tells where in it a segment is, by its id.

    Summaries follow each other. Points stand in the order of what they rest on; the same point twice is one that rests
    on both. Of too many, each piece keeps its first ones. Raises ValueError without parts.
    """
    first, *rest = parts
    if not rest:
        return first
    summary = " ".join(part.summary for part in parts)
    if len(summary) > _SUMMARY_CHARS_MAX:
        share = _SUMMARY_CHARS_MAX // len(parts) - 1
        summary = " ".join(_sentences(part.summary, share) for part in parts)
    return replace(
        first,
        summary=summary,
        key_points=_merged([part.key_points for part in parts], place),
        decisions=_merged([part.decisions for part in parts], place),
        action_items=_merged([part.action_items for part in parts], place),
    )


def _merged(parts: Sequence[Sequence[P]], place: Callable[[str], int]) -> tuple[P, ...]:
    known: dict[tuple[object, ...], P] = {}
    each = max(1, _POINTS_MAX // len(parts))
    most = _POINTS_MAX if sum(map(len, parts)) <= _POINTS_MAX else each
    for part in parts:
        for point in part[:most]:
            key = _same(point)
            before = known.get(key)
            ids = (*before.segment_ids, *point.segment_ids) if before is not None else point.segment_ids
            known[key] = replace(before or point, segment_ids=tuple(dict.fromkeys(ids)))
    return tuple(sorted(known.values(), key=lambda point: min(map(place, point.segment_ids), default=0)))


def _same(point: Point | ActionItem) -> tuple[object, ...]:
    words = tuple(re.findall(r"\w+", point.text.casefold()))
    return (words, point.assignee.casefold(), point.due) if isinstance(point, ActionItem) else (words,)


def _sentences(text: str, chars_max: int) -> str:
    """Return as many whole sentences from the beginning as have room."""
    if len(text) <= chars_max:
        return text
    end = max(text.rfind(mark, 0, chars_max) for mark in ".!?。")
    return text[: end + 1] if end > 0 else text[:chars_max]
