"""How much this replica does at once, and who is put off first when that is too much."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from chassis.errors import AppError, Kind
from services.gateway.metrics import LOAD, LOAD_MAX, LOAD_SHED


class Priority(StrEnum):
    """Who may still come in, the fuller it gets. What was let in is finished, whatever comes."""

    VITAL = "vital"  # probes: always
    RUNNING = "running"  # what is under way goes on: resumed sessions, new tokens, viewers
    NORMAL = "normal"
    HEAVY = "heavy"  # what costs much and can wait: exports, files, searches


# The part of the capacity up to which each is let in.
UP_TO = {Priority.VITAL: float("inf"), Priority.RUNNING: 1.2, Priority.NORMAL: 1.0, Priority.HEAVY: 0.6}


@dataclass(frozen=True, slots=True)
class Work:
    """What one request costs (a small read is 1), how urgent it is, and whether it lasts as long as it lasts."""

    cost: int
    priority: Priority
    lasting: bool = False


_READ, _WRITE = Work(1, Priority.NORMAL), Work(2, Priority.NORMAL)
_VITAL = frozenset({"/healthz", "/readyz"})
_KNOWN = [
    (re.compile(pattern), work)
    for pattern, work in (
        (r"POST /api/auth/(refresh|logout|ticket)", Work(2, Priority.RUNNING)),
        (r"POST /api/auth/(login|register)", Work(4, Priority.NORMAL)),
        (r"GET /api/meetings/[^/]+/live", Work(0, Priority.RUNNING, lasting=True)),  # viewers have limits of their own
        (r"GET /api/meetings/[^/]+/export", Work(8, Priority.HEAVY, lasting=True)),
        (r"POST /api/insights/.*", Work(4, Priority.HEAVY)),
        (r"[A-Z]+ /api/uploads.*", Work(8, Priority.HEAVY, lasting=True)),
        (r"POST /v1/.*", Work(8, Priority.HEAVY, lasting=True)),
        (r"GET /api/analytics", Work(4, Priority.HEAVY)),
        (r"[A-Z]+ /api/admin/.*", Work(1, Priority.RUNNING)),
    )
]


def work_of(method: str, path: str) -> Work:
    """Return what a request is, by its method and path."""
    if path in _VITAL:
        return Work(0, Priority.VITAL)
    call = f"{method} {path}"
    for pattern, work in _KNOWN:
        if pattern.fullmatch(call):
            return work
    return _READ if method in {"GET", "HEAD", "OPTIONS"} else _WRITE


class Load:
    """Counts the cost of what is under way."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: most that may be under way at once, in small reads."""
        LOAD_MAX.set(capacity)
        self._capacity = capacity
        self._taken = 0

    @contextmanager
    def carry(self, work: Work) -> Iterator[None]:
        """Count a piece of work while it lasts. Raises AppError(UNAVAILABLE) if there is too much of it already."""
        if self._taken + work.cost > self._capacity * UP_TO[work.priority]:
            LOAD_SHED.labels(work.priority.value).inc()
            # Not all at the same moment again.
            retry_after_s = random.uniform(1.0, 3.0)
            raise AppError(Kind.UNAVAILABLE, "There is too much to do: try again soon.", retry_after_s=retry_after_s)
        self._taken += work.cost
        LOAD.set(self._taken)
        try:
            yield
        finally:
            self._taken -= work.cost
            LOAD.set(self._taken)
