"""The process in which one recording is decoded and cut; `media.py` starts it.

It gets two open files by number, the recording and an empty one for its sound (16 kHz mono s16le), and tells in JSON on
its standard output what became of it. It has no network, opens no other file, and is killed when it uses more than is
its due.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import json
import mmap
import os
import pkgutil
import sys
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from services.transcriber import sandbox

_SAMPLE_RATE_HZ, _SAMPLE_BYTES = 16_000, 2
_SECOND_BYTES = _SAMPLE_RATE_HZ * _SAMPLE_BYTES

_DEMUXERS = {"mp3": "mp3", "wav": "wav", "ogg": "ogg", "webm": "matroska", "mp4": "mov"}
_CODECS = frozenset({"mp3", "mp3float", "aac", "alac", "opus", "vorbis", "flac", "pcm_u8", "pcm_s16le", "pcm_s24le",
                     "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw", "pcm_mulaw"})  # fmt: skip
# Recorders leave out silence: a jump of the clock from here on is filled up.
_JUMP_S = 0.1
_WRITE_BYTES = 1024 * 1024


def main() -> None:
    """Decode one recording and tell what became of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--container", choices=tuple(_DEMUXERS), required=True)
    for name in ("parent", "source", "sound", "memory-bytes-max", "cpu-s-max", "audio-s-max"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--cutting", type=json.loads, required=True)
    options = parser.parse_args()

    sandbox.die_with(options.parent)
    layers = ["network name space"] if sandbox.leave_network() else []
    file_bytes = options.audio_s_max * _SECOND_BYTES + _WRITE_BYTES
    sandbox.confine(sandbox.Limits(options.memory_bytes_max, options.cpu_s_max, file_bytes))
    # Imported late: threads of theirs would keep the process in its name space.
    import av  # noqa: PLC0415
    import av.error  # noqa: PLC0415
    import av.logging  # noqa: PLC0415

    from services.transcriber.containers import UnreadableError, check, too_costly  # noqa: PLC0415
    from services.transcriber.cutting import Cutter, CuttingSettings  # noqa: PLC0415

    av.logging.set_level(None)
    settings = CuttingSettings(**options.cutting)
    status = Path("/proc/self/status").open("rb", buffering=0)  # noqa: SIM115 - read when no file can be opened any more
    _warm_up()
    source = os.fdopen(options.source, "rb")
    sound = os.fdopen(options.sound, "wb", buffering=_WRITE_BYTES)
    if sandbox.give_up_calls():
        layers.append("system calls")
    try:
        with mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as data:
            check(options.container, data)
        cutter = Cutter(settings)
        utterances: list[Any] = []
        size = 0
        for pcm in _decoded(source, options.container, options.audio_s_max):
            size += len(pcm)
            sound.write(pcm)
            utterances += cutter.feed(pcm)
        utterances += cutter.flush()
        sound.flush()
        rows = [[u.start_byte, u.end_byte, u.context_start_byte, u.forced] for u in utterances]
        told: dict[str, Any] = {"pcm_bytes": size, "utterances": rows}
    except UnreadableError as fault:
        told = {"reason": fault.reason, "message": str(fault)}
    except MemoryError:
        told = {"reason": too_costly().reason, "message": str(too_costly())}
    except OSError as fault:
        if fault.errno != errno.ENOSPC:
            raise
        told = {"no_space": True}
    _tell({**told, "sandbox": layers, "peak_bytes": _peak_bytes(status)})


def _warm_up() -> None:
    """Have everything imported that is imported at its first use: no file can be opened later."""
    import av  # noqa: PLC0415
    import numpy.fft  # noqa: F401, PLC0415

    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    beep = io.BytesIO()
    with wave.open(beep, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(range(256)) * 16)
    beep.seek(0)
    for _ in _decoded(beep, "wav", 1):
        pass


def _peak_bytes(status: BinaryIO) -> int:
    """Return the most memory that this process has held. `getrusage` would begin with what its parent holds."""
    status.seek(0)
    [line] = [line for line in status.read().splitlines() if line.startswith(b"VmHWM:")]
    return int(line.split()[1]) * 1024


def _tell(result: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(result))
    sys.stdout.flush()


def _decoded(source: BinaryIO, container: str, audio_s_max: int) -> Iterator[bytes]:
    """Yield the sound of the recording's first audio track. Raises UnreadableError."""
    import av  # noqa: PLC0415

    from services.transcriber import containers  # noqa: PLC0415

    with _opened(source, container) as media:
        track = _track(media)
        declared_s = _declared_s(media, track)
        # Counted before anything is decoded: that takes a tenth of the time, and headers lie.
        try:
            ticks = sum(packet.duration or 0 for packet in media.demux(track))
        except av.FFmpegError:
            raise containers.damaged() from None
        if max(declared_s, float(ticks * track.time_base)) > audio_s_max:
            raise _too_long(audio_s_max)
    source.seek(0)
    with _opened(source, container) as media:
        track = _track(media)
        track.codec_context.thread_count = 1
        written = 0
        for pcm in _heard(media, track, audio_s_max):
            written += len(pcm)
            if written > audio_s_max * _SECOND_BYTES:
                raise _too_long(audio_s_max)
            yield pcm
    if not written:
        raise containers.no_sound()
    if container != "mp3" and written / _SECOND_BYTES < 0.9 * declared_s - 1.0:
        raise containers.truncated()


def _opened(source: BinaryIO, container: str) -> Any:
    import av  # noqa: PLC0415

    from services.transcriber import containers  # noqa: PLC0415

    try:
        # The demuxer is named, and neither it nor one that it calls may open anything by itself.
        options = {"protocol_whitelist": "none", "format_whitelist": _DEMUXERS[container], "enable_drefs": "0"}
        return av.open(source, format=_DEMUXERS[container], options=options, metadata_errors="replace")
    except av.FFmpegError:
        raise containers.damaged() from None


def _track(media: Any) -> Any:
    from services.transcriber import containers  # noqa: PLC0415

    if not media.streams.audio:
        raise containers.no_sound()
    track = media.streams.audio[0]
    if track.codec_context is None or track.codec_context.name not in _CODECS:
        raise containers.unsupported()
    return track


def _heard(media: Any, track: Any, audio_s_max: int) -> Iterator[bytes]:
    """Yield what is heard, with silence where the clock jumps. Raises UnreadableError if too little can be decoded."""
    import av  # noqa: PLC0415

    from services.transcriber import containers  # noqa: PLC0415

    resampler = av.AudioResampler(format="s16", layout="mono", rate=_SAMPLE_RATE_HZ)
    begun_at: Fraction | None = None
    samples = 0
    packets = faults = 0
    shape: tuple[Any, ...] | None = None
    try:
        for packet in media.demux(track):
            packets += 1
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                faults += 1
                if faults > 3 + packets // 100:
                    raise containers.damaged() from None
                continue
            for frame in frames:
                now = (frame.format.name, frame.layout.name, frame.sample_rate)
                if shape is not None and now != shape:
                    # The resampler was made for another sound: a stream that changes in its midst.
                    for rest in resampler.resample(None):
                        samples += rest.samples
                        yield _bytes_of(rest)
                    resampler = av.AudioResampler(format="s16", layout="mono", rate=_SAMPLE_RATE_HZ)
                shape = now
                if frame.time is not None:
                    at = Fraction(frame.pts) * frame.time_base
                    begun_at = at if begun_at is None else begun_at
                    missing = int((at - begun_at - Fraction(samples, _SAMPLE_RATE_HZ)) * _SAMPLE_RATE_HZ)
                    if missing > _JUMP_S * _SAMPLE_RATE_HZ:
                        if samples + missing > audio_s_max * _SAMPLE_RATE_HZ:
                            raise _too_long(audio_s_max)
                        samples += missing
                        yield from _silence(missing * _SAMPLE_BYTES)
                frame.pts = None
                for heard in resampler.resample(frame):
                    samples += heard.samples
                    yield _bytes_of(heard)
        for rest in resampler.resample(None) if shape is not None else ():
            yield _bytes_of(rest)
    except av.FFmpegError as fault:
        if isinstance(fault, MemoryError):
            raise
        raise containers.damaged() from None


def _silence(size: int) -> Iterator[bytes]:
    while size > 0:
        part = min(size, _WRITE_BYTES)
        yield bytes(part)
        size -= part


def _bytes_of(frame: Any) -> bytes:
    return bytes(frame.planes[0])[: frame.samples * _SAMPLE_BYTES]


def _declared_s(media: Any, track: Any) -> float:
    """Return how long the recording says it is; 0 if it does not."""
    if track.duration is not None and track.time_base:
        return float(track.duration * track.time_base)
    return media.duration / 1_000_000 if media.duration else 0.0


def _too_long(audio_s_max: int) -> Exception:
    from services.transcriber.containers import UnreadableError  # noqa: PLC0415

    hours = f"{audio_s_max / 3600:g}"
    return UnreadableError("too_long", f"The recording is longer than {hours} hours.")


if __name__ == "__main__":
    main()
