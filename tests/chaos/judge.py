"""Compare what was promised with what is there: exact, by the numbers in the audio. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from tests.chaos.numbered import CHUNK_BYTES, numbers
from tests.chaos.workload import Ledger

Segment = dict[str, Any]


@dataclass
class Verdict:
    """Chunks, summed over sessions. `drafted` were transcribed by an engine that hears no numbers, and are covered;
    `disordered` is how often a number is followed by a smaller one; `failed` counts sessions without accounts."""

    acknowledged: int = 0
    lost: int = 0
    duplicated: int = 0
    leaked: int = 0
    disordered: int = 0
    drafted: int = 0
    failed: int = 0

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.leaked or self.disordered or self.failed)

    def add(self, other: Verdict) -> None:
        """Sum up."""
        for name in (one.name for one in fields(self)):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def judge(ledger: Ledger, stored: Sequence[Segment], *, healed: bool = False) -> Verdict:
    """Return the worse of both views of a session: the events that its client saw, and what the database holds.

    Where drafts were given time to heal (`healed`), only those that the database still holds count as drafted: the
    client may have left before.

    `stored` are the segments of its meeting, in the database's order. A segment event that repeats an index with the
    same revision is a duplicate, also when its text is the same.
    """
    told = _judge_view(ledger, _newest(ledger.segments))
    told.duplicated += _repeats(ledger.segments)
    kept = _judge_view(ledger, [row for row in stored if row["session_id"] == ledger.session_id])
    kept.leaked += sum(row["session_id"] != ledger.session_id for row in stored)
    worse = Verdict(
        **{one.name: max(getattr(told, one.name), getattr(kept, one.name)) for one in fields(Verdict)},
    )
    worse.failed = int(ledger.finished is None)
    if healed:
        worse.drafted = kept.drafted
    return worse


def _judge_view(ledger: Ledger, segments: Iterable[Segment]) -> Verdict:
    promised = ledger.acknowledged
    heard: list[int] = []
    leaked = 0
    drafts: list[tuple[float, float]] = []
    for segment in segments:
        if segment["quality"] == "draft":
            drafts.append((segment["start"], segment["end"]))
        for session, chunk in numbers(segment["text"]):
            if session == ledger.number:
                heard.append(chunk)
            else:
                leaked += 1
    counts = Counter(heard)
    missing = [chunk for chunk in promised if chunk not in counts]
    drafted = sum(any(start <= _centre_s(chunk) < end for start, end in drafts) for chunk in missing)
    return Verdict(
        acknowledged=len(promised),
        lost=len(missing) - drafted,
        duplicated=sum(count - 1 for count in counts.values()),
        leaked=leaked,
        disordered=sum(later < earlier for earlier, later in pairwise(heard)),
        drafted=drafted,
    )


def _newest(events: Iterable[Segment]) -> list[Segment]:
    """Return the newest revision of each index, in the order of indexes as they first appeared."""
    rows: dict[int, Segment] = {}
    for event in events:
        if event["index"] not in rows or event["revision"] > rows[event["index"]]["revision"]:
            rows[event["index"]] = event
    return list(rows.values())


def _repeats(events: Iterable[Segment]) -> int:
    """Return how many numbers came again in segment events that repeat an index and revision."""
    seen: set[tuple[int, int]] = set()
    repeated = 0
    for event in events:
        key = (event["index"], event["revision"])
        if key in seen:
            repeated += max(1, len(list(numbers(event["text"]))))
        seen.add(key)
    return repeated


def _centre_s(chunk: int) -> float:
    return (chunk + 0.5) * CHUNK_BYTES / 32_000
