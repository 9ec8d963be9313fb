"""Sentences in which something is decided. English; a verb alone is not enough, it must be ours and done."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.insights.sentences import Sentence, word_before, words_of
from services.insights.vocabulary import UNDECIDED

_WHO = r"(?:we|they|everyone|everybody|the (?:team|board|group|committee|management))"
_ALSO = r"(?:(?:all|have|has|had|also|then|now|just|finally|both|already)\s+|['’]ve\s+)*"
# What a small recogniser makes of "decided" and "agreed" is taken for them.
_DECIDED = (
    r"(?:decided|decide it|decide|the sided|did sided|agreed|a greed|agree|resolved|settled on|voted|chosen?|opted)\b"
    r"(?!\s+(?:if|whether|later|yet|how|when|what|who|which)\b)"
)
_TRIGGERS = (
    re.compile(rf"\b{_WHO}(?:['’]ve)?\s+{_ALSO}{_DECIDED}", re.I),
    re.compile(r"\bwe(?:['’]ll|\s+will|\s+are going to|\s+should)?\s+(?:go|going|went)\s+(?:ahead\s+)?with\b", re.I),
    re.compile(r"\b(?:let['’]?s|let us)\s+(?:go\s+(?:ahead\s+)?with|agree on|settle on|stick (?:with|to))\b", re.I),
    re.compile(r"\bit(?:['’]s| is| was| has been)\s+(?:now\s+)?(?:decided|agreed|settled)\b", re.I),
    re.compile(r"\b(?:the|our|final)\s+(?:final\s+)?decision\s+(?:is|was)\s+(?:that|to|not|made)\b", re.I),
    re.compile(rf"\b{_WHO}\s+{_ALSO}(?:approved?|signed? off(?: on)?|rejected?)\s+(?:the|a|our|this|that|it)\b", re.I),
)  # fmt: skip
_NEAR = 60  # characters
_WORDS_MIN = 3  # after the trigger: "we agreed on that" decides nothing that a reader could use


def find_decisions(sentences: Sequence[Sentence]) -> list[tuple[int, str]]:
    """Return (position of the sentence, text of the decision), at most one for a sentence."""
    found = []
    for position, sentence in enumerate(sentences):
        if sentence.question:
            continue
        start = _start(sentence.text)
        if start is not None:
            found.append((position, sentence.text[start:]))
    return found


def _start(text: str) -> int | None:
    """Return where the decision begins in the text."""
    for trigger in _TRIGGERS:
        for match in trigger.finditer(text):
            before, after = word_before(text, match.start()), words_of(text[match.end() :][:_NEAR])
            said = len(after) >= _WORDS_MIN and after[0] not in {"not", "yet"} | UNDECIDED
            if said and before not in UNDECIDED:
                return match.start()
    return None
