"""Play the rows of the fault matrix against whole processes and write what came of it.

python -m tests.chaos [--seed 1] [--rows 8,24a] [--out docs/faults.md]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.chaos.faults import ROWS, Row
from tests.chaos.platform import Platform
from tests.chaos.scene import Result, play
from tests.chaos.table import Outcome, page, summary


async def run(rows: list[Row], seed: int, folder: Path, nats_server: str | None) -> list[Outcome]:
    """Play the rows on one platform, then each negative control on a platform that lacks its defence."""
    results: dict[str, Result] = {}
    controls: dict[str, Result] = {}
    async with Platform(folder / "whole", nats_server=nats_server) as platform:
        for row in rows:
            results[row.key] = await _play(platform, row, seed)
            print(summary(row, results[row.key]), flush=True)
    for defence in sorted({row.without for row in rows if row.without}):
        # A session that one row has broken must not trouble the next one: each control has a platform of its own.
        for row in (row for row in rows if row.without == defence):
            async with Platform(folder / f"without-{row.key}", without=defence, nats_server=nats_server) as platform:
                controls[row.key] = await _play(platform, row, seed)
                print(f"without {defence}: {summary(row, controls[row.key])}", flush=True)
    return [Outcome(row, results[row.key], controls.get(row.key)) for row in rows]


async def _play(platform: Platform, row: Row, seed: int) -> Result:
    return await play(
        platform, row.script, sessions=row.sessions, speed=row.speed, seed=seed, workload_type=row.workload,
        healed=row.heals,
    )  # fmt: skip


def main() -> int:
    """Return 0 if nothing was lost and every control was noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", default="", help="keys or numbers, comma-separated; default: all")
    parser.add_argument("--out", type=Path, help="where the page is written")
    chosen = parser.parse_args()
    wanted = {key.strip() for key in chosen.rows.split(",") if key.strip()}
    rows = [row for row in ROWS if not wanted or row.key in wanted or row.key.rstrip("abcd") in wanted]
    if not rows:
        parser.error(f"there are the rows {', '.join(row.key for row in ROWS)}")
    with tempfile.TemporaryDirectory(prefix="verbatim-chaos-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user when we are root
        outcomes = uvloop.run(run(rows, chosen.seed, Path(name), os.environ.get("VERBATIM_NATS_SERVER") or None))
    text = page(outcomes, chosen.seed, chosen.rows)
    print(text)
    if chosen.out:
        chosen.out.write_text(text)
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
