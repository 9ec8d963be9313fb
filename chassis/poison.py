"""A guard before the dead letters: when nearly all jobs of a kind fail, it is not the jobs. Better they wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Gauge

from chassis import telemetry

log = telemetry.logger(__name__)

PAUSED = Gauge("jobs_paused", "1 while jobs of the kind wait because nearly all of them failed.", ["kind"])


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Pause when of the last `attempts` (of `attempts_min` at least) more than `share` failed; seconds double."""

    attempts: int = 30
    attempts_min: int = 20
    share: float = 0.8
    pause_s: float = 30.0
    pause_max_s: float = 600.0


class Guard:
    """Says how many jobs of a kind may be worked on at once, by how the last attempts went.

    *open*: as many as there are hands. *paused*: none, for a while. *trying*: one; if that goes well the guard is open
    again, else it pauses for twice as long.
    """

    def __init__(self, kind: str, settings: GuardSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._kind = kind
        self._settings = settings
        self._clock = clock
        self._went: deque[bool] = deque(maxlen=settings.attempts)
        self._pause_s = 0.0
        self._paused_until = 0.0
        PAUSED.labels(kind).set(0)

    @property
    def is_open(self) -> bool:
        return self._pause_s == 0.0

    def admits(self, most: int) -> int:
        """Return how many jobs may be worked on at once now."""
        if self.is_open:
            return most
        return 0 if self._clock() < self._paused_until else 1

    def went(self, *, well: bool) -> None:
        """Count an attempt."""
        self._went.append(well)
        if self.is_open:
            failed = self._went.count(False)
            if len(self._went) >= self._settings.attempts_min and failed > self._settings.share * len(self._went):
                self._pause()
        elif self._clock() >= self._paused_until:
            if well:
                self._open()
            else:
                self._pause()

    def _pause(self) -> None:
        self._pause_s = min(self._pause_s * 2 or self._settings.pause_s, self._settings.pause_max_s)
        self._paused_until = self._clock() + self._pause_s
        PAUSED.labels(self._kind).set(1)
        log.error("nearly all jobs fail, pausing", job_kind=self._kind, pause_s=self._pause_s)

    def _open(self) -> None:
        self._pause_s = 0.0
        self._went.clear()
        PAUSED.labels(self._kind).set(0)
        log.info("jobs go well again", job_kind=self._kind)
