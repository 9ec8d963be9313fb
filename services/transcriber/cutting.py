"""Cut a stream of speech into utterances.

The numbers are those in use for live captions with batch speech engines: an utterance ends where a person
pauses, and one that does not end is cut at its quietest place, because engines lose words that are cut in
the middle.
"""

import math
from collections import deque
from dataclasses import dataclass, fields, replace

import numpy as np

from services.transcriber.voice import VoiceDetector

SAMPLE_RATE_HZ = 16_000
SAMPLE_BYTES = 2
BYTES_PER_SECOND = SAMPLE_RATE_HZ * SAMPLE_BYTES

# A long recording fed at once is examined in slabs of 15 s, so that memory stays flat.
_SLAB_FRAMES = 500


@dataclass(frozen=True, slots=True)
class Utterance:
    """A range of a session's audio that goes to a speech engine as one request.

    Offsets are bytes in the session's 16 kHz mono s16le stream. `forced` says that the end is no pause but
    a cut in running speech. `context_start_byte` is below `start_byte` only right after such a cut: audio
    from there is sent along so that the engine hears the word at the cut as a whole, though the text below
    `start_byte` is already told.
    """

    start_byte: int
    end_byte: int
    context_start_byte: int
    forced: bool


@dataclass(frozen=True, slots=True)
class CuttingSettings:
    """How speech is told from silence, and where it is cut. Raises `ValueError` that names the field.

    The five fields from `aggressiveness` to `tone_share` are those of `VoiceDetector`. Between
    `soft_cap_ms` and `hard_cap_ms` an utterance is cut only where it dips below `dip_ratio` of its own
    level, at `hard_cap_ms` anyway.
    """

    frame_ms: int = 30
    aggressiveness: int = 2
    rms_gate: float = 0.0025
    noise_factor: float = 2.0
    noise_gate_max: float = 0.01
    noise_rise_db_per_s: float = 1.5
    tone_share: float = 0.95
    start_window_ms: int = 150
    start_voiced_ms: int = 90
    pre_roll_ms: int = 300
    voiced_ms_min: int = 150
    end_silence_ms: int = 500
    post_roll_ms: int = 200
    soft_cap_ms: int = 12_000
    hard_cap_ms: int = 28_000
    cut_search_ms: int = 3_000
    cut_quiet_ms: int = 100
    dip_ratio: float = 0.5
    context_ms: int = 1_000

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{setting.name} must be a number that is not negative, got {value}")
        rules = {
            "frame_ms": self.frame_ms in (10, 20, 30),
            "aggressiveness": self.aggressiveness in (0, 1, 2, 3),
            "rms_gate": 0 < self.rms_gate < 1,
            "noise_factor": self.noise_factor >= 1,
            "noise_gate_max": self.rms_gate <= self.noise_gate_max < 1,
            "tone_share": 0 < self.tone_share <= 1,
            "start_window_ms": self.frame_ms <= self.start_window_ms <= 1_000,
            "start_voiced_ms": self.frame_ms <= self.start_voiced_ms <= self.start_window_ms,
            "voiced_ms_min": self.voiced_ms_min <= 1_000,
            "end_silence_ms": self.start_window_ms <= self.end_silence_ms <= self.soft_cap_ms,
            "post_roll_ms": self.post_roll_ms <= self.end_silence_ms,
            "cut_search_ms": self.cut_search_ms + self.pre_roll_ms < self.soft_cap_ms,
            "cut_quiet_ms": self.frame_ms <= self.cut_quiet_ms <= self.cut_search_ms,
            "hard_cap_ms": self.soft_cap_ms <= self.hard_cap_ms,
            "dip_ratio": self.dip_ratio <= 1,
            "context_ms": self.context_ms <= self.soft_cap_ms - self.cut_search_ms,
        }
        for name, holds in rules.items():
            if not holds:
                raise ValueError(f"{name} does not fit the other settings, got {getattr(self, name)}")

    def in_frames(self, duration_ms: int) -> int:
        """Return the number of frames that comes nearest to a duration, at least one."""
        return max(1, round(duration_ms / self.frame_ms))

    def voice_detector(self) -> VoiceDetector:
        """Return a detector as these settings describe it."""
        return VoiceDetector(
            sample_rate_hz=SAMPLE_RATE_HZ,
            frame_samples=self.frame_ms * SAMPLE_RATE_HZ // 1_000,
            aggressiveness=self.aggressiveness,
            rms_gate=self.rms_gate,
            noise_factor=self.noise_factor,
            noise_gate_max=self.noise_gate_max,
            noise_rise_db_per_s=self.noise_rise_db_per_s,
            tone_share=self.tone_share,
        )


