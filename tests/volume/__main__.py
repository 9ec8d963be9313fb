"""Push events and jobs through everything while it breaks, and write down the exact accounts.

python -m tests.volume [--events 100000] [--jobs 20000] [--seed 1] [--out docs/faults-data.md]
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from chassis.tests.servers import nats_broker, postgres_cluster
from tests.volume.rates import Rates, measure
from tests.volume.run import EVENTS_EACH, JOBS_EACH, Outcome, run

CONTROL_ROLES = ("relay", "forgetful", "forgetful", "unfenced", "unfenced")
CONTROL_FAULTS = ("process killed", "process frozen")


async def play(transactions: int, seed: int, *, control: bool) -> Outcome:
    """Run on servers of its own; the control is a tenth as long, without inbox and fence."""
    with postgres_cluster() as server, nats_broker() as nats:
        if not control:
            return await run(
                server,
                nats,
                transactions=transactions,
                seed=seed,
                settle_s=1800.0,
                pause_s=(5.0, 12.0),
                least_faults=30,
            )
        return await run(
            server, nats, transactions=transactions // 10, seed=seed, roles=CONTROL_ROLES, faults=CONTROL_FAULTS,
            least_faults=20, settle_s=1800.0,
        )  # fmt: skip


async def rates() -> Rates:
    """Measure on servers of its own."""
    with postgres_cluster() as server, nats_broker() as nats:
        return await measure(server, nats, events=50_000, jobs=3_000, latency_s=10.0)


def page(outcome: Outcome, control: Outcome, speed: Rates) -> str:
    """Return what was found, as a page."""
    lines = [
        "# Events and jobs through faults", "",
        "Written by `python -m tests.volume` (`make volume`). Writers put events (outbox) and jobs in transactions; "
        "two relays, two consumers and three workers, each a process, carry them, while the faults below are played in "
        "an order that a seed decides. Then everything settles, and the rows of both ends are compared one by one.", "",
        "| | with everything | control: no inbox, effects outside of the fenced commit |", "|---|---|---|",
    ]  # fmt: skip
    both = (outcome.accounts, control.accounts)
    for name, field in (
        ("events put", "put"), ("events arrived", "arrived"), ("**events lost**", "lost"),
        ("**effects of events doubled**", "doubled"), ("events that nobody put", "invented"),
        ("jobs asked for", "asked"),
        ("jobs completed", "completed"), ("jobs dead (they were made to fail)", "dead"),
        ("**jobs unaccounted for**", "unfinished"), ("completed without effect", "without_effect"),
        ("**effects of jobs doubled**", "effects_doubled"), ("dead with effect", "dead_with_effect"),
        ("dead letters in the outbox", "letters"),
    ):  # fmt: skip
        lines.append(f"| {name} | {' | '.join(f'{getattr(each, field):,}' for each in both)} |")
    lines += [
        f"| dead letters at the broker | {outcome.in_stream:,} | {control.in_stream:,} |",
        f"| faults | {sum(outcome.faults.values())} | {sum(control.faults.values())} |",
        f"| seconds | {outcome.seconds:.0f} | {control.seconds:.0f} |", "",
        "Faults: " + ", ".join(f"{name} {count}" for name, count in sorted(outcome.faults.items())) + f". Seed "
        f"{outcome.seed}. Frozen is SIGSTOP for up to five seconds, killed is SIGKILL (Postgres: immediate shutdown). "
        "The page cache survives that: power cuts are not shown by it.", "",
        f"None lost of {outcome.accounts.put:,} means, with 95 % confidence, less than one in "
        f"{outcome.accounts.put // 3:,}." if not outcome.accounts.lost else "Something was lost.", "",
        "## How fast, without faults", "", "| | measured | target |", "|---|---|---|",
        f"| outbox to broker, {speed.events:,} rows, one relay | {speed.drain_per_s:,.0f} events/s | |",
        f"| the same per second of the relay's CPU | {speed.drain_per_cpu_s:,.0f} events/s | 10,000 |",
        f"| before the insert to the consumer, 200 a second | p50 {speed.latency_p50_ms:.1f} ms, "
        f"p99 {speed.latency_p99_ms:.1f} ms | p99 10 ms |",
        f"| jobs that do nothing, one worker process of eight hands | {speed.jobs_per_s:,.0f} jobs/s, "
        f"{speed.jobs_per_cpu_s:,.0f} per second of its CPU | |", "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Print the page, write it if asked to; exit 1 unless the accounts are exact and those of the control are not."""
    parser = argparse.ArgumentParser(prog="python -m tests.volume", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where the page is written")
    chosen = parser.parse_args()
    transactions = max(-(-chosen.events // EVENTS_EACH), -(-chosen.jobs // JOBS_EACH))
    outcome = asyncio.run(play(transactions, chosen.seed, control=False))
    print(outcome)
    control = asyncio.run(play(transactions, chosen.seed, control=True))
    print(control)
    text = page(outcome, control, asyncio.run(rates()))
    print(f"\n{text}")
    if chosen.out:
        chosen.out.write_text(text)
    shown = control.accounts.doubled and control.accounts.effects_doubled
    raise SystemExit(0 if outcome.exact and shown else 1)


if __name__ == "__main__":
    main()
