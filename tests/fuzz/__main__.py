"""Fuzz the whole platform for long, in every phase and with every check.

python -m tests.fuzz [--cases 50000] [--seed 1] [--hours 2]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

from tests.fuzz.run import SERIES_MAX, Outcome, fuzz, stack

ROUND_S = 900


async def run(folder: Path, cases: int, seed: int, within_s: float) -> list[Outcome]:
    """Fuzz in rounds, each with a seed of its own, until there were enough cases or the time is over."""
    found: list[Outcome] = []
    running = stack(folder / "stack", os.environ.get("VERBATIM_NATS_SERVER") or None)
    await running.start()
    until = time.monotonic() + within_s
    try:
        while sum(one.cases for one in found) < cases and time.monotonic() < until:
            found.append(await fuzz(running, folder, seed=seed + len(found), max_time_s=ROUND_S, examples=400))
            tell(found)
    finally:
        await running.stop()
    return found


def tell(found: list[Outcome]) -> None:
    """Print what was found so far, and what the last round had to say if it found something."""
    last = found[-1]
    if last.failures or last.errors or last.broken:
        print(last.said)
    cases, requests = sum(one.cases for one in found), sum(one.requests for one in found)
    broken, failures = sum(one.broken for one in found), sum(len(one.failures) for one in found)
    print(f"{cases} cases, {requests} requests, {last.operations} operations: {broken} answers of 5xx, "
          f"{failures} other findings, series {last.series}", flush=True)  # fmt: skip


def main() -> int:
    """Fuzz; the status is 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, default=2.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verbatim-fuzz-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user when we are root
        found = asyncio.run(run(Path(name), chosen.cases, chosen.seed, chosen.hours * 3600))
    unbounded = any(max(one.series.values()) >= SERIES_MAX for one in found)
    return int(unbounded or any(one.broken or one.failures or one.errors for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
