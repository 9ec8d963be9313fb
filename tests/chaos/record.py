"""What was measured, kept between runs: a run of some rows replaces these and leaves the others."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from dev.settings import ROOT
from tests.chaos.rows import ROWS, Row
from tests.chaos.scene import Result

# Acknowledgements come every 200 ms; on a busy machine some come late without any fault.
UNNOTICED_S = 1.5


@dataclass(frozen=True)
class Figures:
    """One play of a row, as the table tells it."""

    sessions: int
    faults: int
    reconnects: int
    acknowledged: int
    lost: int
    duplicated: int
    leaked: int
    disordered: int
    drafted: int
    failed: int
    interrupted: int
    pause_p50_s: float
    pause_p95_s: float
    pause_max_s: float
    calls: int
    calls_failed: int
    memory_growth_mib: float
    seconds: float
    breaches: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    played: bool = True
    """Whether there was a platform to play on: that none came up proves nothing."""

    @property
    def clean(self) -> bool:
        return not self.wrong

    @property
    def wrong(self) -> list[str]:
        """Say all that went wrong."""
        return [f"{count} {name}" for name, count in self.faulty.items()] + self.breaches

    @property
    def faulty(self) -> dict[str, int]:
        """What went wrong, in the table's words."""
        counts = {
            "lost": self.lost,
            "doubled": self.duplicated,
            "leaked": self.leaked,
            "disordered": self.disordered,
            "failed sessions": self.failed,
        }
        return {name: count for name, count in counts.items() if count}


def broken(fault: Exception, *, played: bool = True) -> Figures:
    """Return the figures of a row that could not be played to its end."""
    # Where a log was on this machine helps nobody who reads the page.
    words = str(fault).partition("; its log is ")[0]
    told = f"the row could not be played to its end: {type(fault).__name__}: {words}"
    return Figures(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0.0, 0.0, breaches=[told], played=played)


def figures(row: Row, result: Result, memory_growth_bytes: int = 0) -> Figures:
    """Return the figures of a result, and what the row promises and it breaks."""
    verdict = result.verdict
    breaches = list(result.breaches)
    if row.pause_s_max is not None and result.pause_max > row.pause_s_max:
        breaches.append(f"a pause of {result.pause_max:.1f} s, more than {row.pause_s_max:g} s")
    if row.pause_s_p95 is not None and result.pause_p95 > row.pause_s_p95:
        breaches.append(f"pauses of {result.pause_p95:.1f} s (p95), more than {row.pause_s_p95:g} s")
    if row.rest_perfect and result.callers.failed:
        breaches.append(f"{result.callers.failed} of {result.callers.calls} REST calls failed")
    if row.unnoticed and (result.reconnects or result.pause_max > UNNOTICED_S):
        breaches.append(f"noticed by clients: {result.reconnects} reconnects, a pause of {result.pause_max:.1f} s")
    if row.heals and verdict.drafted:
        breaches.append(f"{verdict.drafted} chunks are in drafts that should have healed")
    return Figures(
        sessions=result.sessions,
        faults=result.faults,
        reconnects=result.reconnects,
        acknowledged=verdict.acknowledged,
        lost=verdict.lost,
        duplicated=verdict.duplicated,
        leaked=verdict.leaked,
        disordered=verdict.disordered,
        drafted=verdict.drafted,
        failed=verdict.failed,
        interrupted=len(result.pauses),
        pause_p50_s=round(result.pause_p50, 2),
        pause_p95_s=round(result.pause_p95, 2),
        pause_max_s=round(result.pause_max, 2),
        calls=result.callers.calls,
        calls_failed=result.callers.failed,
        memory_growth_mib=round(memory_growth_bytes / 2**20, 1),
        seconds=round(result.seconds, 1),
        breaches=breaches,
        notes=list(result.notes),
    )


@dataclass(frozen=True)
class Entry:
    """A row as it was played last. `control` is None where it has none; `skipped` says why it was not played."""

    key: str
    fault: str
    seed: int
    commit: str
    played_at: str
    figures: Figures | None = None
    lacks: str = ""
    control: Figures | None = None
    skipped: str = ""

    @property
    def good(self) -> bool:
        """Whether the row holds and its control was noticed."""
        if self.figures is None:
            return bool(self.skipped)
        return self.figures.clean and (self.control is None or (self.control.played and not self.control.clean))


class Record:
    """All entries, in the rows' order, in a file that is written after each row."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        if path is not None and path.exists():
            for raw in orjson.loads(path.read_bytes())["rows"]:
                self._entries[raw["key"]] = _entry(raw)

    def __iter__(self) -> Iterator[Entry]:
        return (self._entries[row.key] for row in ROWS if row.key in self._entries)

    def put(self, entry: Entry) -> None:
        """Keep an entry in place of the one before."""
        self._entries[entry.key] = entry
        if self._path is not None:
            text = orjson.dumps({"rows": [asdict(one) for one in self]}, option=orjson.OPT_INDENT_2)
            aside = self._path.with_suffix(".new")
            aside.write_bytes(text + b"\n")
            aside.replace(self._path)


def entry_of(row: Row, seed: int, **played: Any) -> Entry:
    """Return an entry that says which code was played, and when."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Entry(row.key, row.fault, seed, done.stdout.strip(), now, **played)


def _entry(raw: dict[str, Any]) -> Entry:
    for part in ("figures", "control"):
        raw[part] = Figures(**raw[part]) if raw[part] else None
    return Entry(**raw)
