"""How much of chassis and services the tests execute: the figure that was measured last, and that it is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dev.environment import plain_environment
from dev.settings import ROOT
from tests.covered import PARTS, REQUIRED, Covered, by_part

PAGE = ROOT / "docs" / "coverage.md"


@pytest.mark.skipif(not PAGE.exists(), reason="make coverage has not been run to its end")
def test_what_was_measured_last_is_what_is_required_of_every_part_that_there_is() -> None:
    rows = re.findall(r"^\| (\S+) \| ([\d.]+)% \| (\d+) \| ([\d.]+)% \| (\d+) \|$", PAGE.read_text(), re.MULTILINE)
    assert [row[0] for row in rows] == [*PARTS, "all"]
    assert all(float(row[1]) > 0 and int(row[2]) > 0 for row in rows), "a part was not measured"
    _, lines, _, branches, _ = rows[-1]
    assert min(float(lines), float(branches)) >= 100 * REQUIRED


def test_less_than_required_of_either_is_too_little() -> None:
    assert Covered(90, 100, 90, 100).enough
    assert not Covered(89, 100, 100, 100).enough
    assert not Covered(100, 100, 89, 100).enough
    assert not Covered().enough
    summary = {"covered_lines": 1, "num_statements": 2, "covered_branches": 3, "num_branches": 4}
    told = {"files": {"chassis/bus.py": {"summary": summary}, "dev/run.py": {"summary": summary}}}
    assert by_part(told)["chassis"] == Covered(1, 2, 3, 4)
    assert sum(by_part(told).values(), Covered()) == Covered(1, 2, 3, 4), "what is not shipped does not count"


def test_what_a_process_of_a_stack_executes_is_counted(tmp_path: Path) -> None:
    caller = os.environ | {
        "COVERAGE_PROCESS_START": str(ROOT / "pyproject.toml"), "COVERAGE_FILE": str(tmp_path / "data"),
    }  # fmt: skip
    env = plain_environment(caller) | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))}
    done = subprocess.run(
        [sys.executable, "-m", "services.janitor"], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, "SERVICE_AUTH_KEY" in done.stderr) == (2, True), "it says what it is not told"
    told = {"COVERAGE_FILE": str(tmp_path / "data"), "PATH": os.environ["PATH"]}
    for words in (
        ["combine", "--quiet"],
        ["report", "--include", "services/janitor/settings.py", "--fail-under", "70"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "coverage", *words], env=told, cwd=ROOT, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
