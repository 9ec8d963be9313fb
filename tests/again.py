"""Look a second time at the few tests that failed: `python -m tests.again`, by `.ci/run` after `make test`.

Four thousand tests with real processes on two cores share every delay of the machine. A test that fails twice, the
second time alone on the machine, fails; one that fails once is named as unsteady, to be looked into. More than three
failures are no accident and are not looked at again (docs/adr/0150).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")
MOST = 3


def failed(path: Path) -> list[str]:
    """The ids of the tests that the last run of pytest saw fail, as its cache keeps them; none without a cache."""
    return sorted(json.loads(path.read_text())) if path.exists() else []


def main() -> int:
    """Return 0 if each test that failed passes now, else 1."""
    names = failed(LAST_FAILED)
    if not 1 <= len(names) <= MOST:
        print(f"error: {len(names)} tests to look at again, which is done for 1 to {MOST}", file=sys.stderr)
        return 1
    code = pytest.main(["--numprocesses", "0", *names])
    if code == pytest.ExitCode.OK:
        print(f"unsteady, failed once and passed alone: {', '.join(names)}")
    return int(code != pytest.ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
