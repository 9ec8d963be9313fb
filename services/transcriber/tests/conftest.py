"""What the tests of the transcriber share."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

RECORDING = Path(__file__).parents[3] / "dev/assets/meeting.wav"


@pytest.fixture(scope="session")
def speech() -> bytes:
    """The first 20 s of the bundled meeting: six utterances or so."""
    with wave.open(str(RECORDING)) as recording:
        return bytes(recording.readframes(20 * 16_000))
