"""What `make coverage` measured, by part of the platform. `python -m tests.covered [--out docs/coverage.md]`.

Exits with 1 if lines or branches of chassis and services together are covered less than required.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.plan import SERVICES

REQUIRED = 0.90
PARTS = ("chassis", *(f"services/{name}" for name in sorted(SERVICES)))
HEAD = """# Coverage

`make coverage` wrote this page and fails below {required:.0%} of the lines, or of the branches, of chassis and services
together (R-TEST-1). Counted is what every process executes, also the services that end-to-end tests start; one that a
test kills with SIGKILL tells nothing. Migrations are not counted. {scope}

| part | lines | of | branches | of |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Covered:
    """How many lines and branches there are, and how many were executed."""

    lines: int = 0
    lines_of: int = 0
    branches: int = 0
    branches_of: int = 0

    def __add__(self, other: Covered) -> Covered:
        """Return both together."""
        return Covered(
            self.lines + other.lines, self.lines_of + other.lines_of,
            self.branches + other.branches, self.branches_of + other.branches_of,
        )  # fmt: skip

    @property
    def enough(self) -> bool:
        return self.lines >= REQUIRED * self.lines_of > 0 and self.branches >= REQUIRED * self.branches_of

    def row(self, name: str) -> str:
        """Return a line of the table."""
        lines, branches = self.lines / self.lines_of, self.branches / max(1, self.branches_of)
        return f"| {name} | {lines:.1%} | {self.lines_of} | {branches:.1%} | {self.branches_of} |"


def by_part(report: Mapping[str, Any]) -> dict[str, Covered]:
    """Add up coverage's JSON report by part. What belongs to no part is left out."""
    found = dict.fromkeys(PARTS, Covered())
    for path, told in report["files"].items():
        part = next((part for part in PARTS if path.startswith(f"{part}/")), None)
        if part is not None:
            one = told["summary"]
            found[part] += Covered(
                one["covered_lines"], one["num_statements"], one["covered_branches"], one["num_branches"]
            )
    return found


def page(parts: Mapping[str, Covered], scope: str) -> str:
    """Return the document."""
    whole = sum(parts.values(), Covered())
    rows = [covered.row(part) for part, covered in parts.items()] + [whole.row("all")]
    return HEAD.format(required=REQUIRED, scope=scope) + "\n".join(rows) + "\n"


def main() -> None:
    """Put together what was measured, print the table, write it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.covered", description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scope", default="", help="a sentence on what was run")
    chosen = parser.parse_args()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        coverage = [sys.executable, "-m", "coverage"]
        subprocess.run([*coverage, "combine", "--quiet", "--keep"], check=True)
        subprocess.run([*coverage, "json", "--quiet", "--ignore-errors", "-o", file.name], check=True)
        parts = by_part(json.loads(Path(file.name).read_text()))
    text = page(parts, chosen.scope)
    print(text)
    if chosen.out:
        chosen.out.write_text(text)
    raise SystemExit(not sum(parts.values(), Covered()).enough)


if __name__ == "__main__":
    main()
