"""Clocks of processes that are wrong: only the wall clock, as where nobody keeps it; durations are still measured."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from dev.settings import ROOT

_SOURCE = Path(__file__).with_name("clock.c")
_LIBRARY = ROOT / "build" / "clock.so"
_WITHIN_S = 120.0


def may_skew() -> str:
    """Make the library that is preloaded, and return why it cannot be; empty if it is there."""
    compiler = shutil.which("cc")
    if compiler is None:
        return "there is no C compiler (Debian: apt-get install gcc libc6-dev)"
    _LIBRARY.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(_LIBRARY), str(_SOURCE)]
    made = subprocess.run(command, check=False, capture_output=True, timeout=_WITHIN_S)
    return "" if made.returncode == 0 else "the clock does not compile here"


def skewed(seconds: int) -> dict[str, str]:
    """Return the environment of a process whose clock is so much ahead; `may_skew` comes first."""
    return {"LD_PRELOAD": str(_LIBRARY), "VERBATIM_CLOCK_SKEW_S": str(seconds)}
