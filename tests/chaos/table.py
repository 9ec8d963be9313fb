"""The page that tells what the rows came to. It holds nothing but what was measured, and how to measure it again."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.record import Entry, Figures
from tests.chaos.rest import AGAIN_SHARE, FDS_MORE, MEMORY_MORE_BYTES, MEMORY_MORE_SHARE, TASKS_MORE

KILLED_TRANSCRIBER = "24a"

_HEAD = f"""# Faults

What was lost, doubled or mixed up when things broke: nothing but measured figures. Made by

    make chaos SEED=1 ROWS=8,24a NEMESIS_S=600

which plays each row and then the controls, and replaces the rows here. Several gateways, transcribers and meetings
services run as real processes with Postgres, NATS and Redis; sessions speak through the public API and the client of
`sdk/`, several times faster than real time. Each 100 ms of their audio says its session and number, and the speech
engine is a server that hears exactly those (`tests/chaos/numbered.py`), so the accounts are comparisons of sets: *lost*
was acknowledged and is in no final segment, *doubled* is in two, *leaked* is in another session's. What the clients
were told and what the database holds is judged; the worse counts. *Drafted* was transcribed by the embedded engine,
which hears no numbers: covered, not lost. *Failed* sessions ended without accounts.

*Pause* is the longest time between two advances of a session's acknowledged offset around a fault, reconnects and the
fault's own length included; p50, p95 and max are over the sessions and faults where it was above 0.5 s. *REST* counts
reads and writes that failed, each tried once by its client. *Memory* is the growth of the process that grew most.

In every row, besides: no REST call fails without a code that says that it may be tried again and when; what was written
over REST is there once; afterwards every process is back at rest (file descriptors within {FDS_MORE}, tasks within
{TASKS_MORE}, memory within {MEMORY_MORE_SHARE:.0%} and {MEMORY_MORE_BYTES >> 20} MiB of what it held before the first
row, or else it is loaded a second time and grows by less than {AGAIN_SHARE:.0%} of that, where a leak would take as
much again); no log tells what was said, a title, a token or a password; every byte that a transcriber received or heard
is in one of its accounts, and no session was closed with segments that were never stored.

*Control* is the same row with one defence left out (`tests/chaos/controls.py`): it must go wrong, or the row proves
nothing.

| row | fault | sessions | faults | reconnects | chunks | lost | doubled | leaked | disordered | drafted | failed | \
pause p50 / p95 / max s | REST failed | memory MiB | control: without … |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def page(entries: Sequence[Entry]) -> str:
    """Return the whole page."""
    lines = [_row(entry) for entry in entries]
    notes = [f"- **{entry.key}**: {note}" for entry in entries for note in _notes(entry)]
    parts = [_HEAD + "\n".join(lines), _total(entries), *_recovery(entries)]
    if notes:
        parts.append("\n".join(notes))
    parts.append(_origin(entries))
    return "\n\n".join(parts) + "\n"


def summary(entry_key: str, fault: str, figures: Figures, failures: Sequence[str]) -> str:
    """Return a result in one line, for the console."""
    told = [*figures.breaches, *failures[:3], *figures.notes]
    return (
        f"{entry_key:>4} {fault}: {figures.acknowledged} chunks, lost {figures.lost}, doubled {figures.duplicated}, "
        f"leaked {figures.leaked}, disordered {figures.disordered}, drafted {figures.drafted}, "
        f"failed {figures.failed}, "
        f"pause {figures.pause_p50_s:.1f}/{figures.pause_p95_s:.1f}/{figures.pause_max_s:.1f} s, "
        f"reconnects {figures.reconnects}, REST {figures.calls_failed}/{figures.calls}, "
        f"memory {figures.memory_growth_mib:+.0f} MiB, took {figures.seconds:.0f} s"
        + "".join(f"\n       · {one}" for one in told)
    )


def _total(entries: Sequence[Entry]) -> str:
    played = [entry.figures for entry in entries if entry.figures is not None]
    chunks = sum(one.acknowledged for one in played)
    lost = sum(one.lost for one in played)
    said = (
        f"Together: {chunks:,} acknowledged chunks with speech, {lost} lost, "
        f"{sum(one.duplicated for one in played)} doubled, {sum(one.leaked for one in played)} leaked, "
        f"{sum(one.disordered for one in played)} disordered, {sum(one.drafted for one in played)} drafted, "
        f"{sum(one.failed for one in played)} failed sessions, "
        f"{sum(len(one.breaches) for one in played)} other breaches."
    )
    if not lost and chunks:
        said += f" (None in n bounds the rate below {3 / chunks:.1e} at 95 % confidence.)"
    return said


def _recovery(entries: Sequence[Entry]) -> list[str]:
    """Say how long a killed transcriber is missed."""
    for entry in entries:
        if entry.key == KILLED_TRANSCRIBER and entry.figures is not None:
            one = entry.figures
            return [
                f"Recovery of a killed transcriber (row {entry.key}), from the last acknowledgement before to the "
                f"first after, over {one.interrupted} sessions that it had: p50 {one.pause_p50_s:.1f} s, p95 "
                f"{one.pause_p95_s:.1f} s, at most {one.pause_max_s:.1f} s."
            ]
    return []


def _origin(entries: Sequence[Entry]) -> str:
    """Say which seed and commit each row is from."""
    by_origin: dict[str, list[str]] = {}
    for entry in entries:
        origin = f"seed {entry.seed}, commit `{entry.commit}`, {entry.played_at[:10]}"
        by_origin.setdefault(origin, []).append(entry.key)
    told = [f"{origin}: {', '.join(keys)}" for origin, keys in by_origin.items()]
    return "Rows as played: " + "; ".join(told) + "."


def _notes(entry: Entry) -> list[str]:
    if entry.skipped:
        return [f"not played: {entry.skipped}"]
    assert entry.figures is not None
    return [*(f"**{breach}**" for breach in entry.figures.breaches), *filter(None, ["; ".join(entry.figures.notes)])]


def _row(entry: Entry) -> str:
    if entry.figures is None:
        return f"| {entry.key} | {entry.fault} | not played |" + " |" * 13
    figures = entry.figures
    cells = (
        entry.key,
        entry.fault,
        figures.sessions,
        figures.faults,
        figures.reconnects,
        figures.acknowledged,
        figures.lost,
        figures.duplicated,
        figures.leaked,
        figures.disordered,
        figures.drafted,
        figures.failed,
        f"{figures.pause_p50_s:.1f} / {figures.pause_p95_s:.1f} / {figures.pause_max_s:.1f}",
        f"{figures.calls_failed} of {figures.calls}",
        f"{figures.memory_growth_mib:+.0f}",
        _control(entry),
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _control(entry: Entry) -> str:
    if entry.control is None:
        return "–"
    if entry.control.clean:
        return f"{entry.lacks}: **not noticed**"
    found = entry.control.wrong[: len(entry.control.faulty) + 2]
    return f"{entry.lacks}: {', '.join(found)}"
