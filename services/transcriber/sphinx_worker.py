"""The process in which PocketSphinx runs; `sphinx.py` starts it.

It speaks frames over its standard streams, each four bytes of length (big endian) and then the body. The
first frame it writes is `{}`: the model is loaded. Then each frame of audio (16 kHz mono s16le) is answered
by one of JSON, in order. It ends when its input does, when its parent dies, and at the first thing that
goes wrong: a decoder that failed once is in no known state, and a new process is cheap.
"""

import argparse
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any, BinaryIO

from pocketsphinx import Decoder

SAMPLE_RATE_HZ = 16_000
FRAMES_PER_SECOND = 100
# The decoder answers what it likes to less than this.
AUDIO_BYTES_MIN = SAMPLE_RATE_HZ * 2 // 10

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Load the model and answer until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--memory-bytes-max", type=int, required=True)
    parser.add_argument("--audio-bytes-max", type=int, required=True)
    parser.add_argument("--niceness", type=int, required=True)
    options = parser.parse_args()

    _die_with(options.parent)
    os.nice(options.niceness)
    resource.setrlimit(resource.RLIMIT_AS, (options.memory_bytes_max, options.memory_bytes_max))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    decoder = load_decoder()
    answers = sys.stdout.buffer
    _write(answers, {})
    while (pcm := _read(sys.stdin.buffer, options.audio_bytes_max)) is not None:
        _write(answers, decode(decoder, pcm))


def load_decoder() -> Decoder:
    """Return a decoder with the English model that comes with the package.

    Cepstral means are taken from each utterance alone (`cmn` batch): otherwise its text would depend on
    what the worker decoded before, which may be another meeting.
    """
    return Decoder(samprate=SAMPLE_RATE_HZ, cmn="batch", loglevel="FATAL")


def decode(decoder: Decoder, pcm: bytes) -> dict[str, Any]:
    """Return `{"words": [[text, start_s, end_s, probability], …]}`."""
    if len(pcm) < AUDIO_BYTES_MIN:
        return {"words": []}
    # Drops what the noise tracker has learnt, for the same reason.
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    words = [
        # "read(2)" is the second pronunciation of "read".
        (segment.word.partition("(")[0], segment.start_frame, segment.end_frame + 1, segment.prob)
        for segment in decoder.seg() or ()
        if segment.word[0] not in "<["
    ]
    return {
        "words": [
            [text, start / FRAMES_PER_SECOND, end / FRAMES_PER_SECOND, min(1.0, max(0.0, probability))]
            for text, start, end, probability in words
        ]
    }


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent died before the worker was up")


def _read(requests: BinaryIO, length_max: int) -> bytes | None:
    header = requests.read(4)
    if len(header) < 4:
        return None
    length = int.from_bytes(header)
    if length > length_max:
        sys.exit("the audio is longer than agreed")
    body = requests.read(length)
    return body if len(body) == length else None


def _write(answers: BinaryIO, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    answers.write(len(body).to_bytes(4) + body)
    answers.flush()


if __name__ == "__main__":
    main()
