"""Tell, for each frame of a stream, whether someone speaks in it."""

import numpy as np
import webrtcvad
from numpy.typing import NDArray

_FULL_SCALE = 32_768.0
SAMPLE_BYTES = 2
# A frame that is as loud as the one before within this is looked at as a possible tone; speech seldom is
# that steady.
_STEADY_WITHIN = 0.05
# A tone under a Hann window fills the bin of its frequency and two on each side.
_TONE_BINS = 2


class VoiceDetector:
    """An energy gate over a noise floor, then webrtcvad, then a look for tones.

    Each step sees only what passed the one before. `rms_gate` and `noise_gate_max` are fractions of full
    scale. The gate stands `noise_factor` above the noise floor, never below `rms_gate`, and never above
    `noise_gate_max`: loud steady sound is left for webrtcvad to judge. The floor falls at once and rises by
    `noise_rise_db_per_s`. A steady frame with more than `tone_share` of its energy near one frequency is a
    tone and not a voice. Holds no audio; its verdict on a frame depends on the frames before it, but not on
    how they were split into calls.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int,
        frame_samples: int,
        aggressiveness: int,
        rms_gate: float,
        noise_factor: float,
        noise_gate_max: float,
        noise_rise_db_per_s: float,
        tone_share: float,
    ) -> None:
        self._vad = webrtcvad.Vad(aggressiveness)
        self._sample_rate_hz = sample_rate_hz
        self._frame_samples = frame_samples
        self._gate_over_floor = noise_factor**2
        self._floor_min = (rms_gate / noise_factor * _FULL_SCALE) ** 2
        self._floor_max = (noise_gate_max / noise_factor * _FULL_SCALE) ** 2
        self._floor_rise = 10 ** (noise_rise_db_per_s / 10 * frame_samples / sample_rate_hz)
        self._floor = self._floor_min
        self._tone_share = tone_share
        self._hann = np.hanning(frame_samples)
        self._ones = np.ones(frame_samples)
        self._last_power = 0.0

    def examine(self, audio: bytes) -> tuple[list[float], list[bool]]:
        """Return the power (mean square of the samples) and the verdict for each frame of s16le `audio`.

        `audio` must be whole frames, at least one.
        """
        size = self._frame_samples
        frames = np.frombuffer(audio, dtype="<i2").astype(np.float64).reshape(-1, size)
        # The mean is no sound. Sums of integers are exact in doubles, so no split of the stream can change a verdict.
        squares: list[float] = np.vecdot(frames, frames).tolist()
        sums: list[float] = (frames @ self._ones).tolist()
        powers = [square / size - (total / size) ** 2 for square, total in zip(squares, sums, strict=True)]
        if max(powers) < self._floor_min:
            self._floor = self._floor_min
            self._last_power = powers[-1]
            return powers, [False] * len(powers)
        frame_bytes = SAMPLE_BYTES * size
        verdicts = [
            self._hears_voice(audio[position * frame_bytes : (position + 1) * frame_bytes], frames[position], power)
            for position, power in enumerate(powers)
        ]
        return powers, verdicts

    def _hears_voice(self, samples: bytes, frame: NDArray[np.float64], power: float) -> bool:
        floor = self._floor
        above_gate = power > self._gate_over_floor * floor
        self._floor = min(max(min(power, floor * self._floor_rise), self._floor_min), self._floor_max)
        steady = abs(power - self._last_power) <= _STEADY_WITHIN * power
        self._last_power = power
        return (
            above_gate and self._vad.is_speech(samples, self._sample_rate_hz) and not (steady and self._is_tone(frame))
        )

    def _is_tone(self, frame: NDArray[np.float64]) -> bool:
        spectrum = np.abs(np.fft.rfft((frame - frame.mean()) * self._hann)) ** 2
        peak = int(spectrum.argmax())
        near_peak = spectrum[max(0, peak - _TONE_BINS) : peak + _TONE_BINS + 1].sum()
        return bool(near_peak > self._tone_share * spectrum.sum())
