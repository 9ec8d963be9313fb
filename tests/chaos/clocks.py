"""Clocks of processes that are wrong, by libfaketime. What measures durations (CLOCK_MONOTONIC) is left alone."""

from __future__ import annotations

from pathlib import Path

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def may_skew() -> str:
    """Return why clocks cannot be set here; empty if they can."""
    return "" if _LIBRARIES else "libfaketime is not installed (Debian: apt-get install libfaketime)"


def skewed(seconds: float) -> dict[str, str]:
    """Return the environment of a process whose clock is so much ahead."""
    if not _LIBRARIES:
        return {}
    return {"LD_PRELOAD": str(_LIBRARIES[0]), "FAKETIME": f"{seconds:+g}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
