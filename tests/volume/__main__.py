"""Push events and jobs through everything while it breaks, and write down the exact accounts.

python -m tests.volume [--events 100000] [--jobs 20000] [--seed 1] [--out docs/faults-data.md]

The run is made in pieces, each on servers of its own and by a seed of its own. What they came to is kept in
build/volume.json: a run that was cut short goes on where it stopped, until that file is removed.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from chassis.tests.servers import nats_broker, postgres_cluster
from dev.settings import ROOT
from tests.volume.ledger import Ledger
from tests.volume.page import write_page
from tests.volume.run import EVENTS_EACH, JOBS_EACH, Outcome, run

PIECES = 20
CONTROL_ROLES = ("relay", "forgetful", "forgetful", "unfenced", "unfenced")
CONTROL_FAULTS = ("consumer killed", "worker frozen past its lease")
CONTROL_TRANSACTIONS = 200


async def play(transactions: int, seed: int) -> Outcome:
    """Run a piece on servers of its own."""
    with postgres_cluster() as server, nats_broker() as nats:
        return await run(
            server, nats, transactions=transactions, seed=seed, settle_s=1800.0, pause_s=(3.0, 8.0), least_faults=8
        )


async def control(seed: int) -> Outcome:
    """Run without inbox and fence, long enough that what they prevent happens many times."""
    with postgres_cluster() as server, nats_broker() as nats:
        return await run(
            server, nats, transactions=CONTROL_TRANSACTIONS, seed=seed, roles=CONTROL_ROLES, faults=CONTROL_FAULTS,
            least_faults=20, settle_s=1800.0,
        )  # fmt: skip


def main() -> None:
    """Print the page, write it if asked to; exit 1 unless the accounts are exact and those of the control are not."""
    parser = argparse.ArgumentParser(prog="python -m tests.volume", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where the page is written")
    chosen = parser.parse_args()
    transactions = max(-(-chosen.events // EVENTS_EACH), -(-chosen.jobs // JOBS_EACH))
    ledger = Ledger(ROOT / "build" / "volume.json")
    for number in range(PIECES):
        # The control early: it takes minutes, and without it the rest says little.
        if number == 1 and "control" not in ledger.pieces:
            ledger.add("control", asyncio.run(control(chosen.seed)))
        name, seed = f"piece {number}", chosen.seed + number
        if name not in ledger.pieces:
            ledger.add(name, asyncio.run(play(-(-transactions // PIECES), seed)))
        print(name, ledger.pieces[name], flush=True)
    outcome, pieces = ledger.sum("piece")
    without = ledger.pieces["control"]
    print("control", without)
    text = write_page(outcome, pieces, chosen.seed, without)
    print(f"\n{text}")
    if chosen.out:
        chosen.out.write_text(text)
    shown = without.accounts.doubled and without.accounts.effects_doubled
    raise SystemExit(0 if outcome.exact and shown else 1)


if __name__ == "__main__":
    main()
