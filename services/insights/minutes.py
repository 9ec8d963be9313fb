"""What minutes are, and how they are drawn from a transcript without a language model.

The extractive method invents nothing: every text it returns is the speakers' own words, tidied.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from services.insights.decisions import find_decisions
from services.insights.ranking import rank
from services.insights.sentences import Segment, Sentence, readable, sentences_of
from services.insights.tasks import find_tasks

FINAL = "final"
DRAFT = "draft"
ENGINE = "extractive"

_KEY_POINTS_MAX = 5
_DECISIONS_MAX = 50
_TASKS_MAX = 100


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said, in order. `day` is the day on which it was; `language` a BCP 47 tag, empty if not known."""

    language: str
    day: date | None
    participants: tuple[str, ...]
    segments: tuple[Segment, ...]
    healing: bool = False
    """Whether some of it will be heard again, and may read otherwise then."""

    @property
    def english(self) -> bool:
        return self.language.lower().split("-")[0] in {"", "en", "auto"}


@dataclass(frozen=True, slots=True)
class Point:
    """A sentence and the segments that it rests on."""

    text: str
    segment_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActionItem:
    """Who (empty if nobody was named) does what until which day."""

    text: str
    assignee: str
    due: date | None
    segment_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Minutes:
    """The minutes of a meeting. `engine` says who wrote them. `quality` is `draft` if they will be made again: by a
    language model, or when the transcript has healed; else `final`."""

    summary: str
    key_points: tuple[Point, ...]
    decisions: tuple[Point, ...]
    action_items: tuple[ActionItem, ...]
    quality: str
    engine: str


def extract(transcript: Transcript) -> Minutes:
    """Return draft minutes. In languages other than English decisions and tasks are not looked for.

    Takes time in proportion to the length of the transcript (about 0.2 s for an hour of speech).
    """
    sentences = sentences_of(transcript.segments)
    names = _names(transcript)
    found = find_decisions(sentences) if transcript.english else ()
    decided = {position for position, _ in found}
    tasks = (find_tasks(sentences, day=transcript.day, names=names, decided=decided) if transcript.english else ())[
        :_TASKS_MAX
    ]
    assigned = {task.sentence for task in tasks}

    names |= {task.assignee.lower(): task.assignee for task in tasks if task.assignee and " " not in task.assignee}

    order = rank(sentences, favoured=decided)
    # Tasks stand below; a summary repeats them only where nothing else was said.
    order = [position for position in order if position not in assigned] or order
    summary = sorted(order[: _summary_length(len(sentences))])
    rest = [position for position in order if position not in {*summary, *decided}]
    points = sorted(rest[:_KEY_POINTS_MAX])
    return Minutes(
        summary=" ".join(readable(sentences[position].text, names) for position in summary),
        key_points=tuple(_point(sentences[position], names) for position in points),
        decisions=tuple(
            Point(readable(text, names), sentences[position].segment_ids) for position, text in found[:_DECISIONS_MAX]
        ),
        action_items=tuple(
            ActionItem(task.text, task.assignee, task.due, sentences[task.sentence].segment_ids) for task in tasks
        ),
        quality=DRAFT,
        engine=ENGINE,
    )


def _summary_length(sentences: int) -> int:
    if sentences < 5:
        return min(sentences, 2)
    return 3 if sentences < 40 else 4


def _point(sentence: Sentence, names: dict[str, str]) -> Point:
    return Point(readable(sentence.text, names), sentence.segment_ids)


def _names(transcript: Transcript) -> dict[str, str]:
    """Return the names of those who take part, whole and first ones, by their lower-case form."""
    spoken = (*transcript.participants, *(segment.speaker for segment in transcript.segments))
    names: dict[str, str] = {}
    for name in dict.fromkeys(name.strip() for name in spoken):
        if name and not any(sign.isdigit() or sign in "@/:_" for sign in name):  # "Speaker 1" is nobody's name
            names[name.lower()] = name
            names.setdefault(name.lower().split()[0], name.split()[0])
    return names
