"""How full a disk is, and what follows from that: clean early, refuse uploads before anything breaks, allow them again.

Pure but for the measuring.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class Tier(IntEnum):
    """Who does what: nobody anything, the janitor cleans more than usual, the gateways refuse files besides."""

    FINE = 0
    CLEAN = 1
    REFUSE = 2


@dataclass(frozen=True, slots=True)
class Shares:
    """From where on what is done, as shares of the disk that are used; `allow` is where refusing ends again."""

    clean: float = 0.85
    refuse: float = 0.95
    allow: float = 0.90

    def tier(self, used: float, before: Tier) -> Tier:
        """Return the tier for a share. Refusing does not end at the line where it began: it would flutter there."""
        if used >= self.refuse or (before is Tier.REFUSE and used > self.allow):
            return Tier.REFUSE
        return Tier.CLEAN if used >= self.clean else Tier.FINE


@dataclass(frozen=True, slots=True)
class Fill:
    """One file system, in bytes: what is free for us, and all of it."""

    folder: str
    free: int
    size: int

    @property
    def used(self) -> float:
        # What is reserved for root is not free for us.
        return 1.0 - self.free / self.size if self.size else 0.0


def measure(folders: Iterable[Path]) -> list[Fill]:
    """Measure the file systems of folders; one that is not there is left out. Raises OSError if none is."""
    found, missing = [], None
    for folder in folders:
        try:
            usage = shutil.disk_usage(folder)
        except FileNotFoundError as fault:
            missing = fault
        else:
            found.append(Fill(str(folder), usage.free, usage.total))
    if missing is not None and not found:
        raise missing
    return found
