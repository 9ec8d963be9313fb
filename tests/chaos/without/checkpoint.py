"""A transcriber that adopts a session from somewhere before the place where its last owner stopped."""

from __future__ import annotations

from functools import partial

from chassis import lifecycle
from chassis.settings import load
from services.transcriber.__main__ import start
from services.transcriber.audio_log import AudioLog
from services.transcriber.settings import Settings
from services.transcriber.transcript import BYTES_PER_SECOND


class ForgetfulAudioLog(AudioLog):
    """Does not know exactly what was transcribed already."""

    async def read(self, session_id: str, start_offset: int, sequence: int) -> tuple[bytes, int]:
        """Return the bytes, and some before them."""
        return await super().read(session_id, max(0, start_offset - 3 * BYTES_PER_SECOND), 0)


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("transcriber", settings, partial(start, settings, audio_log=ForgetfulAudioLog))
