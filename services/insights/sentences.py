"""From segments to sentences: with punctuation where the engine gives it, by utterance where it does not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.insights.vocabulary import CONTINUING, DANGLING, PROPER

_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+")
_TERMINAL = re.compile(r"[.!?…][\"')\]]*$")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_UNSAID = re.compile(r"\b(?:decided|agreed)(?:\s+(?:that|to|on))?$", re.IGNORECASE)
_CUT_GAP_S = 2.0
_WORDS_MAX = 60
_WORD_CHARS_MAX = 40
# "may" and "march" are verbs more often than months.
_MONTH_NOT_VERB = re.compile(r"\b(of|in|until|till|next|last)\s+(may|march)\b")
_FILLERS = re.compile(
    r"^(?:(?:uh|um|uhm|er|erm|hmm|yes|yeah|well|so|okay|ok|right|and|but|then|now)[,\s]+)+", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the transcript. Times in seconds from the start of the meeting."""

    id: str
    speaker: str
    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """What one person said in one go, and the segments that it comes from."""

    text: str
    speaker: str
    segment_ids: tuple[str, ...]
    start_s: float
    end_s: float

    @property
    def question(self) -> bool:
        return self.text.rstrip("\"')]").endswith("?")


def words_of(text: str) -> list[str]:
    """Return the words in lower case, apostrophes made plain."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def word_before(text: str, position: int) -> str:
    """Return the word in front of a position, in lower case; empty if there is none."""
    return (words_of(text[max(0, position - _WORD_CHARS_MAX) : position]) or [""])[-1]


def sentences_of(segments: Sequence[Segment]) -> list[Sentence]:
    """Return the sentences in order. Pieces of one sentence in following segments of a speaker are put together."""
    done: list[Sentence] = []
    for segment in segments:
        text = " ".join(segment.text.split())
        for piece in _END.split(text) if text else ():
            sentence = Sentence(piece, segment.speaker, (segment.id,), segment.start_s, segment.end_s)
            if done and _belongs(done[-1], sentence):
                done[-1] = _joined(done[-1], sentence)
            else:
                done.append(sentence)
    return done


def _belongs(before: Sentence, after: Sentence) -> bool:
    if before.speaker != after.speaker or before.segment_ids[-1] == after.segment_ids[0]:
        return False
    if _TERMINAL.search(before.text) or after.start_s - before.end_s > _CUT_GAP_S:
        return False
    left, right = words_of(before.text), words_of(after.text)
    if not left or not right or len(left) + len(right) > _WORDS_MAX:
        return False
    # An engine that punctuates has told us that the sentence goes on; the other one has not, so only clear cases.
    punctuates = _TERMINAL.search(after.text) is not None and after.text[:1].islower()
    cut = left[-1] in DANGLING or right[0] in CONTINUING or _UNSAID.search(before.text) is not None
    return punctuates or cut


def _joined(before: Sentence, after: Sentence) -> Sentence:
    ids = tuple(dict.fromkeys((*before.segment_ids, *after.segment_ids)))
    return Sentence(f"{before.text} {after.text}", before.speaker, ids, before.start_s, after.end_s)


def readable(text: str, names: Mapping[str, str]) -> str:
    """Return the text as a sentence: no leading filler, names and days capitalised, a full stop at the end."""
    text = _FILLERS.sub("", text.strip()) or text.strip()
    text = _WORD.sub(lambda match: _cased(match.group(), names), text)
    text = _MONTH_NOT_VERB.sub(lambda match: f"{match[1]} {match[2].capitalize()}", text)
    text = text[:1].upper() + text[1:]
    text = text.rstrip(" ,;:-")
    return text if not text or _TERMINAL.search(text) else f"{text}."


def _cased(word: str, names: Mapping[str, str]) -> str:
    if not word.islower():
        return word
    if word in names:
        return names[word]
    if word == "i" or word.replace("’", "'") in {"i'm", "i'll", "i've", "i'd"} or word in PROPER:
        return word[:1].upper() + word[1:]
    return word
