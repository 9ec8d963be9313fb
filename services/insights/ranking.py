"""Which sentences say most of what was said.

Centroid-based ranking (Radev et al., "Centroid-based summarization of multiple documents", 2004) with a penalty for
what was said already (Carbonell and Goldstein, "The use of MMR", 1998). Linear in the number of sentences, where
TextRank is quadratic.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from services.insights.sentences import Sentence, words_of
from services.insights.vocabulary import ASKING, PHATIC, POINTING, STOP

_CANDIDATES = 40
_CHOSEN_MAX = 20
_REPETITION = 0.6
_FAVOUR = 2.0
_WORDS_GOOD = range(6, 31)


def rank(sentences: Sequence[Sentence], *, favoured: Collection[int]) -> list[int]:
    """Return positions of sentences, the most informative first and no two that say the same; at most 20."""
    words = [[word for word in words_of(s.text) if word not in STOP] for s in sentences]
    spread = Counter(word for sentence in words for word in set(sentence))
    count = len(sentences)
    vectors = [
        {word: n * math.log(1.0 + count / spread[word]) for word, n in Counter(sentence).items()} for sentence in words
    ]
    centroid: defaultdict[str, float] = defaultdict(float)
    for vector in vectors:
        for word, weight in vector.items():
            # A word of one sentence only is no theme.
            centroid[word] += weight if spread[word] > 1 else weight * 0.5
    scores = [
        _cosine(vector, centroid) * _worth(sentence, position, count) * (_FAVOUR if position in favoured else 1.0)
        for position, (vector, sentence) in enumerate(zip(vectors, sentences, strict=True))
    ]
    candidates = sorted((p for p in range(count) if scores[p] > 0.0), key=lambda p: (-scores[p], p))[:_CANDIDATES]
    chosen: list[int] = []
    while candidates and len(chosen) < _CHOSEN_MAX:
        best = max(candidates, key=lambda p: (scores[p] * (1 - _REPETITION * _closest(vectors, p, chosen)), -p))
        candidates.remove(best)
        if _closest(vectors, best, chosen) < 0.9:
            chosen.append(best)
    return chosen


def _worth(sentence: Sentence, position: int, count: int) -> float:
    words = words_of(sentence.text)
    worth = 1.0 if len(words) in _WORDS_GOOD else 0.35
    if sentence.question or (words[:1] and words[0] in ASKING):
        worth *= 0.3
    if words[:1] and words[0] in POINTING:
        worth *= 0.6
    if PHATIC & set(words):
        worth *= 0.3
    # What a meeting is about is said near its beginning, what it came to near its end.
    if count > 4 and (position < count * 0.15 or position >= count * 0.85):
        worth *= 1.1
    return worth


def _closest(vectors: Sequence[dict[str, float]], position: int, chosen: Sequence[int]) -> float:
    return max((_cosine(vectors[position], vectors[other]) for other in chosen), default=0.0)


def _cosine(left: Mapping[str, float], right: Mapping[str, float]) -> float:
    product = sum(weight * right.get(word, 0.0) for word, weight in left.items())
    if product == 0.0:
        return 0.0
    return product / (math.hypot(*left.values()) * math.hypot(*right.values()))
