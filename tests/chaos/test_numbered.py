"""The measure itself: numbers survive any cut, each in exactly one piece, and the cutter takes them for speech."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.transcriber.cutting import Cutter, CuttingSettings
from tests.chaos.numbered import CHUNK_BYTES, SILENT, Rhythm, hear, numbers, speech, voiced, word

CHUNKS = 30
STREAM = b"".join(voiced(5, chunk) for chunk in range(CHUNKS))
SLOT_BYTES = 200


@given(st.lists(st.integers(1, len(STREAM) // 2 - 1), max_size=8))
def test_every_chunk_is_in_exactly_one_piece_of_any_cut(cuts: list[int]) -> None:
    edges = sorted({0, *(2 * cut for cut in cuts), len(STREAM)})
    pieces = [(a, b) for a, b in itertools.pairwise(edges)]
    heard = [one.chunk for a, b in pieces for one in hear(STREAM[a:b])]
    # Of a piece shorter than two slots nothing can be read.
    unreadable = {a_chunk for a, b in pieces if b - a < 2 * SLOT_BYTES for a_chunk in (a // CHUNK_BYTES,)}
    assert len(heard) == len(set(heard))
    assert heard == sorted(heard)
    assert set(range(CHUNKS)) - set(heard) <= unreadable


def test_repeated_audio_is_heard_twice_and_silence_not_at_all() -> None:
    twice = voiced(5, 7) + voiced(5, 7)
    assert [(one.session, one.chunk) for one in hear(twice)] == [(5, 7), (5, 7)]
    assert hear(SILENT * 20) == []
    assert hear(b"") == []


def test_one_wrong_bit_in_a_slot_is_no_number() -> None:
    slot = bytearray(voiced(1, 2)[:SLOT_BYTES])
    slot[100] ^= 1
    assert hear(bytes(slot)) == []


def test_words_are_read_back_among_others() -> None:
    assert list(numbers(f"well {word(3, 14)}, {word(15, 9)} seconds scc s1 c2")) == [(3, 14), (15, 9)]


def test_the_cutter_loses_no_chunk() -> None:
    stream = list(itertools.islice(speech(3, Rhythm(), seed=4), 1500))
    pcm = b"".join(audio for audio, _ in stream)
    cutter = Cutter(CuttingSettings(soft_cap_ms=5000, hard_cap_ms=7000))
    cut = [utterance for at in range(0, len(pcm), CHUNK_BYTES) for utterance in cutter.feed(pcm[at : at + CHUNK_BYTES])]
    cut += cutter.flush()
    heard = [one.chunk for utterance in cut for one in hear(pcm[utterance.start_byte : utterance.end_byte])]
    assert heard == [chunk for chunk, (_, spoken) in enumerate(stream) if spoken]
    assert any(utterance.forced for utterance in cut)
