"""What a process does when an operator says so, whichever service it is: another log level, to forget, or to retire.

| control | value | effect |
|---|---|---|
| `log_level`, `log_level.<service>`, `log_level.<replica>` | DEBUG … CRITICAL | the narrowest that is set holds |
| `caches`, `caches.<service>`, `caches.<replica>` | `now` | what was learnt from others and may be old is forgotten |
| `drain.<replica>` | `now` | that process drains and ends; what keeps it running starts it anew |
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from chassis import telemetry
from chassis.controls import Controls

log = telemetry.logger(__name__)

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Orders:
    """Watches the controls that concern a process as a whole."""

    def __init__(
        self, service: str, replica: str, level: str, retire: Callable[[], None], clock: Callable[[], float] = time.time
    ) -> None:
        """`level` is the log level where no control says otherwise; `retire` begins the drain."""
        self._names = [f"log_level.{replica.lower()}", f"log_level.{service}", "log_level"]
        self._drain = f"drain.{replica.lower()}"
        self._caches = {f"caches.{replica.lower()}", f"caches.{service}", "caches"}
        self._forgets: list[Callable[[], None]] = []
        self._level = level
        self._retire = retire
        self._clock = clock
        self._began_s = clock()

    def may_forget(self, forget: Callable[[], None]) -> None:
        """Have `forget` called when caches are to be dropped. It must not raise or wait."""
        self._forgets.append(forget)

    def obey(self, controls: Controls) -> None:
        """Do what they say from here on."""
        controls.watch(lambda name, value: self._told(controls, name, value))

    def _told(self, controls: Controls, name: str, value: str | None) -> None:
        if name in self._names:
            self._set_level(next((found for each in self._names if (found := controls.value(each))), self._level))
        elif name in self._caches and value:
            for forget in self._forgets:
                forget()
            log.warning("caches dropped by order", caches=len(self._forgets))
        elif name == self._drain and value and self._is_meant_for_us(controls):
            log.warning("retiring by order")
            self._retire()

    def _is_meant_for_us(self, controls: Controls) -> bool:
        """Tell whether the order came after our start: the process that was told to retire may have had our name."""
        set_at_s = max((one.set_at_s for one in controls.active() if one.name == self._drain), default=0.0)
        return set_at_s > self._began_s

    def _set_level(self, level: str) -> None:
        if level in LEVELS and logging.getLogger().level != logging.getLevelName(level):
            # Said at a level that both the old and the new one let through, whichever they are.
            logging.getLogger().setLevel(logging.INFO)
            log.info("log level", set_to=level)
            logging.getLogger().setLevel(level)
