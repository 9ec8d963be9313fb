"""Threads for what would block the event loop, had while there are some to be had."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

_WITHIN_S = 10.0


def ready_pool(workers: int, name: str) -> ThreadPoolExecutor:
    """Return a pool whose threads are there already.

    The standard library starts them when they are needed: then the system may have none left, and work that was taken
    fails with RuntimeError. Raises that here, or threading.BrokenBarrierError, if they cannot be had.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    all_there = threading.Barrier(workers + 1, timeout=_WITHIN_S)
    for _ in range(workers):
        pool.submit(all_there.wait)
    all_there.wait()
    return pool
