"""Outlives a runner that was killed, just long enough to clear away what its children left.

The kernel kills a runner's direct children with it (PR_SET_PDEATHSIG), but not their children, such as the
workers of a process pool. This small process reads the process groups from a pipe; the pipe breaks when the
runner is gone, however it went.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

GRACE_S = 2.0
POLL_S = 0.05


class Guard:
    """The runner's end of the pipe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
            bufsize=1,
        )

    @property
    def pid(self) -> int:
        """Process id of the guard."""
        return self._process.pid

    def watch(self, group: int) -> None:
        """Clear this process group away if the runner dies."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Leave this process group alone; its number may be used again."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Let the guard end. Groups that are still watched are cleared away."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=GRACE_S + 5)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()


def main() -> None:
    """Collect groups until the pipe breaks, then wait for them to end and kill what has not."""
    groups: set[int] = set()
    for line in sys.stdin:
        change, group = line[0], int(line[1:])
        (groups.add if change == "+" else groups.discard)(group)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and any(_exists(group) for group in groups):
        time.sleep(POLL_S)
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
