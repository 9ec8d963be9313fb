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
        ("def test_sound():\n    pass\n", 1, "error: the tests did not run to their end, or none failed"),
        (BROKEN + "def test_cut_off():\n    raise KeyboardInterrupt\n", 1, "error: the tests did not run to their end"),
    ],
)
def test_a_failure_is_looked_at_once_more(tests: str, code: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -q\n")
    (tmp_path / "test_it.py").write_text(tests)
    (tmp_path / "conftest.py").write_text("from tests.again import pytest_sessionfinish\n")
    first, second = (
        subprocess.run(
            [sys.executable, "-m", module],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        for module in ("pytest", "tests.again")
    )
    assert bool(first.returncode) == ("assert" in tests)
    assert second.returncode == code
    assert says in second.stdout + second.stderr
