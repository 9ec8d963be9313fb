"""What a language model answers, as far as it can be believed.

An answer is as hostile as whoever spoke in the meeting may be: only the shape that was asked for is read, markup and
control characters go, lengths are bounded, and a point that rests on no segment of the transcript is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from chassis.plaintext import plain
from services.insights import metrics
from services.insights.minutes import FINAL, ActionItem, Minutes, Point

_ITEMS_MAX = 100
_TEXT_CHARS_MAX = 1000
_SUMMARY_CHARS_MAX = 5000
_ASSIGNEE_CHARS_MAX = 100


class UnusableAnswer(ValueError):
    """It is not what was asked for. The text says how, without a word of the answer."""


class _Point(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    text: str
    segments: list[int]


class _Item(_Point):
    assignee: str
    due: str


class _Answer(BaseModel):
    """The answer's shape. Lengths are checked apart: not every server knows them in a schema."""

    model_config = ConfigDict(extra="forbid", strict=True)
    summary: str
    key_points: list[_Point]
    decisions: list[_Point]
    action_items: list[_Item]


SCHEMA = _Answer.model_json_schema()

P = TypeVar("P", bound=_Point)


def minutes_of(content: str, segment_ids: Mapping[int, str], engine: str) -> Minutes:
    """Return an answer as minutes. `segment_ids` are those of the question, by number. Raises UnusableAnswer."""
    try:
        answer = _Answer.model_validate_json(content)
        return Minutes(
            summary=_text(answer.summary, _SUMMARY_CHARS_MAX),
            key_points=_points(answer.key_points, segment_ids),
            decisions=_points(answer.decisions, segment_ids),
            action_items=tuple(
                ActionItem(
                    _text(item.text),
                    _text(item.assignee, _ASSIGNEE_CHARS_MAX) if plain(item.assignee) else "",
                    date.fromisoformat(item.due) if item.due else None,
                    cited,
                )
                for item, cited in _resting(answer.action_items, segment_ids)
            ),
            quality=FINAL,
            engine=engine,
        )
    except ValidationError as fault:
        raise UnusableAnswer(f"{fault.error_count()} faults in its shape") from None
    except UnusableAnswer:
        raise
    except ValueError:
        raise UnusableAnswer("a day that cannot be") from None


def _points(points: Sequence[_Point], segment_ids: Mapping[int, str]) -> tuple[Point, ...]:
    return tuple(Point(_text(point.text), cited) for point, cited in _resting(points, segment_ids))


def _resting(items: Sequence[P], segment_ids: Mapping[int, str]) -> list[tuple[P, tuple[str, ...]]]:
    """Return items with the segments that they rest on; one that rests on none is not returned."""
    if len(items) > _ITEMS_MAX:
        raise UnusableAnswer("too many points")
    found = []
    for item in items:
        cited = tuple(dict.fromkeys(segment_ids[number] for number in item.segments if number in segment_ids))
        if cited:
            found.append((item, cited))
        else:
            metrics.POINTS_DROPPED.inc()
    return found


def _text(text: str, chars_max: int = _TEXT_CHARS_MAX) -> str:
    # A screen does not show characters of no width, zero-width joiners of scripts that need them among them.
    text = plain("".join(sign if sign.isprintable() or sign in "\u200c\u200d" else " " for sign in plain(text)))
    if not 0 < len(text) <= chars_max:
        raise UnusableAnswer("a text that is empty or too long")
    return text
