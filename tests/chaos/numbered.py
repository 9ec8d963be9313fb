"""Speech-like audio in which every tenth of a second says which one it is.

A chunk is 100 ms of 16 kHz mono s16le. A voiced chunk carries its session and its number 16 times, in the lowest bits
of its samples: each slot of 100 samples holds a sync word, session, chunk, the slot's own place in the chunk, and a
CRC-32. Because a slot tells its place, any whole slot tells where the chunk's centre is. *A chunk belongs to the piece
of audio that holds its centre sample*: however a stream is cut into pieces (of at least 13 ms), each chunk is counted
once.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
CHUNK_SAMPLES = 1_600
CHUNK_BYTES = 2 * CHUNK_SAMPLES
CHUNKS_PER_SECOND = SAMPLE_RATE_HZ // CHUNK_SAMPLES
NUMBER_MAX = (1 << 24) - 1

_SLOTS = 16
_SLOT_SAMPLES = CHUNK_SAMPLES // _SLOTS
_SYNC = 0b1011_0100_0111_0010
_SYNC_BITS = 16
_SYNC_WEIGHTS = (1 << np.arange(_SYNC_BITS - 1, -1, -1)).astype(np.int32)
_SLOT_BYTES = 13
_SPARE_BITS = 8 * _SLOT_BYTES - _SLOT_SAMPLES

_CARRIER_SECONDS = 2
_CARRIER_RMS = 0.12


@dataclass(frozen=True, slots=True)
class Heard:
    """A chunk whose centre lies in a piece of audio; `centre` is in samples from the piece's first."""

    session: int
    chunk: int
    centre: int


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How long people talk and pause, in chunks; both ends included. A pause of 7 chunks ends an utterance."""

    talk: tuple[int, int] = (8, 80)
    pause: tuple[int, int] = (8, 14)


def voiced(session: int, chunk: int) -> bytes:
    """Return the audio of one chunk that is spoken."""
    assert 0 <= session <= NUMBER_MAX
    assert 0 <= chunk <= NUMBER_MAX
    place = chunk * CHUNK_SAMPLES % len(_CARRIER)
    samples = _CARRIER[place : place + CHUNK_SAMPLES] | _bits(session, chunk)
    return samples.astype("<i2").tobytes()


SILENT = bytes(CHUNK_BYTES)


def speech(session: int, rhythm: Rhythm, seed: int) -> Iterator[tuple[bytes, bool]]:
    """Yield audio and whether it is spoken, chunk after chunk, for ever: talk and pauses in turn."""
    draw = random.Random(f"{seed}/{session}")
    talking, left = True, draw.randint(*rhythm.talk)
    for chunk in range(NUMBER_MAX):
        if left == 0:
            talking = not talking
            left = draw.randint(*(rhythm.talk if talking else rhythm.pause))
        left -= 1
        yield voiced(session, chunk) if talking else SILENT, talking


def hear(pcm: bytes) -> list[Heard]:
    """Return the chunks whose centre lies in the audio, in its order. One that is there twice is heard twice."""
    samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], dtype="<i2")
    if len(samples) < _SLOT_SAMPLES:
        return []
    bits = (samples & 1).astype(np.int32)
    windows = np.lib.stride_tricks.sliding_window_view(bits, _SYNC_BITS)
    found: dict[Heard, None] = {}
    for start in np.flatnonzero(windows @ _SYNC_WEIGHTS == _SYNC).tolist():
        if (slot := _read(bits[start : start + _SLOT_SAMPLES])) is not None:
            session, chunk, number = slot
            centre = start - number * _SLOT_SAMPLES + CHUNK_SAMPLES // 2
            if 0 <= centre < len(samples):
                found[Heard(session, chunk, centre)] = None
    return list(found)


def word(session: int, chunk: int) -> str:
    """Return a chunk's number as the word that the oracle says for it."""
    return f"s{session}c{chunk}"


def numbers(text: str) -> Iterator[tuple[int, int]]:
    """Yield (session, chunk) of the words of a text. What is no such word is skipped: an engine's own invention."""
    for token in text.split():
        session, found, chunk = token.strip(".,").removeprefix("s").partition("c")
        if found and session.isdigit() and chunk.isdigit():
            yield int(session), int(chunk)


def _bits(session: int, chunk: int) -> NDArray[np.int16]:
    rows = bytearray()
    for slot in range(_SLOTS):
        payload = session << 28 | chunk << 4 | slot
        check = zlib.crc32(payload.to_bytes(7, "big"))
        rows += (_SYNC << 84 | payload << 32 | check).to_bytes(_SLOT_BYTES, "big")
    table = np.frombuffer(bytes(rows), dtype=np.uint8).reshape(_SLOTS, _SLOT_BYTES)
    return np.unpackbits(table, axis=1)[:, _SPARE_BITS:].reshape(-1).astype(np.int16)


def _read(bits: NDArray[np.int32]) -> tuple[int, int, int] | None:
    if len(bits) < _SLOT_SAMPLES:
        return None
    padded = np.concatenate((np.zeros(_SPARE_BITS, dtype=np.uint8), bits.astype(np.uint8)))
    value = int.from_bytes(np.packbits(padded).tobytes(), "big")
    payload, check = value >> 32 & ((1 << 52) - 1), value & 0xFFFFFFFF
    if zlib.crc32(payload.to_bytes(7, "big")) != check:
        return None
    return payload >> 28, payload >> 4 & NUMBER_MAX, payload & 0xF


def _carrier() -> NDArray[np.int16]:
    """Return two seconds that webrtcvad takes for a voice, all even: gliding harmonics under formants, in syllables."""
    count = _CARRIER_SECONDS * SAMPLE_RATE_HZ
    at = np.arange(count) / SAMPLE_RATE_HZ
    pitch_hz = 125 + 20 * np.sin(2 * np.pi * 1.5 * at) + 8 * np.sin(2 * np.pi * 5 * at)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    voice = np.zeros(count)
    for harmonic in range(1, 28):
        hz = harmonic * 125
        gain = sum(
            np.exp(-(((hz - formant) / width) ** 2)) for formant, width in ((600, 180), (1200, 250), (2500, 350))
        )
        voice += (0.05 + gain) * np.sin(harmonic * phase + harmonic)
    voice += 0.02 * np.random.default_rng(7).standard_normal(count)
    # Five syllables in two seconds, the last part of each a dip in which a long utterance can be cut.
    voice *= np.where((at * 2.5) % 1.0 < 0.7, 1.0, 0.25)
    voice *= _CARRIER_RMS * 32_768 / np.sqrt(np.mean(voice**2))
    return np.clip(voice, -32_000, 32_000).astype(np.int16) & np.int16(~1)


_CARRIER = _carrier()
