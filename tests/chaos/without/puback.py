"""A transcriber that acknowledges audio as it comes in, before the broker has it."""

from __future__ import annotations

from functools import partial

from chassis import lifecycle
from chassis.settings import load
from services.transcriber.__main__ import start
from services.transcriber.audio_log import AudioLog, AudioWriter
from services.transcriber.settings import Settings


class HastyAudioLog(AudioLog):
    """Calls bytes durable that are in memory only."""

    def append(self, writer: AudioWriter, data: bytes, *, urgent: bool = False) -> None:
        """Take bytes, and say at once that they are safe."""
        super().append(writer, data, urgent=urgent)
        writer.durable_offset = writer.held_offset
        writer.on_durable()


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("transcriber", settings, partial(start, settings, audio_log=HastyAudioLog))
