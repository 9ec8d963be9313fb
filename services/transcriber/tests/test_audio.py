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


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1), st.integers(0, 400), st.integers(0, 400))
def test_window_gives_what_came_and_frees_the_pieces_below(parts: list[bytes], one: int, other: int) -> None:
    window, stream = Window(100), bytes(100) + b"".join(parts)
    for part in parts:
        window.append(part)
    start, end = sorted((100 + one, 100 + other))
    assert window.slice(start, end) == stream[start:end]
    window.forget_below(start)
    assert window.slice(start, end) == stream[start:end]
    assert window.size <= max(0, len(stream) - start) + 40


def test_window_frees_also_a_part_of_what_came_at_once() -> None:
    window = Window(0)
    window.append(bytes(1_000_000))
    window.forget_below(900_000)
    assert window.size < 200_000
    window.forget_below(1_000_000)
    assert (window.size, window.slice(0, 1_000_000)) == (0, b"")
