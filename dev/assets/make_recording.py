"""Make `meeting.wav`, the bundled recording, from its script `meeting.txt`.

    python -m dev.assets.make_recording

Needs `flite` (Debian package of that name). The same script and flite make the same bytes: voices, pauses and
the faint noise under them come from the constants below. The recording is 16 kHz mono 16-bit; it begins with
0.5 s and ends with 1.5 s without speech.
"""

import re
import subprocess
import tempfile
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
VOICES = {"Emma": "slt", "David": "rms"}

LEAD_IN_S = 0.5
TAIL_S = 1.5
TURN_PAUSES_S = (0.9, 1.2, 0.8, 1.0)
SENTENCE_PAUSE_S = 0.7
# A short sentence runs into the next one, as people speak.
SHORT_SENTENCE_WORDS = 5
SHORT_SENTENCE_PAUSE_S = 0.4

# Digital silence is found nowhere but in tests; a room has a floor of about -75 dBFS.
ROOM_NOISE_RMS = 6.0
ROOM_NOISE_SEED = 16_000
SPEECH_PEAK = 20_000
# flite pads a sentence with its own silence, which would blur the pauses that are meant.
PADDING_BELOW = 80

Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Sentence:
    """What one person says in one breath, and the pause after it."""

    speaker: str
    text: str
    pause_s: float


def read_script(script: str) -> Iterator[Sentence]:
    """Yield the sentences of a script with one `Speaker: text` turn per line."""
    turn_pauses_s = cycle(TURN_PAUSES_S)
    for line in script.splitlines():
        speaker, _, turn = line.partition(":")
        sentences = re.findall(r"[^.?!]+[.?!]", turn)
        for position, text in enumerate(sentences):
            if position == len(sentences) - 1:
                pause_s = next(turn_pauses_s)
            elif len(text.split()) <= SHORT_SENTENCE_WORDS:
                pause_s = SHORT_SENTENCE_PAUSE_S
            else:
                pause_s = SENTENCE_PAUSE_S
            yield Sentence(speaker, text.strip(), pause_s)


def speak(sentence: Sentence) -> Samples:
    """Return the sentence as flite speaks it, at full level and without flite's padding."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sentence.wav"
        command = ["flite", "-voice", VOICES[sentence.speaker], "-t", sentence.text, "-o", str(path)]
        subprocess.run(command, check=True)
        with wave.open(str(path)) as recording:
            assert recording.getframerate() == SAMPLE_RATE_HZ, "the voice is not a 16 kHz voice"
            samples = np.frombuffer(recording.readframes(recording.getnframes()), dtype="<i2")
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > PADDING_BELOW)
    spoken = samples[loud[0] : loud[-1] + 1].astype(np.float64)
    levelled: Samples = (spoken * (SPEECH_PEAK / np.abs(spoken).max())).astype(np.int16)
    return levelled


def silence(duration_s: float) -> Samples:
    """Return `duration_s` of digital silence."""
    return np.zeros(round(duration_s * SAMPLE_RATE_HZ), dtype=np.int16)


def make_recording(script: str) -> Samples:
    """Return the whole meeting."""
    parts = [silence(LEAD_IN_S)]
    for sentence in read_script(script):
        parts += [speak(sentence), silence(sentence.pause_s)]
    parts[-1] = silence(TAIL_S)
    meeting = np.concatenate(parts)
    room = np.random.default_rng(ROOM_NOISE_SEED).normal(0.0, ROOM_NOISE_RMS, meeting.size)
    mixed: Samples = np.clip(meeting + np.rint(room), -32_768, 32_767).astype(np.int16)
    return mixed


def main() -> None:
    """Write `meeting.wav` beside the script."""
    folder = Path(__file__).parent
    meeting = make_recording((folder / "meeting.txt").read_text(encoding="utf-8"))
    with wave.open(str(folder / "meeting.wav"), "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(SAMPLE_RATE_HZ)
        recording.writeframes(meeting.astype("<i2").tobytes())
    print(f"meeting.wav: {meeting.size / SAMPLE_RATE_HZ:.1f} s")


if __name__ == "__main__":
    main()
