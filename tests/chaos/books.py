"""The books of the processes: the conservation law as the alert AudioUnaccounted reads it, and segments lost."""

from __future__ import annotations

import asyncio
import time

from tests.chaos.platform import Platform

_UNDURABLE = ("durable", "repeated", "refused", "dropped")
_UNTOLD = ("transcribed", "silence", "unrecognised", "handed_over")


async def unbalanced(platform: Platform) -> list[str]:
    """Say what does not add up. Raises TransportError if a process does not answer."""
    said = []
    for name in platform.plan.names("transcriber"):
        samples = await platform.samples(name)
        for came, known, until in (("received", _UNDURABLE, "durable"), ("heard", _UNTOLD, "transcribed")):
            pending = samples[f'audio_pending_bytes{{until="{until}"}}']
            missing = _stage(samples, came) - sum(_stage(samples, stage) for stage in known) - pending
            if missing:
                said.append(f"{name}: of what it {came} {missing:g} bytes are in no account")
    storing = platform.plan.names("meetings")
    lost = sum([await platform.figure(name, "transcript_segments_lost_total") for name in storing])
    if lost:
        said.append(f"{lost:g} segments were missing when the end of a session was stored")
    return said


async def closed(platform: Platform, within_s: float = 20.0) -> list[str]:
    """Wait until everything adds up, which takes a moment after sessions have changed hands; say what does not."""
    deadline = time.monotonic() + within_s
    while (said := await unbalanced(platform)) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    return said


def _stage(samples: dict[str, float], stage: str) -> float:
    return samples[f'audio_bytes_total{{stage="{stage}"}}']
