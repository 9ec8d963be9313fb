"""Audio for the tests: the bundled meeting, and sounds that are not speech. All 16 kHz mono s16le."""

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.transcriber.cutting import BYTES_PER_SECOND, SAMPLE_RATE_HZ

_ASSETS = Path(__file__).parents[3] / "dev" / "assets"


def meeting() -> bytes:
    """Return the bundled recording."""
    with wave.open(str(_ASSETS / "meeting.wav")) as recording:
        pcm: bytes = recording.readframes(recording.getnframes())
    return pcm


def meeting_script() -> str:
    """Return what is said in the bundled recording, without the speakers."""
    script = (_ASSETS / "meeting.txt").read_text(encoding="utf-8")
    return " ".join(line.partition(":")[2].strip() for line in script.splitlines())


def silence(duration_s: float) -> bytes:
    """Return digital silence."""
    return bytes(_samples(duration_s) * 2)


def noise(duration_s: float, *, rms: float, seed: int = 1) -> bytes:
    """Return white noise; `rms` as a fraction of full scale."""
    return _pcm(np.random.default_rng(seed).normal(0.0, rms * 32_768, _samples(duration_s)))


def tone(duration_s: float, *, frequency_hz: float, amplitude: float = 0.3) -> bytes:
    """Return a sine, aliased if it is above half the sample rate."""
    times_s = np.arange(_samples(duration_s)) / SAMPLE_RATE_HZ
    return _pcm(32_768 * amplitude * np.sin(2 * np.pi * frequency_hz * times_s))


def level(duration_s: float, *, amplitude: float = 0.4) -> bytes:
    """Return a constant: an offset of the converter."""
    return _pcm(np.full(_samples(duration_s), 32_768 * amplitude))


def coded_data(duration_s: float, *, seed: int = 1) -> bytes:
    """Return loud samples of one amplitude and random sign, as tests use that code numbers into audio."""
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), _samples(duration_s))
    return _pcm(9_000 * signs)


def speech_without_pauses() -> bytes:
    """Return the bundled meeting as one breath: every 10 ms below -40 dBFS is left out."""
    samples = np.frombuffer(meeting(), dtype="<i2").astype(np.float64)
    blocks = samples[: samples.size // 160 * 160].reshape(-1, 160)
    return _pcm(blocks[np.sqrt((blocks**2).mean(axis=1)) > 328].ravel())


def seconds(pcm: bytes) -> float:
    """Return how long the audio is."""
    return len(pcm) / BYTES_PER_SECOND


def _samples(duration_s: float) -> int:
    return round(duration_s * SAMPLE_RATE_HZ)


def _pcm(samples: NDArray[np.float64]) -> bytes:
    return np.clip(np.rint(samples), -32_768, 32_767).astype("<i2").tobytes()
