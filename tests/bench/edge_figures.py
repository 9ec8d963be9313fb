"""What the edge costs, as figures and as a page."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from tests.bench.load import quantile_ms
from tests.bench.run import machine

AT_ONCE = 8
TARGET_LIMIT_FACTOR = 1.3


@dataclass
class Served:
    """Requests of one kind: seconds that each took, and processor seconds of the process that answered them."""

    took_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    failed: int = 0

    @property
    def per_core(self) -> float:
        """Requests that would keep one core busy."""
        return len(self.took_s) / self.cpu_s


@dataclass
class Stored:
    """Files of one way of sending: megabytes per second of each, and bytes that the process grew by at most."""

    mb_per_s: list[float] = field(default_factory=list)
    grown_bytes: int = 0
    cpu_s: float = 0.0


@dataclass(frozen=True)
class Measured:
    """All of a run."""

    served: dict[str, Served]
    stored: dict[str, Stored]
    checks: dict[str, list[float]]
    megabytes: int
    load: float


def page(found: Measured) -> str:
    """Return the page that tells it."""
    lines = [
        "# Figures of the edge",
        "",
        "Made by `make bench-edge`, all in one run and in turn. "
        + machine()
        + f" Load average {found.load:.0f} at the end.",
        "",
        "## Requests",
        "",
        f"{AT_ONCE} connections, one gateway. *Per core* is requests for each second of processor time of the process "
        "that answers.",
        "",
        "| | requests | failed | per core | ms of processor each | p50 ms | p99 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in found.served.items():
        count = len(one.took_s)
        lines.append(
            f"| {name} | {count} | {one.failed} | {one.per_core:.0f} | {1000 * one.cpu_s / count:.2f} | "
            f"{quantile_ms(one.took_s, 0.5):.1f} | {quantile_ms(one.took_s, 0.99):.1f} |"
        )
    lines += [
        "",
        "## Files",
        "",
        f"{found.megabytes} MB each, one at a time; memory is what the process that takes it grew by at most, "
        "processor time is that of the same process.",
        "",
        "| | files | MB/s, median | memory MiB | processor s per GB |",
        "|---|---|---|---|---|",
    ]
    for name, stored in found.stored.items():
        count = len(stored.mb_per_s)
        lines.append(
            f"| {name} | {count} | {statistics.median(stored.mb_per_s):.0f} | {stored.grown_bytes / 2**20:.0f} | "
            f"{stored.cpu_s / (count * found.megabytes / 1000):.1f} |"
        )
    ping = quantile_ms(found.checks["PING by redis-py"], 0.5)
    lines += ["", "## One limit check", "", "| | checks | p50 ms | p99 ms | of the first |", "|---|---|---|---|---|"]
    for name, took in found.checks.items():
        p50 = quantile_ms(took, 0.5)
        lines.append(f"| {name} | {len(took)} | {p50:.3f} | {quantile_ms(took, 0.99):.3f} | {p50 / ping:.2f} |")
    lines += ["", f"Target: at most {TARGET_LIMIT_FACTOR} times a PING."]
    return "\n".join(lines) + "\n"
