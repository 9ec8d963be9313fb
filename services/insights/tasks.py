"""Sentences in which somebody takes on or is given a task: who, what, until when. English.

A false task costs its reader more trust than a missed one: the verb must be one of doing (send, write, call), or
somebody who takes part must be named together with a deadline.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from services.insights.due import Due, find_due
from services.insights.sentences import Sentence, readable, word_before, words_of
from services.insights.vocabulary import AT_ONCE, BEFORE_SOMEBODY, DOING, LEADING_NOWHERE, NOBODY, PREPOSITIONS, VAGUE

_BODIES = r"(?:team|group|department|office|board|committee|manager|lawyers?|agency|management|engineers?|designers?)"
_MODAL = (
    r"(?:will|shall|should|must|has to|have to|needs to|need to|is going to|are going to|is to|agreed to|promised to)"
)
_LEAD = r"(?:also\s+|then\s+|please\s+|now\s+|probably\s+|go ahead and\s+|make sure to\s+|be sure to\s+|just\s+)*"
_VERB = rf"{_LEAD}(?P<verb>[a-z]+(?:-[a-z]+)?)\b"
_NAME = r"(?P<who>[^\W\d_][\w'’-]*)"

# Each way of saying it. `who` is a name unless the way itself says whom it means.
_SELF = re.compile(
    rf"\b(?:i(?:['’]ll|\s+(?:will|shall|am going to|must|have to|need to|promise to))|i['’]m going to)\s+{_VERB}", re.I
)
_TEAM = re.compile(rf"\bthe\s+(?P<who>(?:[a-z]+\s+)?{_BODIES})\s+{_MODAL}\s+{_VERB}", re.I)
_NAMED = re.compile(
    rf"\b{_NAME}\s*,?\s+(?:(?:could|can|would|will) you\s+(?:please\s+)?|please\s+|{_MODAL}\s+){_VERB}", re.I
)
_NOTED = re.compile(rf"\b{_NAME}\s+to\s+{_VERB}", re.I)
_ASKED = re.compile(rf"\b(?:please|(?:could|can|would) you(?:\s+please)?)\s+{_VERB}", re.I)
_OURS = re.compile(rf"\bwe\s+(?:will|must|have to|need to|should)\s+{_VERB}", re.I)

_PUNCTUATION = " ,;:.!?-"
_MORE_MAX = 6
_WORDS_MAX = 25


@dataclass(frozen=True, slots=True)
class Task:
    """A task, and the position of the sentence that it comes from. `assignee` is empty if nobody is named."""

    sentence: int
    text: str
    assignee: str
    due: date | None


@dataclass(frozen=True, slots=True)
class _Start:
    """Where somebody is given something to do: the subject begins at `at`, the verb at `verb`."""

    at: int
    verb: int
    assignee: str
    known: bool  # takes part in the meeting
    word: str
    way: re.Pattern[str]


def find_tasks(
    sentences: Sequence[Sentence], *, day: date | None, names: Mapping[str, str], decided: Collection[int]
) -> tuple[Task, ...]:
    """Return the tasks in order. `names` are those of the people who take part, by their lower-case form.

    In sentences at the positions `decided`, which are decisions, only what is given to a person counts.
    """
    found: dict[tuple[str, str], Task] = {}
    for position, sentence in enumerate(sentences):
        starts = _starts(sentence, names)
        for number, start in enumerate(starts):
            if position in decided and start.way in {_TEAM, _OURS}:
                continue
            after = starts[number + 1].at if number + 1 < len(starts) else len(sentence.text)
            before = starts[number - 1].verb if number else 0
            task = _task(position, sentence.text, start, (before, after), day, names)
            if task is not None:
                found.setdefault((task.text.lower(), task.assignee.lower()), task)
    return tuple(found.values())


def _starts(sentence: Sentence, names: Mapping[str, str]) -> list[_Start]:
    text = sentence.text
    starts: list[_Start] = []
    taken: set[int] = set()
    for way in (_NAMED, _TEAM, _SELF, _NOTED, _ASKED, _OURS):
        position = 0
        while match := way.search(text, position):
            position = match.start() + 1
            start = _start(way, match, sentence, names)
            if start is not None and start.verb not in taken:
                taken.add(start.verb)
                starts.append(start)
                position = match.end()
    return sorted(starts, key=lambda start: start.at)


def _start(way: re.Pattern[str], match: re.Match[str], sentence: Sentence, names: Mapping[str, str]) -> _Start | None:
    text = sentence.text
    before = word_before(text, match.start())
    if before in BEFORE_SOMEBODY:
        return None
    if sentence.question and not re.search(r"\b(?:can|could|would|will) you\b|please", match.group(), re.I):
        return None
    said = match.groupdict().get("who") or ""
    known = said.lower() in names
    if way is _SELF:
        assignee, known = sentence.speaker, True
    elif way is _TEAM:
        assignee = said[:1].upper() + said[1:]
    elif way in {_ASKED, _OURS}:
        assignee = ""
    else:
        if said.lower() in NOBODY or len(said) < 2 or not (known or _may_be_name(way, said, before)):
            return None
        assignee = names.get(said.lower(), said[:1].upper() + said[1:])
    return _Start(match.start(), match.start("verb"), assignee, known, match["verb"].lower(), way)


def _may_be_name(way: re.Pattern[str], said: str, before: str) -> bool:
    """Say whether a word that nobody here is called may be a name: written as one, or first in what is said."""
    written = said[:1].isupper() and not said.isupper()
    if way is _NOTED and not written and before:  # "the way to write", "in order to send"
        return False
    first = before in {"", "and", "then", "so", "okay", "ok", "that", "today", "tomorrow"}
    return written or first or find_due(f"by {before}", date.min.replace(year=2000)) is not None


def _task(
    position: int, text: str, start: _Start, reach: tuple[int, int], day: date | None, names: Mapping[str, str]
) -> Task | None:
    clause = text[start.verb : reach[1]]
    due = find_due(clause, day)
    ahead = None if due else find_due(text[reach[0] : start.at], day)
    if ahead is not None and text[reach[0] + ahead.end : start.at].strip(" ,"):
        ahead = None  # belongs to something that was said before
    if not _worth(start, due if start.way is _OURS else due or ahead):
        return None
    what = _what(clause, due)
    until = due or ahead
    assignee = start.assignee
    *rest, last = what.split() or [""]
    if not assignee and last.lower() in names:  # "could you review the contract, Peter"
        assignee, what = names[last.lower()], _trimmed(rest)
    if until is None and set(words_of(what)[1:]) <= VAGUE:
        return None
    return Task(position, readable(what, names).rstrip("."), assignee, until.day if until else None)


def _worth(start: _Start, due: Due | None) -> bool:
    doing = start.word in DOING
    if start.way in {_SELF, _ASKED, _OURS} and start.word in AT_ONCE:
        doing = False
    if start.way in {_ASKED, _OURS, _TEAM} or (start.way is _NOTED and not start.known):
        return doing and due is not None
    if start.way is _SELF or start.known:
        return doing or (due is not None and start.word not in {"be", "have", "see", "not", "know", "think"})
    return doing


def _what(clause: str, due: Due | None) -> str:
    """Return the verb and what belongs to it, without the deadline and without the beginning of another thought."""
    if due is not None:
        head, rest = clause[: due.start], clause[due.end :].strip(_PUNCTUATION)
        more = rest.split()
        belongs = len(more) == 1 or (more and more[0].lower() in PREPOSITIONS and len(more) <= _MORE_MAX)
        clause = f"{head} {rest}" if belongs or len(head.split()) < 2 else head
    return _trimmed(clause.split()[:_WORDS_MAX])


def _trimmed(words: list[str]) -> str:
    """Return the words without those at the end that lead nowhere."""
    while words and words[-1].strip(_PUNCTUATION).lower() in {"", *LEADING_NOWHERE}:
        words.pop()
    return " ".join(words).strip(_PUNCTUATION)
