"""What tests ask of the conservation law: what was counted since, and whether it adds up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Self

from services.transcriber import metrics
from services.transcriber.session import LiveSession
from services.transcriber.tests.replicas import Replica

WITHIN_S = 20.0
STAGES = (
    "received", "durable", "repeated", "refused", "dropped",
    "heard", "transcribed", "silence", "unrecognised", "handed_over", "gap",
)  # fmt: skip


def counted() -> dict[str, float]:
    # Of this metric alone: to have all of a process's told takes as long as the tests may.
    [told] = metrics.AUDIO_BYTES.collect()
    found = {one.labels["stage"]: one.value for one in told.samples if one.name == "audio_bytes_total"}
    return {stage: found.get(stage, 0.0) for stage in STAGES}


@dataclass
class Accounts:
    """What was counted since this was made, by this process."""

    replicas: list[Replica]
    before: dict[str, float] = field(default_factory=counted)

    def __getitem__(self, stage: str) -> float:
        return counted()[stage] - self.before[stage]

    @property
    def undurable(self) -> float:
        """What the first law misses of the bytes that were received."""
        known = sum(self[stage] for stage in ("durable", "repeated", "refused", "dropped"))
        return self["received"] - known - sum(one.audio.pending_bytes for one in self.replicas)

    @property
    def untold(self) -> float:
        """What the second law misses of the PCM that was heard."""
        known = sum(self[stage] for stage in ("transcribed", "silence", "unrecognised", "handed_over"))
        return self["heard"] - known - sum(one.sessions.pending_bytes for one in self.replicas)

    async def settle(self) -> Self:
        """Wait until both laws hold: a session that is over is not told in the same instant. Raises AssertionError."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while self.undurable or self.untold:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{self.undurable:g} bytes and {self.untold:g} of PCM are missing") from None
        return self


def say(session: LiveSession, offset: int, audio: bytes) -> None:
    """Send a frame as the relay does."""
    metrics.AUDIO_RECEIVED.inc(len(audio))
    session.receive(offset, audio)
