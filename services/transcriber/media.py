"""The door to recorded files: decoded and cut by PyAV in a process of its own, one for each file.

What strangers send meets a large decoder written in C. It runs where it can be killed, with limits on memory, time and
output, without network and without any other file (`sandbox.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from chassis import telemetry
from chassis.errors import AppError, Kind
from services.transcriber import metrics
from services.transcriber.containers import Container, UnreadableError, damaged, too_costly
from services.transcriber.cutting import BYTES_PER_SECOND, CuttingSettings, Utterance

log = telemetry.logger(__name__)

PREFIX = "upload_"
_ANSWER_BYTES_MAX = 8 * 1024 * 1024
_COMPLAINT_BYTES_MAX = 16 * 1024
_REAP_S = 5.0
_OUT_OF_MEANS = frozenset({signal.SIGXCPU, signal.SIGKILL, signal.SIGXFSZ})


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What one file may take: bytes of memory, seconds of processor and of the clock, seconds of sound."""

    memory_bytes: int = 768 * 1024**2
    cpu_s: int = 180
    wall_s: float = 600.0
    audio_s: int = 6 * 3600


class Recording:
    """The sound of a file, 16 kHz mono s16le in a nameless file, and the utterances found in it."""

    def __init__(self, sound: IO[bytes], pcm_bytes: int, utterances: list[Utterance]) -> None:
        self._sound = sound
        self.pcm_bytes = pcm_bytes
        self.utterances = utterances

    def pcm(self, start_byte: int, end_byte: int) -> bytes:
        """Return the bytes [start_byte, end_byte) of the sound."""
        return os.pread(self._sound.fileno(), end_byte - start_byte, start_byte)


class MediaDecoder:
    """Makes recordings of files. Scratch files lie in `folder` and have no name, so that nothing is left of them."""

    def __init__(self, folder: Path, limits: MediaLimits, cutting: CuttingSettings) -> None:
        self._folder = folder
        self._limits = limits
        self._cutting = cutting

    @contextmanager
    def scratch(self) -> Iterator[IO[bytes]]:
        """Open a file that is gone when it is closed, or when this process dies."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=PREFIX, dir=self._folder, buffering=0) as file:
            yield file

    async def decode(self, source: IO[bytes], container: Container, sound: IO[bytes]) -> Recording:
        """Decode a file into `sound`, an empty scratch file, and cut it into utterances.

        Raises UnreadableError; AppError: TIMEOUT if it takes too long here and now, INSUFFICIENT_STORAGE if there is no
        space left, INTERNAL for a failure of ours.
        """
        limits = self._limits
        room = os.statvfs(self._folder)
        # Sound is at most so much larger than the file; what there is at all limits the rest.
        if room.f_bavail * room.f_frsize < 64 * 1024**2:
            raise _no_space()
        arguments = {
            "container": container,
            "parent": os.getpid(),
            "source": source.fileno(),
            "sound": sound.fileno(),
            "memory-bytes-max": limits.memory_bytes,
            "cpu-s-max": limits.cpu_s,
            "audio-s-max": limits.audio_s,
            "cutting": json.dumps(asdict(self._cutting)),
        }
        source.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.transcriber.media_worker",
                *(part for name, value in arguments.items() for part in (f"--{name}", str(value))),
                stdin=DEVNULL, stdout=PIPE, stderr=PIPE, pass_fds=(source.fileno(), sound.fileno()),
                # Our code and nothing else of the environment: it needs no secrets.
                env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
        except OSError as fault:  # there is no memory for it, or no process to be had
            raise AppError(
                Kind.UNAVAILABLE, "The file cannot be decoded right now.", log=f"no decoder: {fault!r}"
            ) from fault
        try:
            async with asyncio.timeout(limits.wall_s):
                answer, complaint = await asyncio.gather(
                    _read(process.stdout, _ANSWER_BYTES_MAX), _read(process.stderr, _COMPLAINT_BYTES_MAX)
                )
                code = await process.wait()
        except TimeoutError:
            metrics.DECODE_KILLED.labels("clock").inc()
            raise AppError(Kind.TIMEOUT, "It took too long to decode the file.") from None
        finally:
            await _end(process)
        return _recording(sound, code, answer, complaint)


def write_all(file: IO[bytes], piece: bytes) -> None:
    """Write a piece to an unbuffered file. Raises AppError(INSUFFICIENT_STORAGE) if there is no space left."""
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as fault:
        if fault.errno != errno.ENOSPC:
            raise
        raise _no_space() from fault


def _no_space() -> AppError:
    return AppError(Kind.INSUFFICIENT_STORAGE, "There is no space left.", retry_after_s=60.0)


async def _read(stream: asyncio.StreamReader | None, most: int) -> bytes:
    assert stream is not None
    kept = bytearray()
    while part := await stream.read(64 * 1024):
        kept += part[: most - len(kept)]
    return bytes(kept)


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REAP_S):
                await process.wait()


def _recording(sound: IO[bytes], code: int, answer: bytes, complaint: bytes) -> Recording:
    if code < 0:
        means = -code in _OUT_OF_MEANS
        metrics.DECODE_KILLED.labels("means" if means else "crash").inc()
        log.warning("decoder killed", signal=-code)
        raise too_costly() if means else damaged()
    if code > 0:
        # The last line of a trace is the exception; its text may quote what was sent.
        kind = complaint.decode(errors="replace").strip().rpartition("\n")[2].partition(":")[0]
        raise AppError(Kind.INTERNAL, "Something went wrong on our side.", log=f"decoder ended with {code}: {kind}")
    told: dict[str, Any] = orjson.loads(answer)
    metrics.DECODE_PEAK.observe(told["peak_bytes"])
    if "no_space" in told:
        raise _no_space()
    if "reason" in told:
        raise UnreadableError(told["reason"], told["message"])
    metrics.DECODED_SECONDS.inc(told["pcm_bytes"] / BYTES_PER_SECOND)
    utterances = [Utterance(start, end, context, forced) for start, end, context, forced in told["utterances"]]
    return Recording(sound, told["pcm_bytes"], utterances)
