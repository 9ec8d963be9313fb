"""The OpenAI adapter against a real HTTP server: what it sends and accepts, and how it names failures."""

import io
import time
import wave
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from services.transcriber.speech import OpenAISpeech, SpeechError
from services.transcriber.tests.scripted_server import Answer, ScriptedServer, answer
from services.transcriber.tests.signals import noise
from services.transcriber.transcription import Transcription, Word

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
PCM = noise(0.5, rms=0.1)
QUOTA = {
    "error": {
        "message": "You exceeded your quota",
        "type": "insufficient_quota",
        "code": "insufficient_quota",
    }
}
VERBOSE = {
    "task": "transcribe",
    "language": "english",
    "duration": 4.0,
    "text": " Good morning. Anna speaks.",
    "words": [
        {"word": "Good", "start": 0.1, "end": 0.4},
        {"word": "morning", "start": 0.4, "end": 0.9},
        {"word": "Anna", "start": 2.0, "end": 2.4},
        {"word": "speaks", "start": 2.4, "end": 3.0},
    ],
    "segments": [
        {"start": 0, "end": 1, "avg_logprob": -0.1, "no_speech_prob": 0.0, "compression_ratio": 1.0},
        {"start": 1, "end": 4, "avg_logprob": -0.5, "no_speech_prob": 0.4, "compression_ratio": 2.0},
    ],
}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer().run() as running:
        yield running


async def engine_for(server: ScriptedServer, model: str = "whisper-1", **settings: Any) -> OpenAISpeech:
    engine = OpenAISpeech(base_url=server.url, api_key="test-key", model=model, now=lambda: NOW, **settings)
    await engine.start()
    return engine


async def ask(engine: OpenAISpeech, pcm: bytes = PCM, **more: Any) -> Transcription:
    request: dict[str, Any] = {"language": None, "prompt": "", "deadline_s": 5.0} | more
    try:
        return await engine.transcribe(pcm, **request)
    finally:
        await engine.close()
        await engine.start()


async def failure(server: ScriptedServer, scripted: Answer, *, deadline_s: float = 5.0) -> SpeechError:
    server.script.append(scripted)
    engine = await engine_for(server, detail="text")
    with pytest.raises(SpeechError) as caught:
        await ask(engine, deadline_s=deadline_s)
    assert len(server.requests) == 1, "one attempt is one request"
    await engine.close()
    return caught.value


@pytest.mark.req("R-STT-1")
async def test_a_request_has_the_audio_as_wav_and_asks_for_words_and_segments(server: ScriptedServer) -> None:
    server.script.append(answer(VERBOSE))
    await ask(await engine_for(server), language="en", prompt="Anna, budget.")
    [request] = server.requests
    assert request.path == "/v1/audio/transcriptions"
    assert request.headers["authorization"] == "Bearer test-key"
    assert request.fields == {
        "model": ["whisper-1"],
        "language": ["en"],
        "prompt": ["Anna, budget."],
        "response_format": ["verbose_json"],
        "timestamp_granularities[]": ["word", "segment"],
    }
    assert request.file_name == "a.wav"
    with wave.open(io.BytesIO(request.file)) as recording:
        assert (recording.getnchannels(), recording.getsampwidth(), recording.getframerate()) == (
            1,
            2,
            16_000,
        )
        assert recording.readframes(recording.getnframes()) == PCM


async def test_language_and_prompt_are_left_out_when_there_are_none(server: ScriptedServer) -> None:
    await ask(await engine_for(server))
    assert not {"language", "prompt"} & server.requests[0].fields.keys()


async def test_a_verbose_answer_gives_words_and_figures_weighted_by_duration(server: ScriptedServer) -> None:
    server.script.append(answer(VERBOSE))
    heard = await ask(await engine_for(server))
    assert heard.text == "Good morning. Anna speaks."
    assert heard.words[2] == Word("Anna", 2.0, 2.4)
    assert heard.language == "english"
    assert heard.average_logprob == pytest.approx(-0.4)
    assert heard.no_speech_probability == pytest.approx(0.3)
    assert heard.compression_ratio == pytest.approx(1.75)
    assert heard.confidence == pytest.approx(0.67, abs=0.01)


