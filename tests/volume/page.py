"""The page of a volume run."""

from __future__ import annotations

from tests.volume.rows import ROWS
from tests.volume.run import Outcome

_LINES = (
    ("events put", "put"), ("events arrived", "arrived"), ("**events lost**", "lost"),
    ("**effects of events doubled**", "doubled"), ("events that nobody put", "invented"),
    ("jobs asked for", "asked"),
    ("jobs completed", "completed"), ("jobs dead (they were made to fail)", "dead"),
    ("**jobs unaccounted for**", "unfinished"), ("completed without effect", "without_effect"),
    ("**effects of jobs doubled**", "effects_doubled"), ("dead with effect", "dead_with_effect"),
    ("dead letters in the outbox", "letters"),
)  # fmt: skip


def write_page(outcome: Outcome, pieces: int, seed: int, control: Outcome) -> str:
    """Return what was found, as a page. `pieces` is of how many runs `outcome` is the sum, by seeds from `seed` on."""
    accounts = outcome.accounts
    lines = [
        "# Data through faults", "",
        "Written by `python -m tests.volume` (`make volume`). Writers put events (outbox) and jobs in transactions; "
        "two relays, two consumers and three workers, each a process, carry them, while the faults below are played in "
        "an order that a seed decides. Then everything settles, and the rows of both ends are compared one by one.", "",
        "| | with everything | control: no inbox, effects outside of the fenced commit |", "|---|---|---|",
    ]  # fmt: skip
    for name, field in _LINES:
        lines.append(f"| {name} | {getattr(accounts, field):,} | {getattr(control.accounts, field):,} |")
    faults, played = (", ".join(f"{name} {n}" for name, n in sorted(one.faults.items())) for one in (outcome, control))
    lines += [
        f"| dead letters at the broker | {outcome.in_stream:,} | {control.in_stream:,} |",
        f"| faults | {sum(outcome.faults.values())} | {sum(control.faults.values())} |",
        f"| seconds | {outcome.seconds:.0f} | {control.seconds:.0f} |", "",
        f"The sum of {pieces} runs by the seeds {seed} to {seed + pieces - 1}, each on servers of its own. Faults: "
        f"{faults}; in the control: {played}. Frozen is SIGSTOP for up to five seconds, past its lease six to eleven, "
        "killed is SIGKILL (Postgres: immediate shutdown). The page cache survives that: power cuts are not shown by "
        "it.", "",
        f"None lost of {accounts.put:,} means, with 95 % confidence, less than one in {accounts.put // 3:,}."
        if not accounts.lost else "Something was lost.", "",
    ]  # fmt: skip
    lines += ["## Row by row", "", "Which test plays which fault of databases, events and jobs, and what shows that it "
              "would be noticed. All of them are part of `make test`, `make test-long`, `make chaos` or this page.", "",
              "| row | fault | test | control |", "|---|---|---|---|"]  # fmt: skip
    lines += [f"| {row} |" for row in (" | ".join(cells) for cells in ROWS)]
    return "\n".join([*lines, ""])
