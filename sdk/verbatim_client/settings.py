"""What a live session is started with, and how much it keeps while the platform cannot take it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verbatim_client.wire import FRAME_MAX_BYTES

MIB = 1024 * 1024


@dataclass(frozen=True)
class LiveSettings:
    """What a session is started with. Exactly one of `meeting_id` and `title` is usual."""

    meeting_id: str | None = None
    title: str | None = None
    encoding: str = "pcm_s16le"
    sample_rate: int = 16_000
    channels: int = 1
    language: str | None = None
    prompt: str | None = None
    vocabulary: list[str] | None = None
    speaker: str | None = None
    interim: bool = True

    @property
    def bytes_per_second(self) -> int:
        """Rate of the audio; only PCM has a fixed one. Raises ValueError for other encodings."""
        if self.encoding != "pcm_s16le":
            raise ValueError(f"{self.encoding} has no fixed rate")
        return self.sample_rate * self.channels * 2

    def message(self) -> dict[str, Any]:
        """Give the fields of the `start` message."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Buffering:
    """How much audio is kept until the platform acknowledges it, and how fast a backlog is sent.

    What neither `memory_bytes` nor, in a nameless temporary file in `folder` (None: the system's), `disk_bytes`
    can hold is dropped and declared as a gap. The defaults hold 2 minutes and 2.3 hours of 16 kHz mono PCM.
    After a reconnect or a hold, what gathered is sent at `catch_up` times real time (None: as fast as it goes);
    that needs an encoding of a fixed rate.
    """

    memory_bytes: int = 4 * MIB
    disk_bytes: int = 256 * MIB
    folder: Path | None = None
    catch_up: float | None = 8.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.memory_bytes < FRAME_MAX_BYTES or self.disk_bytes < 0:
            raise ValueError("the memory must hold a frame, the disk may hold nothing")
        if self.catch_up is not None and self.catch_up <= 1.0:
            raise ValueError("who sends no faster than people speak never catches up")


def buffering_at(speed: float | None) -> Buffering:
    """Give the defaults for a recording that is spoken at a multiple of real time (None: no bound).

    Catching up is twice as fast as speaking, where the default would not be.
    """
    usual = Buffering.catch_up
    assert usual is not None
    return Buffering(catch_up=None if speed is None else max(usual, 2.0 * speed))