@pytest.mark.parametrize(
    "body",
    [
        {"text": "hello"},
        {"text": "hello", "words": None, "segments": None, "language": None},
        {"text": "hello", "words": [], "segments": []},
        {"text": "hello", "words": [{"word": "hello", "start": None, "end": None}]},
        {
            "text": "hello",
            "segments": [{"avg_logprob": None, "no_speech_prob": None, "compression_ratio": None}],
        },
        {"text": "hello", "segments": [{"avg_logprob": "low"}, None, 7], "words": "none", "error": None},
    ],
)
async def test_an_answer_without_words_or_figures_is_a_text(server: ScriptedServer, body: object) -> None:
    server.script.append(answer(body))
    assert await ask(await engine_for(server)) == Transcription("hello")


async def test_words_inside_segments_and_their_probabilities_are_found(server: ScriptedServer) -> None:
    word = {"word": " hello", "start": 0.5, "end": 0.9, "probability": 0.8}
    server.script.append(answer({"text": "hello", "segments": [{"words": [word]}]}))
    heard = await ask(await engine_for(server))
    assert heard.words == (Word("hello", 0.5, 0.9, 0.8),)
    assert heard.confidence == pytest.approx(0.8)


async def test_json_with_another_content_type_is_read(server: ScriptedServer) -> None:
    server.script.append(answer({"text": "hello"}, content_type="text/plain; charset=utf-8"))
    assert (await ask(await engine_for(server))).text == "hello"


async def test_empty_text_is_an_answer(server: ScriptedServer) -> None:
    server.script.append(answer({"text": ""}))
    assert (await ask(await engine_for(server))).text == ""


async def test_a_server_that_rejects_words_is_asked_for_text_from_then_on(server: ScriptedServer) -> None:
    server.script += [answer({"error": {"message": "response_format"}}, 400), answer({"text": "one"})]
    engine = await engine_for(server)
    assert (await ask(engine)).text == "one"
    server.script.append(answer({"text": "two"}))
    assert (await ask(engine)).text == "two"
    assert [request.fields["response_format"] for request in server.requests] == [
        ["verbose_json"],
        ["json"],
        ["json"],
    ]


async def test_audio_that_is_rejected_in_both_formats_leaves_the_format_undecided(
    server: ScriptedServer,
) -> None:
    rejected = answer({"error": {"message": "audio too short"}}, 400)
    server.script += [rejected, rejected, answer(VERBOSE), rejected]
    engine = await engine_for(server)
    with pytest.raises(SpeechError):
        await ask(engine)
    assert (await ask(engine)).words
    with pytest.raises(SpeechError):
        await ask(engine)
    assert len(server.requests) == 4, "once words were given, a rejection is about the audio"


@pytest.mark.parametrize(
    ("model", "detail", "response_format"),
    [
        ("gpt-4o-transcribe", "auto", "json"),
        ("gpt-4o-transcribe", "words", "verbose_json"),
        ("Systran/faster-whisper-small", "auto", "verbose_json"),
        ("whisper-1", "text", "json"),
    ],
)
async def test_the_format_goes_by_the_model_unless_set(
    server: ScriptedServer, model: str, detail: str, response_format: str
) -> None:
    await ask(await engine_for(server, model, detail=detail))
    assert server.requests[0].fields["response_format"] == [response_format]


