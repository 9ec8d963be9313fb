"""Recordings of a piece of sound in every container and coding that is taken, and some that are not."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from typing import Any

import av
import numpy as np

RATE_HZ = 16_000
_LAYOUTS = {1: "mono", 2: "stereo"}


def tone(seconds: float, *, frequency_hz: float = 220.0) -> bytes:
    """Return s16le mono that sounds, at 16 kHz."""
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    swell = 0.3 + 0.2 * np.sin(2 * np.pi * 3.0 * time)
    return (swell * np.sin(2 * np.pi * frequency_hz * time) * 32_767).astype("<i2").tobytes()


def encode(
    pcm: bytes,
    container: str,
    codec: str,
    *,
    rate_hz: int = 48_000,
    channels: int = 1,
    bit_rate: int | None = None,
    options: dict[str, str] | None = None,
    video: bool = False,
) -> bytes:
    """Return a file that holds 16 kHz mono s16le, coded; with a moving picture besides if asked for."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options or {}) as output:
        picture = _picture(output) if video else None
        track: Any = output.add_stream(codec, rate=rate_hz, layout=_LAYOUTS[channels])
        if bit_rate:
            track.bit_rate = bit_rate
        if picture is not None:
            _film(output, picture)
        context = track.codec_context
        resampler = av.AudioResampler(
            format=context.format.name, layout=_LAYOUTS[channels], rate=rate_hz, frame_size=context.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(track.encode(part))
        output.mux(track.encode(None))
    return file.getvalue()


def silent_film() -> bytes:
    """Return an MP4 with a moving picture and no sound."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        _film(output, _picture(output))
    return file.getvalue()


def _picture(output: av.container.OutputContainer) -> Any:
    picture: Any = output.add_stream("mpeg4", rate=5)
    picture.width = picture.height = 64
    return picture


def _film(output: av.container.OutputContainer, picture: Any) -> None:
    for number in range(5):
        image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number * 40, dtype=np.uint8), format="rgb24")
        image.pts = number
        output.mux(picture.encode(image))
    output.mux(picture.encode(None))


def mp3(pcm: bytes, *, rate_hz: int = 44_100, channels: int = 1, bit_rate: int = 64_000, **options: str) -> bytes:
    return encode(pcm, "mp3", "libmp3lame", rate_hz=rate_hz, channels=channels, bit_rate=bit_rate, options=options)


def wav(pcm: bytes, *, codec: str = "pcm_s16le", rate_hz: int = RATE_HZ, channels: int = 1) -> bytes:
    return encode(pcm, "wav", codec, rate_hz=rate_hz, channels=channels)


def ogg(pcm: bytes, *, codec: str = "libopus") -> bytes:
    return encode(pcm, "ogg", codec, bit_rate=32_000 if codec == "libopus" else None)


def webm(pcm: bytes, *, live: bool = False) -> bytes:
    return encode(pcm, "webm", "libopus", bit_rate=32_000, options={"live": "1"} if live else {})


def webm_with_a_pause(pcm: bytes, *, at_s: float, pause_s: float) -> bytes:
    """Return what a recorder writes that was paused: the clock jumps, and nothing is there for the time between."""
    file = io.BytesIO()
    with av.open(io.BytesIO(webm(pcm)), "r") as source, av.open(file, "w", format="webm") as output:
        track = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.pts is None or packet.dts is None:
                continue
            jump = int(pause_s / packet.time_base) if packet.pts * packet.time_base > at_s else 0
            packet.pts, packet.dts = packet.pts + jump, packet.dts + jump
            packet.stream = track
            output.mux(packet)
    return file.getvalue()


def m4a(pcm: bytes, *, codec: str = "aac") -> bytes:
    return encode(pcm, "ipod", codec, bit_rate=64_000 if codec == "aac" else None)


def mp4(pcm: bytes, *, video: bool = False, fragmented: bool = False) -> bytes:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if fragmented else {}
    return encode(pcm, "mp4", "aac", bit_rate=64_000, options=options, video=video)


# -- Ogg pages with what an encoder would never write ----------------------------------------------------------------


def _checksums() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(value)
    return table


_TABLE = _checksums()


def ogg_page(packets: list[bytes], granule: int, number: int, flags: int = 0) -> bytes:
    """Return one Ogg page of packets shorter than 255 bytes."""
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, 77, number, 0, len(packets))
    page = head + bytes(len(packet) for packet in packets) + b"".join(packets)
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ _TABLE[value >> 24 ^ byte]
    return page[:22] + struct.pack("<I", value) + page[26:]


def opus_head(channels: int = 1) -> list[bytes]:
    """Return both header pages of an Opus stream."""
    head = struct.pack("<8sBBHIhB", b"OpusHead", 1, channels, 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<II", 0, 0)
    return [ogg_page([head], 0, 0, 2), ogg_page([tags], 0, 1)]


def opus_silence(hours: float, *, lying: bool) -> bytes:
    """Return hours of silence in a few hundred kilobytes; `lying` says that it is a tenth of a second."""
    # 120 ms in one byte: two frames of 60 ms without content.
    packet, ticks = b"\x19", 5760
    left = int(hours * 3600 * 48_000 / ticks)
    pages = opus_head()
    granule = 0
    while left > 0:
        count = min(255, left)
        left -= count
        granule += count * ticks
        pages.append(ogg_page([packet] * count, ticks if lying else granule, len(pages), 0 if left else 4))
    return b"".join(pages)
