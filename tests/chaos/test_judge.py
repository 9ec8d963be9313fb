"""The judge finds each kind of wrong, and nothing where all is well."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.judge import Verdict, judge
from tests.chaos.numbered import CHUNK_BYTES, word
from tests.chaos.workload import Ledger

Segment = dict[str, Any]


def segment(index: int, *chunks: int, session: int = 1, **changes: Any) -> Segment:
    text = " ".join(word(session, chunk) for chunk in chunks)
    start, end = (chunks[0] / 10, chunks[-1] / 10 + 0.1) if chunks else (0.0, 0.0)
    base = {"session_id": "mine", "index": index, "revision": 1, "quality": "final", "start": start, "end": end}
    return base | {"text": text} | changes


def ledger(*told: Segment, acked_chunks: int = 6) -> Ledger:
    spoken = [0, 1, 2, 4, 5]
    acks = [(1.0, acked_chunks * CHUNK_BYTES)]
    finished = {"segments": len(told)}
    return Ledger(1, "mine", "meeting", 6, spoken, acks, segments=list(told), finished=finished)


WELL = (segment(0, 0, 1, 2), segment(1, 4, 5))


@pytest.mark.parametrize(
    ("told", "stored", "found"),
    [
        (WELL, WELL, {}),
        (WELL[:1], WELL, {"lost": 2}),
        (WELL, WELL[:1], {"lost": 2}),
        ((WELL[0], segment(1, 2, 4, 5)), WELL, {"duplicated": 1, "disordered": 0}),
        ((*WELL, WELL[1]), WELL, {"duplicated": 2}),
        (WELL, (WELL[0], segment(1, 5, 4)), {"disordered": 1}),
        (WELL, (*WELL, segment(2, 7, session=2)), {"leaked": 1}),
        (WELL, (*WELL, segment(2, 7, session_id="theirs")), {"leaked": 1}),
        ((WELL[0], segment(1, 4, 5, text="hum", quality="draft")), WELL, {"drafted": 2}),
        ((WELL[0], segment(1, 4, 5, text="hum", quality="draft"), segment(1, 4, 5, revision=2)), WELL, {}),
    ],
)
def test_verdict(told: tuple[Segment, ...], stored: tuple[Segment, ...], found: dict[str, int]) -> None:
    assert judge(ledger(*told), stored) == Verdict(acknowledged=5, **found)


def test_where_drafts_should_have_healed_the_database_decides() -> None:
    draft, healed = segment(1, 4, 5, text="hum", quality="draft"), segment(1, 4, 5, revision=2)
    left_early = ledger(WELL[0], draft)
    assert judge(left_early, (WELL[0], healed), healed=True) == Verdict(acknowledged=5)
    assert judge(left_early, (WELL[0], draft), healed=True).drafted == 2
    assert judge(left_early, (WELL[0], segment(1, 4, revision=2)), healed=True).lost == 1
    assert judge(left_early, (WELL[0], segment(1, 4, 4, 5, revision=2)), healed=True).duplicated == 1


def test_what_was_not_acknowledged_is_not_missed() -> None:
    assert judge(ledger(WELL[0], acked_chunks=4), WELL[:1]) == Verdict(acknowledged=3)


def test_session_without_accounts_has_failed() -> None:
    broken = ledger(*WELL)
    broken.finished = None
    assert not judge(broken, WELL).clean


def test_longest_pause_is_the_one_around_the_fault() -> None:
    paced = Ledger(1, acks=[(0.0, 1), (1.0, 2), (5.0, 3), (5.2, 4), (9.0, 5)])
    assert paced.longest_pause_s(2.0, 5.1) == 4.0
    assert paced.longest_pause_s(0.5, 0.9) == 1.0