@pytest.mark.req("R-STT-2")
@pytest.mark.parametrize(
    ("scripted", "reason", "retryable"),
    [
        (answer({"error": {"message": "slow down"}}, 429), "rate_limited", True),
        (answer(QUOTA, 429), "quota", False),
        (answer(QUOTA, 200), "quota", False),
        (answer({"error": {"message": "bad key"}}, 401), "unauthorized", False),
        (answer({"error": {"message": "no"}}, 403), "unauthorized", False),
        (answer({"error": {"message": "what?"}}, 400), "rejected", False),
        (answer({"error": {"message": "no such model"}}, 404), "rejected", False),
        (answer({"error": {"message": "too big", "type": "server_error"}}, 413), "too_large", False),
        (answer({"detail": "bad"}, 422), "rejected", False),
        (Answer(b"", 408), "timeout", True),
        (answer({"error": {"message": "oops"}}, 500), "server", True),
        (Answer(b"<html>Bad gateway</html>", 502, "text/html"), "server", True),
        (Answer(b"", 503), "server", True),
        (answer({"error": {"message": "model is loading"}}, 200), "server", True),
        (answer({"error": "model is loading"}, 200), "server", True),
        (Answer(b'{"text": "hel'), "malformed", True),
        (Answer(b""), "malformed", True),
        (Answer(b"hello", content_type="text/plain"), "malformed", True),
        (Answer(b"<html>Welcome</html>", content_type="text/html"), "malformed", True),
        (answer(["hello"]), "malformed", True),
        (answer({"text": None}), "malformed", True),
        (answer({"txt": "hello"}), "malformed", True),
        (Answer(b'{"text": "' + b"a" * 5_000_000 + b'"}'), "malformed", True),
        (Answer(b'{"text": "\xff\xfe"}'), "malformed", True),
        (Answer(reset=True), "connection", True),
        (Answer(b'{"text": "hello"}', reset_after=5), "connection", True),
    ],
)
async def test_each_failure_is_named(server: ScriptedServer, scripted: Answer, reason: str, retryable: bool) -> None:
    error = await failure(server, scripted)
    assert (error.reason, error.retryable) == (reason, retryable)


@pytest.mark.req("R-STT-2")
@pytest.mark.parametrize(
    ("headers", "retry_after_s"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "600"}, 600.0),
        ({"Retry-After": "-1"}, 0.0),
        ({"Retry-After": "Mon, 23 Nov 2026 12:00:20 GMT"}, 20.0),
        ({"Retry-After": "Mon, 23 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"Retry-After-Ms": "1500", "Retry-After": "2"}, 1.5),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_how_long_to_wait_is_told(
    server: ScriptedServer, status: int, headers: dict[str, str], retry_after_s: float | None
) -> None:
    error = await failure(server, Answer(b"{}", status, headers=headers))
    assert error.retryable
    assert error.retry_after_s == retry_after_s


@pytest.mark.req("R-STT-2")
@pytest.mark.parametrize(
    "scripted",
    [
        Answer(b'{"text": "late"}', pause_s=3),
        Answer(b'{"text": "late"}', trickle_s=0.2),
        Answer(b'{"error": "late"}', 500, trickle_s=0.2),
    ],
    ids=["before the answer", "in the answer", "in an error"],
)
async def test_no_server_can_stretch_the_deadline(server: ScriptedServer, scripted: Answer) -> None:
    began = time.monotonic()
    error = await failure(server, scripted, deadline_s=0.5)
    assert time.monotonic() - began < 1.5
    assert (error.reason, error.retryable) == ("timeout", True)


async def test_a_server_that_is_not_there_is_a_connection_error() -> None:
    engine = OpenAISpeech(base_url="http://127.0.0.1:1/v1", api_key="test-key", model="whisper-1")
    await engine.start()
    with pytest.raises(SpeechError) as caught:
        await ask(engine)
    assert (caught.value.reason, caught.value.retryable) == ("connection", True)
    await engine.close()


async def test_audio_above_the_upload_limit_is_not_sent(server: ScriptedServer) -> None:
    engine = await engine_for(server, upload_bytes_max=len(PCM))
    with pytest.raises(SpeechError) as caught:
        await ask(engine)
    assert (caught.value.reason, caught.value.retryable) == ("too_large", False)
    assert server.requests == []


async def test_an_error_says_nothing_that_was_spoken_and_no_key(server: ScriptedServer) -> None:
    error = await failure(server, answer({"error": {"message": "test-key said: secret words"}}, 400))
    assert "secret" not in str(error)
    assert "test-key" not in str(error)
