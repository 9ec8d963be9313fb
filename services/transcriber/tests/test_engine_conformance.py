"""What every speech engine must do. An adapter that joins the platform joins `harness` here."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import psutil
import pytest

from services.transcriber.speech import OpenAISpeech, SpeechEngine, SpeechError
from services.transcriber.sphinx import PocketSphinxSpeech
from services.transcriber.tests.scripted_server import Answer, Request, ScriptedServer, answer
from services.transcriber.tests.signals import meeting, seconds, silence
from services.transcriber.transcription import Transcription

SECOND = 32_000
MEETING = meeting()
# What is said in these parts of the bundled recording, as any engine must hear it.
SAID = {
    MEETING[int(0.2 * SECOND) : int(3.6 * SECOND)]: "hello everyone and welcome to our weekly meeting",
    MEETING[int(37.2 * SECOND) : int(40.8 * SECOND)]: "we decided to move the launch of the website to september",
    MEETING[int(75.1 * SECOND) : int(77.5 * SECOND)]: "does anyone have a question",
}
FIRST, *_ = SAID


@dataclass
class Harness:
    """An engine under test, and how to make it hang on what it is doing and does next.

    `tells_words` says whether its answers have words with times and anything to judge them by.
    """

    engine: SpeechEngine
    hang: Callable[[], None]
    tells_words: bool = True


def spoken(request: Request) -> Answer:
    text = SAID.get(request.file[44:], "")
    tokens = text.split()
    words = [{"word": token, "start": n * 0.2, "end": n * 0.2 + 0.1} for n, token in enumerate(tokens)]
    segment = {"start": 0.0, "end": 2.0, "avg_logprob": -0.2, "no_speech_prob": 0.1}
    return answer({"text": text, "words": words, "segments": [segment]}, pause_s=0.1)


def spoken_without_words(request: Request) -> Answer:
    """Answer as models do that know `json` only, and servers that have null for what they do not know."""
    assert request.fields["response_format"] == ["json"]
    text = SAID.get(request.file[44:], "")
    return answer({"text": text, "words": None, "segments": None, "language": None}, pause_s=0.1)


@pytest.fixture(params=["openai", "openai without words", pytest.param("pocketsphinx", marks=pytest.mark.long)])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    async with AsyncExitStack() as stack:
        engine: SpeechEngine
        if request.param.startswith("openai"):
            server = await stack.enter_async_context(ScriptedServer().run())
            with_words = request.param == "openai"
            server.otherwise = spoken if with_words else spoken_without_words
            model = "whisper-1" if with_words else "gpt-4o-transcribe"
            engine = OpenAISpeech(base_url=server.url, api_key="test-key", model=model)

            def hang() -> None:
                server.script.append(answer({"text": "late"}, pause_s=10))

        else:
            engine = PocketSphinxSpeech(workers=2)

            def hang() -> None:
                for worker in psutil.Process().children():
                    with suppress(psutil.NoSuchProcess):
                        if "services.transcriber.sphinx_worker" in worker.cmdline():
                            worker.send_signal(signal.SIGSTOP)

        await engine.start()
        stack.push_async_callback(engine.close)
        yield Harness(engine, hang, tells_words=request.param != "openai without words")


async def ask(engine: SpeechEngine, pcm: bytes = FIRST, *, deadline_s: float = 30.0) -> Transcription:
    return await engine.transcribe(pcm, language="en", prompt="Anna, budget.", deadline_s=deadline_s)


def test_an_engine_has_a_name_and_a_quality(harness: Harness) -> None:
    assert harness.engine.name
    assert harness.engine.quality in ("final", "draft")


@pytest.mark.req("R-STT-1", "R-STT-4")
async def test_speech_becomes_its_text(harness: Harness) -> None:
    for pcm, text in SAID.items():
        assert (await ask(harness.engine, pcm)).text == text


async def test_words_are_in_order_and_inside_the_audio(harness: Harness) -> None:
    heard = await ask(harness.engine)
    assert " ".join(word.text for word in heard.words) == (heard.text if harness.tells_words else "")
    position_s = 0.0
    for word in heard.words:
        assert position_s <= word.start_s <= word.end_s <= seconds(FIRST)
        assert word.probability is None or 0 <= word.probability <= 1
        position_s = word.start_s


async def test_confidence_is_a_probability(harness: Harness) -> None:
    confidence = (await ask(harness.engine)).confidence
    if not harness.tells_words:
        assert confidence is None, "nothing says how sure it is"
        return
    assert confidence is not None
    assert 0.3 < confidence <= 1


@pytest.mark.parametrize("pcm", [b"", bytes(2), bytes(100), silence(1.0)], ids=["0", "2", "100", "1 s"])
async def test_hardly_any_audio_is_no_failure(harness: Harness, pcm: bytes) -> None:
    assert len((await ask(harness.engine, pcm)).text.split()) <= 1
    assert (await ask(harness.engine)).text == SAID[FIRST]


@pytest.mark.req("R-STT-7")
async def test_requests_at_the_same_time_get_their_own_text(harness: Harness) -> None:
    heard = await asyncio.gather(*(ask(harness.engine, pcm) for pcm in [*SAID, *SAID]))
    assert [transcription.text for transcription in heard] == [*SAID.values(), *SAID.values()]


@pytest.mark.req("R-STT-2")
async def test_the_deadline_holds_and_the_next_request_is_unharmed(harness: Harness) -> None:
    harness.hang()
    began = time.monotonic()
    with pytest.raises(SpeechError) as caught:
        await ask(harness.engine, deadline_s=0.4)
    assert time.monotonic() - began < 3
    assert (caught.value.reason, caught.value.retryable) == ("timeout", True)
    assert (await ask(harness.engine)).text == SAID[FIRST]


async def test_a_cancelled_request_ends_at_once_and_the_next_is_unharmed(harness: Harness) -> None:
    harness.hang()
    request = asyncio.create_task(ask(harness.engine))
    await asyncio.sleep(0.2)
    request.cancel()
    await asyncio.wait([request], timeout=1)
    assert request.cancelled()
    assert (await ask(harness.engine)).text == SAID[FIRST]


async def test_audio_beyond_the_engines_limit_is_refused_for_good(harness: Harness) -> None:
    with pytest.raises(SpeechError) as caught:
        await ask(harness.engine, bytes(30 * 1024 * 1024))
    assert (caught.value.reason, caught.value.retryable) == ("too_large", False)


async def test_a_closed_engine_says_so_and_may_be_closed_again(harness: Harness) -> None:
    await harness.engine.close()
    await harness.engine.close()
    with pytest.raises(SpeechError) as caught:
        await ask(harness.engine)
    assert (caught.value.reason, caught.value.retryable) == ("closed", False)


async def test_a_closed_engine_can_be_started_again(harness: Harness) -> None:
    await harness.engine.close()
    await harness.engine.start()
    assert (await ask(harness.engine)).text == SAID[FIRST]
