"""After an outage what waited comes slowly: healing begins at a share of what live speech asks, and grows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlowStartSettings:
    """For `hold_s` after an outage healing makes `share` of the calls of live speech, or `least_per_s` if that is more.

    It comes to that share within `double_s`: live speech that waited for the breaker's ramp is heard first. Thereafter
    it makes twice as many each `double_s`, until how much may run at one time is all that limits it. With a
    share below a fifth, the API is asked at most 1.2 times as often as before it failed for as long as it may fail
    again; and what waited is heard soon all the same, because doubling overtakes any backlog in minutes.
    """

    hold_s: float = 90.0
    share: float = 0.1
    least_per_s: float = 0.2
    double_s: float = 15.0
    remembered_s: float = 60.0  # over which live calls are counted


class SlowStart:
    """When healing may make its next call. `clock` counts seconds."""

    def __init__(self, settings: SlowStartSettings, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._began_at: float | None = None  # None: there was no outage
        self._next_at = 0.0
        self._live_per_s = 0.0
        self._live_at = clock()

    def begin(self) -> None:
        """An outage is over."""
        self._began_at = self._next_at = self._clock()

    def heard_live(self) -> None:
        """Count a live call, made or refused by the breaker: people speak as much while the API is away."""
        self._live_per_s = self._demand_per_s() + 1.0 / self._settings.remembered_s
        self._live_at = self._clock()

    def per_s(self) -> float:
        """Return how many calls per second healing may make now; infinite if nothing holds it back."""
        settings = self._settings
        if self._began_at is None or settings.hold_s <= 0:
            return math.inf
        since_s = self._clock() - self._began_at
        doublings = max(0.0, since_s - settings.hold_s) / settings.double_s
        if doublings > 10.0:
            return math.inf
        share = settings.share * min(1.0, since_s / settings.double_s)
        return float(max(settings.least_per_s, share * self._demand_per_s()) * 2.0**doublings)

    @property
    def admits(self) -> bool:
        """Whether healing may make a call now."""
        return self._clock() >= self._next_at or math.isinf(self.per_s())

    def take(self) -> None:
        """Count a call for healing. Calls are evenly spaced; one that came a little late does not delay the next."""
        per_s = self.per_s()
        if not math.isinf(per_s):
            now = self._clock()
            self._next_at = max(self._next_at, now - 0.5 / per_s) + 1.0 / per_s

    def _demand_per_s(self) -> float:
        return self._live_per_s * math.exp((self._live_at - self._clock()) / self._settings.remembered_s)
