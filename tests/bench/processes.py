"""What processes use: seconds of CPU and bytes of memory, children included."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """CPU seconds since the start of the process, and resident bytes."""

    cpu_s: float
    rss_bytes: int

    def __sub__(self, before: Usage) -> Usage:
        """Return what came on top."""
        return Usage(self.cpu_s - before.cpu_s, self.rss_bytes - before.rss_bytes)


def usage(pid: int) -> Usage:
    """Return what a process has used."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    return Usage(times.user + times.system, process.memory_info().rss)
