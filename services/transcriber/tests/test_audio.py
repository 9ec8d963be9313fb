"""Audio on its way to the log and back."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.transcriber.audio import Window, assemble, pack, pieces, unpack


def test_message_of_the_log_reads_back() -> None:
    assert unpack(pack(2**40, b"audio")) == (2**40, b"audio")


def test_message_shorter_than_an_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        unpack(b"1234567")


@pytest.mark.req("R-WS-4")
@given(st.binary(min_size=1, max_size=400), st.integers(1, 50), st.integers(0, 300), st.randoms(use_true_random=False))
def test_repeats_overlaps_and_disorder_change_nothing(data: bytes, size: int, start: int, rng: random.Random) -> None:
    messages = list(pieces(data, 0, size))
    messages += [(o, d) for o, d in messages if rng.random() < 0.3]
    messages += [(i, data[i : i + 30]) for i in range(0, len(data), 17)]
    rng.shuffle(messages)
    start = min(start, len(data))
    assert assemble(messages, start) == data[start:]


@pytest.mark.req("R-WS-4")
def test_run_ends_at_a_hole() -> None:
    assert assemble([(0, b"abc"), (5, b"fgh")], 0) == b"abc"


def test_window_forgets_below_and_slices_above() -> None:
    window = Window(100, bytearray())
    window.append(bytes(range(50)))
    window.forget_below(110)
    assert (window.start_offset, window.end_offset) == (110, 150)
    assert window.slice(105, 112) == bytes([10, 11])
    window.forget_below(1000)
    assert (window.start_offset, window.end_offset) == (150, 150)
