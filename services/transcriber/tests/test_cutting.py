"""The cutter finds all speech and only speech, and does not care how the stream is split."""

import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.transcriber.cutting import BYTES_PER_SECOND, Cutter, CuttingSettings, Utterance
from services.transcriber.tests import signals

DEFAULTS = CuttingSettings()
MEETING = signals.meeting()
FIRST_SENTENCE = MEETING[: int(3.6 * BYTES_PER_SECOND)]


def cut(pcm: bytes, *, chunk_bytes: int = 3_200, start_byte: int = 0) -> list[Utterance]:
    cutter = Cutter(DEFAULTS, start_byte)
    ended = [
        utterance
        for position in range(0, len(pcm), chunk_bytes)
        for utterance in cutter.feed(pcm[position : position + chunk_bytes])
    ]
    return ended + cutter.flush()


def settings_with(field: str, value: float) -> dict[str, Any]:
    return {field: value}


def in_s(offset_bytes: int) -> float:
    return offset_bytes / BYTES_PER_SECOND


@pytest.mark.req("R-STT-6")
@pytest.mark.parametrize(
    "sound",
    [
        signals.silence(20),
        signals.noise(20, rms=0.0002),
        signals.noise(20, rms=0.003),
        signals.noise(20, rms=0.01),
        signals.noise(20, rms=0.03),
        signals.level(20),
        signals.tone(20, frequency_hz=100),
        signals.tone(20, frequency_hz=440),
        signals.tone(20, frequency_hz=3_000, amplitude=0.02),
        signals.tone(20, frequency_hz=20_000),
    ],
    ids=["silence", "room", "fan", "louder fan", "wind", "offset", "100 Hz", "440 Hz", "3 kHz", "20 kHz"],
)
def test_what_is_not_speech_is_no_utterance(sound: bytes) -> None:
    assert cut(sound) == []


