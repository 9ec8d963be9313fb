"""The README's figures are those of the last run."""

from __future__ import annotations

import pytest

from dev import survived
from dev.settings import ROOT

pytestmark = pytest.mark.req("R-RUN-7")


def test_the_readme_tells_the_last_run() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    faults = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    assert readme == survived.told(readme, faults), "run: python -m dev.reference"


@pytest.mark.parametrize(
    "head",
    ["| row | chunks | lost | doubled | pause p50 / max s |", "| row | chunks | lost | doubled | pause s | more |"],
)
def test_a_run_that_went_otherwise_is_told_otherwise(head: str) -> None:
    cells = {"row": "24c", "chunks": "100", "lost": "3", "doubled": "1", "more": "x"}
    names = [name.strip() for name in head.strip("|").split("|")]
    row = "| " + " | ".join(cells.get(name, "1.2 / 9.9") for name in names) + " |"
    assert "| 100 | 3 | 1 | 9.9 s |" in survived.section(f"{head}\n|---|\n{row}\n")


def test_a_run_without_these_rows_is_no_proof() -> None:
    with pytest.raises(ValueError, match="none of the rows"):
        survived.section("| row | lost |\n|---|---|\n| 99 | 0 |\n")
