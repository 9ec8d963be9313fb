"""The microphone, by whichever recorder this machine has: a program that writes raw PCM to its stdout."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from verbatim_client.cli.edge import CliError

RATE_HZ = 16_000
ENDS_WITHIN_S = 2.0


@dataclass(frozen=True)
class Recorder:
    """A program, what makes it write 16 kHz mono s16le to stdout, and how it is told which device."""

    program: str
    arguments: tuple[str, ...]
    device: str | None


# PipeWire or PulseAudio, ALSA, and SoX, which is there on macOS too.
RECORDERS = (
    Recorder("parec", ("--raw", "--format=s16le", f"--rate={RATE_HZ}", "--channels=1"), "--device={}"),
    Recorder("arecord", ("-q", "-t", "raw", "-f", "S16_LE", "-r", str(RATE_HZ), "-c", "1"), "--device={}"),
    Recorder("rec", ("-q", "-t", "raw", "-e", "signed-integer", "-b", "16", "-r", str(RATE_HZ), "-c", "1", "-"), None),
)


@contextlib.contextmanager
def listening(device: str | None = None) -> Iterator[int]:
    """Record, and give the file descriptor to read from. Raises CliError if this machine has no recorder."""
    recorder = next((one for one in RECORDERS if shutil.which(one.program)), None)
    if recorder is None:
        names = ", ".join(one.program for one in RECORDERS)
        raise CliError(f"this machine has no recorder ({names}): install pulseaudio-utils, alsa-utils or sox")
    if device is not None and recorder.device is None:
        raise CliError(f"{recorder.program} takes no --device: it listens where AUDIODEV says")
    chosen = [recorder.device.format(device)] if device is not None and recorder.device else []
    # A group of its own: Ctrl-C ends the audio here, and the recorder when all of it is read.
    process = subprocess.Popen(
        [recorder.program, *chosen, *recorder.arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.fileno()
    finally:
        process.terminate()
        try:
            process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