@dataclass(slots=True)
class _OpenUtterance:
    start_byte: int
    context_start_byte: int
    voiced_end_byte: int
    # Powers of the newest frames, where a cut is looked for.
    recent_powers: deque[float]
    frames: int = 0
    silent_frames: int = 0
    voiced_frames: int = 0
    voiced_power_sum: float = 0.0


@dataclass(slots=True)
class _Quiet:
    byte: int
    power: float


class Cutter:
    """Finds the utterances of one session while its audio comes in.

    It holds energies, and audio of less than a frame. Utterances come in order and never overlap, none
    starts below `start_byte`, and how the audio is split into calls of `feed` changes nothing. Who takes a
    session up again starts a new cutter at the old one's `silent_until_byte`, or at the end of an utterance
    that it returned.
    """

    def __init__(self, settings: CuttingSettings, start_byte: int = 0) -> None:
        if start_byte < 0 or start_byte % SAMPLE_BYTES:
            raise ValueError(f"start_byte must be the offset of a sample, got {start_byte}")
        self._settings = settings
        self._detector = settings.voice_detector()
        self._frame_bytes = _in_bytes(settings.frame_ms)
        self._pre_roll_bytes = _in_bytes(settings.pre_roll_ms)
        self._start_window = (1 << settings.in_frames(settings.start_window_ms)) - 1
        self._start_voiced_frames = settings.in_frames(settings.start_voiced_ms)
        self._voiced_frames_min = settings.in_frames(settings.voiced_ms_min)
        self._end_silence_frames = settings.in_frames(settings.end_silence_ms)
        self._search_frames = settings.in_frames(settings.cut_search_ms)
        self._quiet_frames = settings.in_frames(settings.cut_quiet_ms)

        self._position_byte = start_byte
        self._examined_byte = start_byte
        self._rest = b""
        # One bit per frame, the newest lowest.
        self._recently_voiced = 0
        self._open: _OpenUtterance | None = None
        # What came before the first byte is told, as if by an utterance that a pause ended there.
        self._previous = Utterance(start_byte, start_byte, start_byte, forced=False)

    @property
    def position_byte(self) -> int:
        """The offset after the last byte that was fed."""
        return self._position_byte

    @property
    def open_start_byte(self) -> int | None:
        """Where the utterance that is being spoken starts, pre-roll included; None while nobody speaks."""
        return self._open.start_byte if self._open else None

    @property
    def silent_until_byte(self) -> int:
        """Everything below is in a returned utterance or is silence: no later utterance starts below it."""
        if self._open:
            return self._open.start_byte
        # The oldest frame leaves the window when the next one comes, so speech cannot be found to start
        # there.
        return self._start_of_speech(self._recently_voiced & (self._start_window >> 1))

    def feed(self, pcm: bytes) -> list[Utterance]:
        """Take the next bytes of the stream and return the utterances that ended in them."""
        self._position_byte += len(pcm)
        audio = self._rest + pcm
        whole_bytes = len(audio) - len(audio) % self._frame_bytes
        self._rest = audio[whole_bytes:]
        ended: list[Utterance] = []
        slab_bytes = _SLAB_FRAMES * self._frame_bytes
        for slab_byte in range(0, whole_bytes, slab_bytes):
            slab = audio[slab_byte : min(slab_byte + slab_bytes, whole_bytes)]
            powers, verdicts = self._detector.examine(slab)
            if self._open is None and not self._recently_voiced and not any(verdicts):
                self._examined_byte += len(slab)
                continue
            for power, voiced in zip(powers, verdicts, strict=True):
                self._examined_byte += self._frame_bytes
                if utterance := self._take_frame(power, voiced):
                    ended.append(utterance)
        return ended

    def flush(self) -> list[Utterance]:
        """End the utterance that is being spoken now, with all of its audio that was fed."""
        if self._open is None:
            return []
        fed_end_byte = self._position_byte - self._position_byte % SAMPLE_BYTES
        if self._open.silent_frames == 0:
            return [self._close(self._open, fed_end_byte, forced=True)]
        return [self._close(self._open, min(fed_end_byte, self._pause_byte(self._open)), forced=False)]

    def _take_frame(self, power: float, voiced: bool) -> Utterance | None:
        self._recently_voiced = (self._recently_voiced << 1 | voiced) & self._start_window
        if self._open is None:
            if self._recently_voiced.bit_count() >= self._start_voiced_frames:
                self._open = self._start_utterance()
            return None
        utterance = self._open
        utterance.frames += 1
        utterance.recent_powers.append(power)
        if voiced:
            utterance.silent_frames = 0
            utterance.voiced_end_byte = self._examined_byte
            utterance.voiced_frames += 1
            utterance.voiced_power_sum += power
        else:
            utterance.silent_frames += 1
            if utterance.silent_frames >= self._end_silence_frames:
                return self._end_at_pause(utterance)
        return self._cut_if_long(utterance)

    def _end_at_pause(self, utterance: _OpenUtterance) -> Utterance | None:
        # What had hardly more voice than it took to open it is a click, or noise that webrtcvad had to
        # learn first.
        if self._start_voiced_frames + utterance.voiced_frames < self._voiced_frames_min:
            self._open = None
            self._recently_voiced = 0
            return None
        return self._close(utterance, self._pause_byte(utterance), forced=False)

    def _start_utterance(self) -> _OpenUtterance:
        start_byte = self._start_of_speech(self._recently_voiced)
        context_start_byte = start_byte
        if self._previous.forced and start_byte == self._previous.end_byte:
            context_start_byte = self._context_of(start_byte, self._previous.start_byte)
        return _OpenUtterance(
            start_byte=start_byte,
            context_start_byte=context_start_byte,
            voiced_end_byte=self._examined_byte,
            recent_powers=deque(maxlen=self._search_frames),
        )

    def _cut_if_long(self, utterance: _OpenUtterance) -> Utterance | None:
        length_bytes = self._examined_byte - utterance.start_byte
        at_hard_cap = length_bytes >= _in_bytes(self._settings.hard_cap_ms)
        # Looking once per quiet span finds every dip that matters, at a third of the cost of looking at
        # every frame.
        due = length_bytes >= _in_bytes(self._settings.soft_cap_ms) and not utterance.frames % self._quiet_frames
        if not (due or at_hard_cap):
            return None
        quiet = self._quietest(utterance)
        level = utterance.voiced_power_sum / max(1, utterance.voiced_frames)
        if not at_hard_cap and quiet.power > level * self._settings.dip_ratio**2:
            return None
        if quiet.byte >= utterance.voiced_end_byte:
            return self._close(utterance, quiet.byte, forced=False)
        after = replace(
            utterance,
            start_byte=quiet.byte,
            context_start_byte=self._context_of(quiet.byte, utterance.start_byte),
        )
        ended = self._close(utterance, quiet.byte, forced=True)
        self._open = after
        return ended

    def _quietest(self, utterance: _OpenUtterance) -> _Quiet:
        powers = np.array(utterance.recent_powers)
        sums = np.convolve(powers, np.ones(self._quiet_frames), mode="valid")
        quietest = int(sums.argmin())
        frames_after = len(powers) - quietest - self._quiet_frames // 2
        return _Quiet(
            byte=self._examined_byte - frames_after * self._frame_bytes,
            power=float(sums[quietest]) / self._quiet_frames,
        )

    def _close(self, utterance: _OpenUtterance, end_byte: int, *, forced: bool) -> Utterance:
        self._open = None
        self._recently_voiced = 0
        self._previous = Utterance(utterance.start_byte, end_byte, utterance.context_start_byte, forced)
        return self._previous

    def _start_of_speech(self, voiced: int) -> int:
        first_voiced_byte = self._examined_byte - voiced.bit_length() * self._frame_bytes
        return max(first_voiced_byte - self._pre_roll_bytes, self._previous.end_byte)

    def _pause_byte(self, utterance: _OpenUtterance) -> int:
        return utterance.voiced_end_byte + _in_bytes(self._settings.post_roll_ms)

    def _context_of(self, cut_byte: int, lowest_byte: int) -> int:
        return max(cut_byte - _in_bytes(self._settings.context_ms), lowest_byte)


def _in_bytes(duration_ms: int) -> int:
    return duration_ms * SAMPLE_RATE_HZ // 1_000 * SAMPLE_BYTES
