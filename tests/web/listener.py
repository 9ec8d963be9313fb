"""A speech API that knows the bundled meeting: it says which of its words lie in the audio that it is given.

It holds no state about what it heard, so whatever reaches it twice is heard twice, and what never does is missing. The
audio may have gone through a browser: resampled, levelled, a little late. Where it lies in the meeting is found by
cross-correlation; a word belongs to the piece of audio that holds its middle.
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dev.assets.make_recording import read_script
from services.transcriber.tests.scripted_server import Answer, Request, ScriptedServer, answer
from tests.web.browser import ASSETS

RATE_HZ = 16_000
# Louder than the room, and shorter than any pause between two sentences.
VOICED_ABOVE = 150
WITHIN_SENTENCE_S = 0.36
CERTAIN_ABOVE = 0.2

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of the meeting and its middle, in seconds of the recording."""

    text: str
    middle_s: float


def load() -> Samples:
    """Return the bundled meeting."""
    with wave.open(str(ASSETS / "meeting.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32)


def words_of(meeting: Samples) -> list[SpokenWord]:
    """Return every word that is said, with its middle: a sentence's words share its time by their length."""
    sentences = list(read_script((ASSETS / "meeting.txt").read_text(encoding="utf-8")))
    stretches = _stretches(meeting)
    assert len(stretches) == len(sentences), "each sentence is a stretch of speech between pauses"
    words = []
    for (start, end), sentence in zip(stretches, sentences, strict=True):
        spoken = sentence.text.split()
        lengths = np.array([len(word) + 1 for word in spoken], dtype=float)
        middles = (np.cumsum(lengths) - lengths / 2) / lengths.sum() * (end - start) + start
        words += [SpokenWord(text, float(at)) for text, at in zip(spoken, middles, strict=True)]
    return words


def _stretches(meeting: Samples) -> list[tuple[float, float]]:
    loud = np.flatnonzero(np.abs(meeting) > VOICED_ABOVE)
    breaks = np.flatnonzero(np.diff(loud) > WITHIN_SENTENCE_S * RATE_HZ)
    starts = np.concatenate(([loud[0]], loud[breaks + 1]))
    ends = np.concatenate((loud[breaks], [loud[-1]]))
    return [(start / RATE_HZ, end / RATE_HZ) for start, end in zip(starts, ends, strict=True)]


class Listener(ScriptedServer):
    """The server. `away`: it answers 503. `heard` is where each piece of audio was found, for those who look."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.meeting = load()
        self.words = words_of(self.meeting)
        self.heard: list[tuple[float, float]] = []
        self.otherwise = self._hear

    def said_until(self, seconds: float) -> list[str]:
        """Return the words that are said until then."""
        return [word.text for word in self.words if word.middle_s < seconds]

    def place(self, audio: Samples) -> float | None:
        """Return where audio begins in the meeting, in seconds; None if it is not of it."""
        size = 1 << (len(self.meeting) + len(audio) - 1).bit_length()
        likeness = np.fft.irfft(np.fft.rfft(self.meeting, size) * np.conj(np.fft.rfft(audio, size)), size)
        best = int(np.argmax(likeness))
        start = best if best < len(self.meeting) else best - size
        part = self.meeting[max(0, start) : start + len(audio)]
        energy = float(np.linalg.norm(part) * np.linalg.norm(audio))
        return start / RATE_HZ if energy and likeness[best] / energy > CERTAIN_ABOVE else None

    def _hear(self, request: Request) -> Answer:
        if self.away:
            return answer({"error": {"message": "scripted"}}, 503)
        with wave.open(io.BytesIO(request.file)) as file:
            audio = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32)
        start_s = self.place(audio)
        if start_s is None:
            return answer({"text": ""})
        end_s = start_s + len(audio) / RATE_HZ
        self.heard.append((start_s, end_s))
        return answer({"text": " ".join(word.text for word in self.words if start_s <= word.middle_s < end_s)})
