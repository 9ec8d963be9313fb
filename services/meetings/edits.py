"""What people write into transcripts: it stands, and what was heard is kept beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.meetings.checks import Checks
from services.meetings.meetings import NAME_LONGEST, Segment

TEXT, SPEAKER = "text", "speaker"
TEXT_LONGEST = 10_000


@dataclass(frozen=True, slots=True)
class SegmentChange:
    """What a person changes of a segment; None leaves as it is, what is given back becomes what was heard."""

    text: str | None
    speaker: str | None
    given_back: frozenset[str]


@dataclass(frozen=True, slots=True)
class Renaming:
    """Another name for a speaker as it is shown (empty: whoever has none)."""

    speaker: str
    name: str


def segment_change(text: str | None, speaker: str | None, given_back: Sequence[str]) -> SegmentChange:
    """Check a change. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    change = SegmentChange(
        None if text is None else checks.line(TEXT, text, longest=TEXT_LONGEST, required=True),
        None if speaker is None else checks.line(SPEAKER, speaker, longest=NAME_LONGEST, required=True),
        frozenset(checks.choice("given_back", field, (TEXT, SPEAKER)) for field in given_back),
    )
    checks.done()
    return change


def renaming(speaker: str, name: str) -> Renaming:
    """Check a new name. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    wanted = Renaming(speaker, checks.line("name", name, longest=NAME_LONGEST, required=True))
    checks.done()
    return wanted


def written(segment: Segment, change: SegmentChange, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the columns of a segment after a change; `names` are those of speakers by what is heard of them."""
    heard_text = segment.text if segment.heard_text is None else segment.heard_text
    heard_speaker = segment.speaker if segment.heard_speaker is None else segment.heard_speaker
    said = {TEXT: change.text, SPEAKER: change.speaker}
    edited = {*segment.edited, *(field for field, words in said.items() if words is not None)} - change.given_back
    shown = {
        TEXT: heard_text if TEXT in change.given_back else segment.text if change.text is None else change.text,
        SPEAKER: segment.speaker if change.speaker is None else change.speaker,
    }
    if SPEAKER in change.given_back:
        shown[SPEAKER] = names.get(heard_speaker, heard_speaker)
    return shown | {
        "edited": sorted(edited),
        "heard_text": heard_text if TEXT in edited else None,
        "heard_speaker": heard_speaker if SPEAKER in edited or shown[SPEAKER] != heard_speaker else None,
    }
