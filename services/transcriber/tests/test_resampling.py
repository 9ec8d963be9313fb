"""A third of the samples: speech stays as it was, what would be heard as an alias goes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.transcriber.resampling import FACTOR, Decimator

RATE_HZ = 48_000


def tone(frequency_hz: float) -> bytes:
    times = np.arange(RATE_HZ // 2) / RATE_HZ
    pcm: bytes = np.rint(10_000 * np.sin(2 * np.pi * frequency_hz * times)).astype("<i2").tobytes()
    return pcm


def level_db(frequency_hz: float) -> float:
    heard = np.frombuffer(Decimator().decimate(tone(frequency_hz)), dtype="<i2")[200:].astype(np.float64)
    return float(20 * np.log10(np.sqrt((heard**2).mean()) * 2**0.5 / 10_000 + 1e-9))


@pytest.mark.parametrize("frequency_hz", [100, 1_000, 4_000, 6_500])
def test_speech_keeps_its_level(frequency_hz: float) -> None:
    assert level_db(frequency_hz) == pytest.approx(0.0, abs=0.2)


@pytest.mark.parametrize("frequency_hz", [9_000, 12_000, 15_000, 20_000, 23_900])
def test_what_would_alias_is_gone(frequency_hz: float) -> None:
    assert level_db(frequency_hz) < -60


@given(lengths=st.lists(st.integers(0, 50), min_size=1, max_size=20), seed=st.integers(0, 1000))
def test_the_split_changes_not_one_bit(lengths: list[int], seed: int) -> None:
    samples = np.random.default_rng(seed).integers(-32_768, 32_768, sum(lengths) * FACTOR).astype("<i2")
    parts, at, split = [], 0, Decimator()
    for length in lengths:
        parts.append(split.decimate(samples[at : at + length * FACTOR].tobytes()))
        at += length * FACTOR
    assert b"".join(parts) == Decimator().decimate(samples.tobytes())
    assert len(b"".join(parts)) == 2 * sum(lengths)
