"""Which segments of a session are drafts that wait to be heard again, and where their audio is. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from verbatim.transcript.v1 import transcript_pb2 as pb

TAIL_CHARS = 400
# Of the text behind a cut, what the text before it may end with as well.
_HEAD_WORDS = 5
# Enough to find one that lies before the run-up of an utterance.
_PLACES = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where reading begins to hear what comes from a PCM offset on: a message of the audio log, and how to decode."""

    pcm_offset: int
    audio_sequence: int
    entry_point: pb.EntryPoint | None

    def told(self) -> pb.Checkpoint:
        """Say it as the log does."""
        return pb.Checkpoint(
            end_offset=self.pcm_offset, audio_sequence=self.audio_sequence, entry_point=self.entry_point
        )

    @classmethod
    def of(cls, told: pb.Checkpoint) -> Place:
        """Return a place as it was told."""
        entry_point = told.entry_point if told.HasField("entry_point") else None
        return cls(told.end_offset, told.audio_sequence, entry_point)


@dataclass(slots=True)
class Draft:
    """A segment that is to be heard again; told at a time in seconds since 1970.

    `before` is the end of the text before it, which ends at the PCM offset `before_offset`, and `trusted` if it is no
    draft itself; `after` are the first words of the segment behind it if it was cut off from that in running speech.
    """

    segment: pb.Segment
    place: Place
    before: str
    before_offset: int
    trusted: bool
    told_at: float = 0.0
    after: tuple[str, ...] = ()

    def told(self) -> pb.WaitingDraft:
        """Say all that is known of it."""
        told = pb.WaitingDraft(
            segment=self.segment,
            place=self.place.told(),
            before=self.before,
            before_offset=self.before_offset,
            trusted=self.trusted,
            after=self.after,
        )
        told.told_at.FromMilliseconds(round(1000 * self.told_at))
        return told

    @classmethod
    def of(cls, told: pb.WaitingDraft) -> Draft:
        """Return a draft as it was told."""
        return cls(
            told.segment,
            Place.of(told.place),
            told.before,
            told.before_offset,
            told.trusted,
            told.told_at.ToMilliseconds() / 1000,
            tuple(told.after),
        )

    @property
    def index(self) -> int:
        return self.segment.index

    @property
    def context_offset(self) -> int:
        """Where its audio begins, with what was heard before already."""
        has_context = self.segment.HasField("context_offset")
        return self.segment.context_offset if has_context else self.segment.start_offset


def _first_places() -> deque[Place]:
    return deque([Place(0, 0, None)], maxlen=_PLACES)


@dataclass(slots=True)
class Drafts:
    """The drafts of a session as its log tells them, oldest first."""

    _waiting: dict[int, Draft] = field(default_factory=dict)
    _places: deque[Place] = field(default_factory=_first_places)

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, index: int) -> bool:
        return index in self._waiting

    def __getitem__(self, index: int) -> Draft:
        return self._waiting[index]

    @property
    def indexes(self) -> list[int]:
        """Which segments are drafts, oldest first."""
        return list(self._waiting)

    def oldest_but(self, taken: Container[int]) -> Draft | None:
        """Return the oldest draft that is none of these."""
        return next((draft for index, draft in self._waiting.items() if index not in taken), None)

    def move_to(self, place: Place) -> None:
        """Take note of a place from which what comes next can be heard."""
        if place.pcm_offset > self._places[-1].pcm_offset:
            self._places.append(place)

    def tell(self, segment: pb.Segment, *, told_at: float, before: str, before_offset: int) -> None:
        """Take a segment that is told for the first time, before the checkpoint moves behind it."""
        previous = self._waiting.get(segment.index - 1)
        if segment.quality == pb.QUALITY_DRAFT:
            kept = pb.Segment()
            kept.CopyFrom(segment)
            for heavy in ("words", "text", "suppressed"):
                kept.ClearField(heavy)
            draft = Draft(kept, self._places[0], before, before_offset, previous is None, told_at)
            earlier = (place for place in reversed(self._places) if place.pcm_offset <= draft.context_offset)
            draft.place = next(earlier, draft.place)
            self._waiting[segment.index] = draft
        else:
            self._tell_the_one_before(segment)

    def revise(self, segment: pb.Segment) -> None:
        """Take a segment that replaces an earlier revision."""
        known = self._waiting.get(segment.index)
        if known is None:
            return
        if segment.quality == pb.QUALITY_DRAFT:
            known.segment.revision = segment.revision
            return
        del self._waiting[segment.index]
        if (behind := self._waiting.get(segment.index + 1)) is not None:
            behind.before, behind.trusted = joined(known.before, segment.text), True
        self._tell_the_one_before(segment)

    def _tell_the_one_before(self, segment: pb.Segment) -> None:
        """Where speech was cut in two, what follows may begin with words that the draft before will end with."""
        previous = self._waiting.get(segment.index - 1)
        cut = segment.HasField("context_offset") and segment.context_offset < segment.start_offset
        if previous is not None and cut and previous.segment.end_offset == segment.start_offset:
            previous.after = tuple(segment.text.split()[:_HEAD_WORDS])

    def told(self) -> list[pb.WaitingDraft]:
        """Say all that is known of them, for a log that has to be written again."""
        return [draft.told() for draft in self._waiting.values()]

    def places(self) -> list[pb.Checkpoint]:
        """Say from where what comes next can be heard."""
        return [place.told() for place in self._places]

    @classmethod
    def of(cls, told: pb.Snapshot) -> Drafts:
        """Return what a snapshot tells."""
        waiting = {one.segment.index: Draft.of(one) for one in told.drafts}
        return cls(waiting, deque(map(Place.of, told.places), maxlen=_PLACES))

    def give_up(self, indexes: Iterable[int]) -> None:
        """Wait for these no more."""
        for index in indexes:
            self._waiting.pop(index, None)


def joined(before: str, text: str) -> str:
    """Return the end of a text and what follows it."""
    return " ".join(filter(None, (before, text)))[-TAIL_CHARS:].lstrip()
