"""Look a second time at the few tests that failed: `python -m tests.again`, by `.ci/run` after `make test`.

Four thousand tests with real processes on two cores share every delay of the machine. A test that fails twice, the
second time alone on the machine, fails; one that fails once is named as unsteady, to be looked into. More than three
failures are no accident and are not looked at again (docs/adr/0150).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

CACHE = Path(".pytest_cache/v")
LAST_FAILED, ENDED = "cache/lastfailed", "verbatim/ended"
MOST = 3


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Note how the run ended, for a second look: a hook that the root conftest.py takes in."""
    cache = getattr(session.config, "cache", None)
    if cache is not None and not hasattr(session.config, "workerinput"):
        cache.set(ENDED, int(exitstatus))


def kept(key: str) -> Any:
    """Return what pytest's cache keeps under a key; None if it keeps nothing."""
    path = CACHE / key
    return json.loads(path.read_text()) if path.exists() else None


def main() -> int:
    """Return 0 if each test that failed passes now, else 1."""
    if kept(ENDED) != pytest.ExitCode.TESTS_FAILED:
        print("error: the tests did not run to their end, or none failed", file=sys.stderr)
        return 1
    names = sorted(kept(LAST_FAILED) or ())
    if not 1 <= len(names) <= MOST:
        print(f"error: {len(names)} tests to look at again, which is done for 1 to {MOST}", file=sys.stderr)
        return 1
    code = pytest.main(["--numprocesses", "0", *names])
    if code == pytest.ExitCode.OK:
        print(f"unsteady, failed once and passed alone: {', '.join(names)}")
    return int(code != pytest.ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
