"""A test that failed is looked at again, and a test that fails twice fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

UNSTEADY = """
from pathlib import Path

def test_unsteady():
    seen = Path(__file__).with_name("seen")
    before = seen.exists()
    seen.touch()
    assert before
"""
BROKEN = "def test_broken():\n    assert False\n"
MANY = "".join(f"def test_{number}():\n    assert False\n" for number in range(4))


@pytest.mark.parametrize(
    ("tests", "code", "says"),
    [
        (UNSTEADY, 0, "unsteady, failed once and passed alone: test_it.py::test_unsteady"),
        (BROKEN, 1, "FAILED test_it.py::test_broken"),
        (MANY, 1, "error: 4 tests to look at again, which is done for 1 to 3"),
        ("def test_sound():\n    pass\n", 1, "error: 0 tests to look at again"),
    ],
)
def test_a_failure_is_looked_at_once_more(tests: str, code: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -q\n")
    (tmp_path / "test_it.py").write_text(tests)
    first = subprocess.run([sys.executable, "-m", "pytest"], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert first.returncode == int("assert" in tests)
    second = subprocess.run(
        [sys.executable, "-m", "tests.again"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert second.returncode == code
    assert says in second.stdout + second.stderr
