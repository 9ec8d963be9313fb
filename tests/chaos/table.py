"""The page that tells what the rows came to. It holds nothing but what was measured, and how to measure it again."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chaos.faults import Row
from tests.chaos.judge import Verdict
from tests.chaos.scene import Result

_HEAD = """# Faults

What was lost, doubled or mixed up when things broke: nothing but measured figures. Made by

    make chaos SEED={seed}{rows}

Several gateways, transcribers and meetings services run as real processes with Postgres, NATS and Redis; sessions speak
through the public API and the client of `sdk/`, several times faster than real time. Each 100 ms of their audio says
its session and number, and the speech engine is a server that hears exactly those (`tests/chaos/numbered.py`), so the
accounts are comparisons of sets: *lost* was acknowledged and is in no final segment, *doubled* is in two, *leaked* is
in another session's. Both what the clients were told and what the database holds is judged; the worse counts. *Drafted*
was transcribed by the embedded engine, which hears no numbers: covered, not lost; where drafts heal, what is drafted in
the end. *Failed* sessions ended without accounts.

*Pause* is the longest time between two advances of a session's acknowledged offset around a fault, reconnects and the
fault's own length included; p50 and max are over the sessions and faults where it was above 0.5 s. *REST* counts calls
that failed, each tried once.

*Control* is the same row with one defence left out (`tests/chaos/without`): it must go wrong, or the row proves
nothing.

| row | fault | sessions | faults | reconnects | chunks | lost | doubled | leaked | disordered | drafted | failed | \
pause p50 / max s | REST failed | control |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Outcome:
    """A row, its result, and that of its negative control."""

    row: Row
    result: Result
    control: Result | None

    @property
    def good(self) -> bool:
        """Whether the row holds and its control was noticed."""
        noticed = self.result.pauses or self.result.reconnects
        quiet = not (self.row.unnoticed and noticed)
        return self.result.verdict.clean and quiet and (self.control is None or not self.control.verdict.clean)


def page(outcomes: list[Outcome], seed: int, rows: str) -> str:
    """Return the whole page."""
    total = Verdict()
    for outcome in outcomes:
        total.add(outcome.result.verdict)
    rows_given = f" ROWS={rows}" if rows else ""
    lines = [_row(outcome) for outcome in outcomes]
    chunks = f"{total.acknowledged:,}"
    end = (
        f"\nTogether: {chunks} acknowledged chunks with speech, {total.lost} lost, {total.duplicated} doubled, "
        f"{total.leaked} leaked, {total.disordered} disordered, {total.drafted} drafted, "
        f"{total.failed} failed sessions."
    )
    if not total.lost and total.acknowledged:
        end += f" (None in n bounds the rate below {3 / total.acknowledged:.1e} at 95 % confidence.)"
    return _HEAD.format(seed=seed, rows=rows_given) + "\n".join(lines) + "\n" + end + "\n"


def summary(row: Row, result: Result) -> str:
    """Return a result in one line, for the console."""
    verdict = result.verdict
    failures = f" · {'; '.join(result.failures[:3])}" if result.failures else ""
    return (
        f"{row.key:>4} {row.fault}: {verdict.acknowledged} chunks, lost {verdict.lost}, doubled {verdict.duplicated}, "
        f"leaked {verdict.leaked}, disordered {verdict.disordered}, drafted {verdict.drafted}, "
        f"failed {verdict.failed}, "
        f"pause {result.pause_p50:.1f}/{result.pause_max:.1f} s, reconnects {result.reconnects}, "
        f"REST {result.failed_calls}/{result.calls}, took {result.seconds:.0f} s{failures}"
    )


def _row(outcome: Outcome) -> str:
    row, result, verdict = outcome.row, outcome.result, outcome.result.verdict
    cells = (
        row.key,
        row.fault,
        result.sessions,
        result.faults,
        result.reconnects,
        verdict.acknowledged,
        verdict.lost,
        verdict.duplicated,
        verdict.leaked,
        verdict.disordered,
        verdict.drafted,
        verdict.failed,
        f"{result.pause_p50:.1f} / {result.pause_max:.1f}",
        f"{result.failed_calls} of {result.calls}",
        _control(outcome),
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _control(outcome: Outcome) -> str:
    if outcome.control is None:
        return "–"
    verdict = outcome.control.verdict
    if verdict.clean:
        return f"without {outcome.row.without}: **not noticed**"
    found = {
        "lost": verdict.lost,
        "doubled": verdict.duplicated,
        "leaked": verdict.leaked,
        "disordered": verdict.disordered,
        "failed sessions": verdict.failed,
        "not healed": verdict.unhealed,
    }
    return f"without {outcome.row.without}: " + ", ".join(f"{count} {name}" for name, count in found.items() if count)
