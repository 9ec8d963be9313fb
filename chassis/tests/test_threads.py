"""Threads that are there before they are needed."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import resource, sys, threading
    from concurrent.futures import ThreadPoolExecutor
    from chassis.threads import ready_pool

    pool = {pool}(2)
    # None more: what a thread's stack would take is more than there may be.
    threading.stack_size(1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    print(pool.submit(lambda: 7).result(timeout=5))
"""


def outcome(pool: str) -> str:
    program = textwrap.dedent(PROGRAM.replace("{pool}", pool))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.mark.req("R-RES-4")
def test_a_ready_pool_works_when_no_thread_can_be_had_any_more() -> None:
    assert outcome("(lambda n: ready_pool(n, 'ready'))") == "7"


def test_control_a_pool_of_the_standard_library_does_not() -> None:
    assert "can't start new thread" in outcome("ThreadPoolExecutor")
