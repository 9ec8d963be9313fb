"""Play the rows of the fault matrix against whole processes and write what came of it.

python -m tests.chaos [--seed 1] [--rows 8,24a] [--nemesis-s 600] [--out docs/faults.md] [--without-controls]
    [--patience 1]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from tests.chaos.controls import WHOLE, Control
from tests.chaos.platform import Platform
from tests.chaos.record import Entry, Figures, Record, broken, entry_of, figures
from tests.chaos.rest import Baseline, Logs, holdings, still_growing
from tests.chaos.rows import NEMESIS_S, ROWS, Row, nemesis_row
from tests.chaos.scene import Result, Scene, Script, Stage, play
from tests.chaos.table import page, summary

# A control is known to go wrong: what it waits for in vain need not be waited for long.
CONTROL_PATIENCE = 0.3
WARM_UP_S = 6.0
# Nothing of a control is timed, so they may share the processor.
CONTROLS_AT_ONCE = 2


@dataclass(frozen=True)
class Run:
    """One run of some rows."""

    rows: Sequence[Row]
    seed: int
    folder: Path
    out: Path | None
    nats_server: str | None
    with_controls: bool
    patience: float = 1.0

    async def __call__(self) -> list[Entry]:
        """Play each row, then all controls, and write after each. Rows share a platform; a control has its own."""
        began = time.monotonic()
        record = Record(self.out.with_suffix(".json") if self.out else None)
        found = await self._play_shared([row for row in self.rows if not row.own_platform], record)
        played = []
        for row in self.rows:
            played.append(await self._alone(row, found.get(row.key)))
            self._put(record, played[-1])
        turns = asyncio.Semaphore(CONTROLS_AT_ONCE)
        played = await asyncio.gather(
            *(self._with_control(row, entry, turns, record) for row, entry in zip(self.rows, played, strict=True))
        )
        print(f"took {(time.monotonic() - began) / 60:.0f} minutes", flush=True)
        return played

    async def _play_shared(self, rows: Sequence[Row], record: Record) -> dict[str, Figures]:
        found: dict[str, Figures] = {}
        pending = list(rows)
        while pending:
            async with self._stage(f"shared-{len(pending)}", pending[0]) as stage:
                whole = True
                while pending and whole:
                    row = pending.pop(0)
                    found[row.key], whole = await self._play(stage, row)
                    self._put(record, entry_of(row, self.seed, figures=found[row.key]))
        return found

    async def _alone(self, row: Row, figures: Figures | None) -> Entry:
        """Play a row that has a platform of its own, if it was not played on the shared one."""
        if reason := row.impossible():
            print(f"{row.key:>4} {row.fault}: not played: {reason}", flush=True)
            return entry_of(row, self.seed, skipped=reason)
        return entry_of(row, self.seed, figures=figures or await self._play_alone(row))

    async def _with_control(self, row: Row, entry: Entry, turns: asyncio.Semaphore, record: Record) -> Entry:
        if row.control is None or entry.figures is None or not self.with_controls:
            return entry
        async with turns:
            # A session that one row has broken must not trouble the next one: each control has a platform of its own.
            control = await self._play_alone(row, row.control)
        entry = replace(entry, lacks=row.control.lacks, control=control)
        self._put(record, entry)
        return entry

    async def _play_alone(self, row: Row, control: Control | None = None) -> Figures:
        try:
            async with self._stage(f"{'without' if control else 'row'}-{row.key}", row, control) as stage:
                return (await self._play(stage, row, control))[0]
        except Exception as fault:  # noqa: BLE001 - a platform that does not start, or not stop, is a result too
            return broken(fault, played=False)

    @asynccontextmanager
    async def _stage(self, name: str, row: Row, control: Control | None = None) -> AsyncIterator[Stage]:
        async with Platform(
            self.folder / name,
            control=control or WHOLE,
            nats_server=self.nats_server,
            broker_disk=row.broker_disk,
            env=row.env,
        ) as platform:
            stage = Stage(platform, Logs(platform.plan.log_folder))
            if control is None:
                await play(stage, warm_up, sessions=10, speed=6.0, seed=self.seed)
                stage.baseline = Baseline.from_holdings(await holdings(platform))
            yield stage

    async def _play(self, stage: Stage, row: Row, control: Control | None = None) -> tuple[Figures, bool]:
        """Play a row; give its figures, and whether the platform can be used again."""
        script = (row.control_script or row.script) if control else row.script
        failures: list[str] = []
        try:
            result = await self._result(stage, row, script, control)
            growth = stage.baseline.memory_growth_bytes(result.held) if stage.baseline else 0
            if stage.baseline and (grown := stage.baseline.grown(result.held)):
                await self._again(stage, row, result, grown)
        except Exception as fault:  # noqa: BLE001 - whatever ends a row is its result: the others are still played
            found, whole = broken(fault), False
        else:
            found, whole, failures = figures(row, result, growth), True, result.failures
        fault_played = f"without {control.lacks}" if control else row.fault
        print(summary(row.key, fault_played, found, failures), flush=True)
        return found, whole

    async def _result(self, stage: Stage, row: Row, script: Script, control: Control | None = None) -> Result:
        async with asyncio.timeout(row.limit_s * self.patience):
            return await play(
                stage,
                script,
                sessions=row.sessions,
                speed=row.speed,
                seed=self.seed,
                workload_type=(control and control.workload) or row.workload,
                session_s=row.session_s,
                rest_hz=row.rest_hz,
                patience=self.patience * (CONTROL_PATIENCE if control else 1.0),
                healed=row.heals,
            )

    async def _again(self, stage: Stage, row: Row, first: Result, grown: dict[str, int]) -> None:
        """Load the processes that have grown a second time, and add to the first result whether they grow again."""
        second = await self._result(stage, row, row.load or row.script)
        first.breaches.extend(f"loaded again: {one}" for one in figures(row, second).wrong)
        first.breaches.extend(still_growing(grown, first.held, second.held))
        for name in grown:
            held = [one.held[name].memory_bytes >> 20 for one in (first, second)]
            first.notes.append(f"{name} holds {held[0]} MiB at rest, and after a second load {held[1]}")

    def _put(self, record: Record, entry: Entry) -> None:
        record.put(entry)
        if self.out is not None:
            self.out.write_text(page(list(record)))


async def warm_up(scene: Scene) -> None:
    """Let the platform come to what it holds after work, before it is looked at: with each gateway on the line to
    insights as well, which it calls first when somebody asks for figures."""
    for client in scene.clients * len(scene.platform.gateways):
        await client.analytics()
    await scene.wait(WARM_UP_S)


def main() -> int:
    """Return 0 if nothing was lost, every promise was kept and every control was noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", default="", help="keys or numbers, comma-separated; default: all")
    parser.add_argument("--nemesis-s", type=float, default=NEMESIS_S, help="how long the nemesis of row 45 rages")
    parser.add_argument("--out", type=Path, help="the page that is written; its figures are kept beside it as JSON")
    parser.add_argument("--without-controls", action="store_true", help="play the rows only")
    parser.add_argument("--patience", type=float, default=1.0, help="on a slow machine: how much longer all may take")
    chosen = parser.parse_args()
    wanted = {key.strip() for key in chosen.rows.split(",") if key.strip()}
    rows = [row for row in ROWS if not wanted or row.key in wanted or row.key.rstrip("abcdek") in wanted]
    rows = [row if row.key != "45" else nemesis_row(chosen.nemesis_s) for row in rows]
    if not rows:
        parser.error(f"there are the rows {', '.join(row.key for row in ROWS)}")
    with tempfile.TemporaryDirectory(prefix="verbatim-chaos-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user when we are root
        run = Run(
            rows,
            chosen.seed,
            Path(name),
            chosen.out,
            os.environ.get("VERBATIM_NATS_SERVER") or None,
            with_controls=not chosen.without_controls,
            patience=chosen.patience,
        )
        entries = uvloop.run(run())
    print(page(entries))
    return 0 if all(entry.good for entry in entries) else 1


if __name__ == "__main__":
    sys.exit(main())
