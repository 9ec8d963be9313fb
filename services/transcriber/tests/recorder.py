"""What a browser's MediaRecorder makes of a microphone: Opus in WebM or Ogg, written as it comes."""

import io
from typing import Literal

import av
import numpy as np

from services.transcriber.cutting import SAMPLE_RATE_HZ

Container = Literal["webm", "ogg"]
CONTAINERS: tuple[Container, ...] = ("webm", "ogg")
LAYOUTS = {1: "mono", 2: "stereo"}


def record(pcm: bytes, container: Container, *, channels: int = 1, bit_rate: int = 32_000) -> bytes:
    """Return the file that a recorder makes of 16 kHz mono s16le, in both channels the same."""
    file = io.BytesIO()
    options = {"live": "1", "cluster_time_limit": "1000"} if container == "webm" else {"page_duration": "200000"}
    with av.open(file, "w", format=container, options=options) as output:
        stream = output.add_stream("libopus", rate=48_000, layout=LAYOUTS[channels])
        stream.bit_rate = bit_rate
        resampler = av.AudioResampler(format="s16", layout=LAYOUTS[channels], rate=48_000, frame_size=960)
        samples = np.frombuffer(pcm, dtype="<i2").reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()