@pytest.mark.req("R-STT-6")
def test_every_loud_sound_of_the_meeting_is_in_an_utterance() -> None:
    samples = np.abs(np.frombuffer(MEETING, dtype="<i2").astype(np.int32))
    covered = np.zeros(samples.size, dtype=bool)
    for utterance in cut(MEETING):
        covered[utterance.start_byte // 2 : utterance.end_byte // 2] = True
    assert samples[~covered].max() < 500


@pytest.mark.req("R-STT-6")
def test_utterances_end_in_the_pauses_of_the_meeting() -> None:
    utterances = cut(MEETING)
    assert len(utterances) >= 20
    for utterance in utterances:
        assert not utterance.forced
        assert utterance.context_start_byte == utterance.start_byte
        for edge in (utterance.start_byte, utterance.end_byte):
            around = np.frombuffer(MEETING[max(0, edge - 320) : edge + 320], dtype="<i2")
            assert np.abs(around.astype(np.int32)).max() < 2_000


def test_speech_right_after_the_end_silence_keeps_its_pre_roll() -> None:
    pause_s = 0.56
    spoken = FIRST_SENTENCE[int(0.5 * BYTES_PER_SECOND) : int(3.4 * BYTES_PER_SECOND)]
    stream = signals.silence(1) + spoken + signals.silence(pause_s) + spoken + signals.silence(1)
    _, second = cut(stream)
    onset_s = 1 + signals.seconds(spoken) + pause_s
    assert onset_s - in_s(second.start_byte) >= 0.2


def test_an_utterance_ends_while_the_silence_after_it_is_half_a_second_long() -> None:
    stream = FIRST_SENTENCE + signals.silence(3)
    cutter = Cutter(DEFAULTS)
    voice_end_byte = cut(stream)[0].end_byte - DEFAULTS.post_roll_ms * BYTES_PER_SECOND // 1_000
    for position in range(0, len(stream), 640):
        if cutter.feed(stream[position : position + 640]):
            break
    assert in_s(cutter.position_byte - voice_end_byte) == pytest.approx(0.51, abs=0.05)


@pytest.mark.req("R-STT-6")
def test_speech_without_a_pause_is_cut_where_it_dips_and_nothing_is_lost() -> None:
    stream = signals.speech_without_pauses()
    utterances = cut(stream)
    assert len(utterances) >= 3
    for before, after in itertools.pairwise(utterances):
        assert before.forced
        assert after.start_byte == before.end_byte
        assert in_s(after.start_byte - after.context_start_byte) == pytest.approx(1.0)
        assert 8.9 <= in_s(before.end_byte - before.start_byte) <= 28
    samples = np.frombuffer(stream, dtype="<i2").astype(np.float64)
    whole_rms = np.sqrt((samples**2).mean())
    for utterance in utterances[:-1]:
        middle = utterance.end_byte // 2
        assert np.sqrt((samples[middle - 480 : middle + 480] ** 2).mean()) < 0.5 * whole_rms


def test_an_offset_of_the_converter_hides_no_dip() -> None:
    samples = np.frombuffer(signals.speech_without_pauses(), dtype="<i2") // 2 + 8_000
    utterances = cut(samples.astype("<i2").tobytes())
    assert all(in_s(utterance.end_byte - utterance.start_byte) <= 15 for utterance in utterances)


def test_sound_without_a_dip_is_cut_at_the_hard_cap() -> None:
    utterances = cut(signals.coded_data(90))
    assert in_s(utterances[0].start_byte) == 0
    for before, after in itertools.pairwise(utterances):
        assert before.end_byte == after.start_byte
        assert 25 <= in_s(before.end_byte - before.start_byte) <= 28
    assert in_s(utterances[-1].end_byte) == 90


def test_a_soft_cap_that_falls_into_a_short_pause_ends_the_utterance_without_force() -> None:
    cutter = Cutter(DEFAULTS)
    [first] = cutter.feed(signals.coded_data(11.76) + signals.silence(0.36))
    assert not first.forced
    assert in_s(first.end_byte) >= 11.76
    assert cutter.open_start_byte is None
    [second] = cutter.feed(signals.coded_data(3) + signals.silence(1))
    assert first.end_byte <= second.start_byte == second.context_start_byte
    assert in_s(second.start_byte) <= 12.12


def test_flush_in_the_middle_of_a_word_gives_all_audio_that_was_fed() -> None:
    fed = MEETING[: 2 * BYTES_PER_SECOND + 2]
    cutter = Cutter(DEFAULTS)
    assert cutter.feed(fed) == []
    [utterance] = cutter.flush()
    assert utterance.end_byte == len(fed)
    assert utterance.forced
    assert cutter.open_start_byte is None
    assert cutter.flush() == []


def test_speech_that_goes_on_after_a_flush_starts_where_the_flush_cut_it() -> None:
    split_byte = 2 * BYTES_PER_SECOND
    cutter = Cutter(DEFAULTS)
    cutter.feed(MEETING[:split_byte])
    [first] = cutter.flush()
    [second] = cutter.feed(MEETING[split_byte : 4 * BYTES_PER_SECOND])
    assert second.start_byte == first.end_byte
    assert in_s(second.start_byte - second.context_start_byte) == pytest.approx(1.0)


def test_flush_after_the_last_word_leaves_the_silence_out() -> None:
    cutter = Cutter(DEFAULTS)
    cutter.feed(FIRST_SENTENCE + signals.silence(0.3))
    [utterance] = cutter.flush()
    assert not utterance.forced
    assert utterance.end_byte < cutter.position_byte


def test_an_odd_byte_at_the_end_is_in_no_utterance() -> None:
    cutter = Cutter(DEFAULTS)
    cutter.feed(MEETING[: 2 * BYTES_PER_SECOND + 1])
    [utterance] = cutter.flush()
    assert utterance.end_byte == 2 * BYTES_PER_SECOND


SOUNDS = st.sampled_from(
    [
        FIRST_SENTENCE,
        MEETING[16 * BYTES_PER_SECOND : 20 * BYTES_PER_SECOND],
        FIRST_SENTENCE[BYTES_PER_SECOND : BYTES_PER_SECOND + 6_000],
        signals.silence(0.1),
        signals.silence(0.45),
        signals.silence(2.0),
        signals.noise(1.0, rms=0.005),
        signals.coded_data(14.0),
        signals.tone(1.0, frequency_hz=440),
    ]
)
STREAMS = st.lists(SOUNDS, min_size=1, max_size=6).map(b"".join)


@settings(max_examples=60, deadline=None)
@given(stream=STREAMS, split=st.lists(st.integers(1, 70_000), min_size=1, max_size=20))
def test_how_the_stream_is_split_changes_nothing(stream: bytes, split: list[int]) -> None:
    cutter = Cutter(DEFAULTS)
    ended: list[Utterance] = []
    position = 0
    for chunk_bytes in itertools.cycle(split):
        if position >= len(stream):
            break
        ended += cutter.feed(stream[position : position + chunk_bytes])
        position += chunk_bytes
    assert ended + cutter.flush() == cut(stream, chunk_bytes=len(stream))


@settings(max_examples=60, deadline=None)
@given(stream=STREAMS, start_byte=st.integers(0, 10**12).map(lambda n: n * 2))
def test_utterances_are_in_order_and_never_overlap(stream: bytes, start_byte: int) -> None:
    floor_byte = start_byte
    for utterance in cut(stream, start_byte=start_byte):
        assert floor_byte <= utterance.start_byte < utterance.end_byte <= start_byte + len(stream)
        assert start_byte <= utterance.context_start_byte <= utterance.start_byte
        assert (utterance.start_byte - start_byte) % 2 == 0
        floor_byte = utterance.end_byte


@settings(max_examples=60, deadline=None)
@given(stream=STREAMS, chunk_bytes=st.sampled_from([640, 3_200, 10_001]))
def test_no_utterance_starts_below_what_was_called_silent(stream: bytes, chunk_bytes: int) -> None:
    cutter = Cutter(DEFAULTS)
    silent_until_byte = 0
    for position in range(0, len(stream), chunk_bytes):
        for utterance in cutter.feed(stream[position : position + chunk_bytes]):
            assert utterance.start_byte >= silent_until_byte
        assert silent_until_byte <= cutter.silent_until_byte <= cutter.position_byte
        silent_until_byte = cutter.silent_until_byte
        if cutter.open_start_byte is not None:
            assert cutter.open_start_byte >= silent_until_byte


@pytest.mark.req("R-WS-4")
@pytest.mark.parametrize("killed_at_s", [0.7, 3.0, 5.1, 7.3, 12.34, 16.9])
def test_a_new_cutter_at_the_checkpoint_takes_up_all_speech_that_is_not_told(killed_at_s: float) -> None:
    stream = MEETING[: 21 * BYTES_PER_SECOND]
    killed = Cutter(DEFAULTS)
    told = killed.feed(stream[: int(killed_at_s * BYTES_PER_SECOND) // 2 * 2])
    checkpoint = killed.silent_until_byte
    resumed = cut(stream[checkpoint:], start_byte=checkpoint)
    assert all(utterance.start_byte >= checkpoint for utterance in resumed)
    samples = np.abs(np.frombuffer(stream, dtype="<i2").astype(np.int32))
    covered = np.zeros(samples.size, dtype=bool)
    for utterance in told + resumed:
        assert not covered[utterance.start_byte // 2 : utterance.end_byte // 2].any()
        covered[utterance.start_byte // 2 : utterance.end_byte // 2] = True
    assert samples[~covered].max() < 500


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frame_ms", 25),
        ("aggressiveness", 4),
        ("rms_gate", 0.0),
        ("rms_gate", float("nan")),
        ("noise_gate_max", 0.001),
        ("start_voiced_ms", 300),
        ("end_silence_ms", -1),
        ("post_roll_ms", 501),
        ("cut_search_ms", 12_000),
        ("cut_quiet_ms", 4_000),
        ("hard_cap_ms", 11_000),
        ("context_ms", 10_000),
    ],
)
def test_a_setting_that_does_not_fit_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        CuttingSettings(**settings_with(field, value))


def test_a_cutter_starts_at_a_sample() -> None:
    with pytest.raises(ValueError, match="start_byte"):
        Cutter(DEFAULTS, start_byte=3)


@pytest.mark.parametrize(
    ("sound", "budget_cpu_s"),
    [(signals.noise(60, rms=0.0002), 2.0), (MEETING, 4.0)],
    ids=["silence", "speech"],
)
def test_cutting_an_hour_takes_seconds(sound: bytes, budget_cpu_s: float) -> None:
    began = time.process_time()
    cut(sound)
    per_hour = (time.process_time() - began) / signals.seconds(sound) * 3_600
    print(f"cutting: {per_hour:.2f} CPU-s per audio hour")  # noqa: T201 - a figure to show
    assert per_hour < budget_cpu_s
