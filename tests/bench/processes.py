"""What processes use: seconds of CPU and bytes of memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """CPU seconds since the start of the process, its children's included, and its own resident bytes."""

    cpu_s: float
    rss_bytes: int

    def __sub__(self, before: Usage) -> Usage:
        """Return what came on top."""
        return Usage(self.cpu_s - before.cpu_s, self.rss_bytes - before.rss_bytes)


def usage(pid: int) -> Usage:
    """Return what a process has used. The children of this one, which runs them all, are not its own."""
    process = psutil.Process(pid)
    children = [] if pid == os.getpid() else process.children(recursive=True)
    times = [one.cpu_times() for one in (process, *children)]
    return Usage(sum(each.user + each.system for each in times), process.memory_info().rss)
