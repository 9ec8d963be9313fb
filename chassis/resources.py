"""What a process uses: memory against its limit, how it grows, and how late its event loop runs.

Above 80 % of the limit it collects garbage, and what admits new work is told to refuse it until it is below again.
Once a minute what the allocator keeps of freed memory goes back to the system.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import platform
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from prometheus_client import Counter, Gauge

from chassis import telemetry

log = telemetry.logger(__name__)

LIMIT = Gauge("memory_limit_bytes", "Memory that the process may use: its container's limit, else the machine's.")
GROWTH = Gauge("memory_growth_bytes_per_second", "Slope of the memory in use over the last hour, robust to jumps.")
BASELINE = Gauge("memory_baseline_bytes", "Memory in use when the process had settled.")
TIGHT = Gauge("memory_tight", "1 while new work is refused because memory is short.")
LAG = Gauge("event_loop_lag_seconds", "Latest that the event loop ran in the last fifteen seconds.")

TRIMMED = Counter("memory_trimmed_bytes_total", "Memory that the allocator had kept and gave back to the system.")

TIGHT_FROM, TIGHT_UNTIL = 0.80, 0.75
_MEMORY_EVERY_S = 30.0
_TRIM_EVERY_S = 60.0
_LAG_EVERY_S = 0.25
_LAG_WINDOW_S = 15.0
_LAG_LOGGED_S = 0.5
_SETTLED_S = 120.0
_SAMPLES_MAX = 120
# cgroup v1 says "no limit" with a number near 2^63.
_UNLIMITED_BYTES = 1 << 60
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # cgroup v2, v1


def memory_limit_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the limit of the container that we run in; the machine's memory if there is none."""
    machine = int(psutil.virtual_memory().total)
    for name in _LIMITS:
        try:
            told = (cgroup / name).read_text().strip()
        except OSError:
            continue
        if told.isdigit() and int(told) < _UNLIMITED_BYTES:
            return min(int(told), machine)
    return machine


def trim() -> int:
    """Give back to the system what the allocator keeps of freed memory; return how many bytes. Takes milliseconds."""
    if platform.libc_ver()[0] != "glibc":  # of other systems, and of other C libraries, nobody can ask it
        return 0
    process = psutil.Process()
    before = process.memory_info().rss
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    freed = max(0, before - process.memory_info().rss)
    TRIMMED.inc(freed)
    return freed


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return the median of the slopes between all pairs (Theil and Sen): jumps and single peaks do not move it."""
    slopes = [
        (later - earlier) / (until - since)
        for i, (since, earlier) in enumerate(samples)
        for until, later in samples[i + 1 :]
        if until > since
    ]
    return statistics.median(slopes) if slopes else 0.0


class Resources:
    """The watch over one process. `used_bytes` and `limit_bytes` are for tests to stand in for the machine."""

    def __init__(
        self,
        *,
        used_bytes: Callable[[], int] = lambda: int(psutil.Process().memory_info().rss),
        limit_bytes: Callable[[], int] = memory_limit_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tight = False
        self._used_bytes = used_bytes
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._started = clock()
        self._settled = False
        self._memory: deque[tuple[float, float]] = deque(maxlen=_SAMPLES_MAX)
        self._lags: deque[tuple[float, float]] = deque()

    async def run(self) -> None:
        """Look for the life of the process."""
        memory_at, trimmed_at = float("-inf"), self._started
        while True:
            due = self._clock() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            now = self._clock()
            self.note_lag(now, max(0.0, now - due))
            if now - memory_at >= _MEMORY_EVERY_S:
                memory_at = now
                self.look()
            if now - trimmed_at >= _TRIM_EVERY_S:
                trimmed_at = now
                await asyncio.to_thread(trim)

    def told(self) -> dict[str, object]:
        """Return what is in use now: bytes of memory, seconds that the event loop was late at most lately."""
        return {
            "memory_bytes": self._used_bytes(),
            "memory_limit_bytes": self._limit_bytes(),
            "memory_tight": self.tight,
            "event_loop_lag_s": round(max((lag for _, lag in self._lags), default=0.0), 4),
        }

    def note_lag(self, now: float, lag_s: float) -> None:
        """Count how late the loop was; the worst of the last seconds is what is shown."""
        self._lags.append((now, lag_s))
        while self._lags[0][0] < now - _LAG_WINDOW_S:
            self._lags.popleft()
        LAG.set(max(lag for _, lag in self._lags))
        if lag_s >= _LAG_LOGGED_S:
            log.warning("event loop late", lag_s=round(lag_s, 3))

    def look(self) -> None:
        """Measure memory, and tighten or relax."""
        now, used, limit = self._clock(), self._used_bytes(), self._limit_bytes()
        LIMIT.set(limit)
        if not self._settled and now - self._started >= _SETTLED_S:
            self._settled = True
            BASELINE.set(used)
        self._memory.append((now, float(used)))
        GROWTH.set(slope(list(self._memory)))
        if not self.tight and used > TIGHT_FROM * limit:
            gc.collect()
            used = self._used_bytes()
            self.tight = used > TIGHT_FROM * limit
            log.warning("memory short", used_bytes=used, limit_bytes=limit, refusing=self.tight)
        elif self.tight and used < TIGHT_UNTIL * limit:
            self.tight = False
            log.info("memory no longer short", used_bytes=used, limit_bytes=limit)
        TIGHT.set(self.tight)
