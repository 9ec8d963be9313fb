"""The bundled meeting, cut by our cutter and heard by the embedded engine."""

import asyncio
import re
import time

import jiwer
import numpy as np
import pytest

from services.transcriber.cutting import Cutter, CuttingSettings
from services.transcriber.filters import FilterSettings, judge
from services.transcriber.sphinx import PocketSphinxSpeech
from services.transcriber.tests import signals
from services.transcriber.transcription import Transcription

# tests/e2e/test_live.py hears the same recording through the whole platform.
pytestmark = pytest.mark.long

MEETING = signals.meeting()
# The decisions and the tasks that the rest of the platform finds in the text.
FINDABLE = (
    "we decided to move the launch of the website to september",
    "we agreed that the support team will answer every customer within two days",
    "anna will send the budget to the client by friday",
    "peter please write the test plan by next tuesday",
    "james will call the hotel in london by monday",
)


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def rms(pcm: bytes) -> float:
    samples = np.frombuffer(pcm, dtype="<i2") / 32_768
    return float(np.sqrt((samples**2).mean()))


async def heard() -> list[tuple[bytes, Transcription]]:
    cutter = Cutter(CuttingSettings())
    parts = [MEETING[utterance.start_byte : utterance.end_byte] for utterance in cutter.feed(MEETING) + cutter.flush()]
    engine = PocketSphinxSpeech(workers=1)
    await engine.start()
    try:
        began = time.monotonic()
        texts = [await engine.transcribe(part, language="en", prompt="", deadline_s=60) for part in parts]
        spent_s = time.monotonic() - began
    finally:
        await engine.close()
    speech_s = sum(map(signals.seconds, parts))
    print(f"recognition: {spent_s / speech_s:.2f} s for a second of speech")  # noqa: T201 - a figure to show
    return list(zip(parts, texts, strict=True))


@pytest.fixture(scope="module")
def transcript() -> list[tuple[bytes, Transcription]]:
    return asyncio.run(heard())


@pytest.mark.req("R-STT-4")
def test_the_embedded_engine_gets_four_words_of_five(transcript: list[tuple[bytes, Transcription]]) -> None:
    recognised = " ".join(transcription.text for _, transcription in transcript)
    error_rate = jiwer.wer(plain(signals.meeting_script()), plain(recognised))
    print(f"word error rate of the bundled recording: {error_rate:.1%}")  # noqa: T201
    assert error_rate <= 0.20


@pytest.mark.req("R-STT-4")
@pytest.mark.parametrize("phrase", FINDABLE)
def test_decisions_and_tasks_come_out_whole(transcript: list[tuple[bytes, Transcription]], phrase: str) -> None:
    assert any(phrase in transcription.text for _, transcription in transcript)


@pytest.mark.req("R-STT-6")
def test_the_filters_keep_all_of_it(transcript: list[tuple[bytes, Transcription]]) -> None:
    for pcm, transcription in transcript:
        assert judge(transcription, rms=rms(pcm), settings=FilterSettings()).keep, transcription.text


def test_the_recording_is_what_the_demo_expects() -> None:
    assert 60 <= signals.seconds(MEETING) <= 90
    assert len(MEETING) < 3_000_000
    edges = MEETING[:16_000], MEETING[-int(1.2 * 32_000) :]
    assert all(rms(edge) < 0.001 for edge in edges)
