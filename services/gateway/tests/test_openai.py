"""Programs made for OpenAI's audio API speak to us with their own client, unmodified."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import openai
import pysubs2
import pytest
import webvtt
from verbatim.transcript.v1 import transcript_pb2

from chassis.errors import AppError, Kind
from services.gateway.tests.conftest import Gateway, running
from services.gateway.tests.fake_recordings import HEARD
from tests.corpus import recordings as make

pytestmark = pytest.mark.req("R-UP-4")

TEXT = " ".join(HEARD)


@pytest.fixture
async def own() -> AsyncIterator[Gateway]:
    async with running() as gateway:
        yield gateway


def client_of(gateway: Gateway, *, max_retries: int = 0) -> openai.AsyncOpenAI:
    key = gateway.as_account()["Authorization"].removeprefix("Bearer ")
    url = f"http://127.0.0.1:{gateway.port}/v1"
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=max_retries)


def file(name: str = "a.wav", data: bytes | None = None) -> tuple[str, io.BytesIO]:
    return name, io.BytesIO(make.wav(make.tone(0.5)) if data is None else data)


async def transcribe(gateway: Gateway, **wanted: Any) -> Any:
    async with client_of(gateway) as client:
        return await client.audio.transcriptions.create(**{"model": "whisper-1", "file": file(), **wanted})


async def test_every_format_is_read_by_the_client_and_by_other_readers(own: Gateway) -> None:
    assert (await transcribe(own)).text == TEXT
    assert (await transcribe(own, response_format="text")) == f"{TEXT}\n"
    srt = await transcribe(own, response_format="srt")
    assert [(line.start, line.end, line.text) for line in pysubs2.SSAFile.from_string(srt)] == [
        (0, 1500, HEARD[0]),
        (2000, 3500, HEARD[1]),
    ]
    vtt = await transcribe(own, response_format="vtt")
    captions = webvtt.from_string(vtt).captions
    assert [(one.start, one.end) for one in captions] == [
        ("00:00:00.000", "00:00:01.500"),
        ("00:00:02.000", "00:00:03.500"),
    ]
    assert "Friday &amp; no later" in vtt


async def test_verbose_answers_have_the_granularity_that_was_asked_for(own: Gateway) -> None:
    usual = await transcribe(own, response_format="verbose_json")
    assert (usual.text, usual.duration, usual.language, usual.words) == (TEXT, 4.25, "english", None)
    assert [(one.id, one.start, one.end, one.text) for one in usual.segments] == [
        (0, 0.0, 1.5, f" {HEARD[0]}"),
        (1, 2.0, 3.5, f" {HEARD[1]}"),
    ]
    assert usual.segments[0].avg_logprob == pytest.approx(-0.693, abs=0.001)
    words = await transcribe(own, response_format="verbose_json", timestamp_granularities=["word"])
    assert words.segments is None
    assert [one.word for one in words.words] == TEXT.split()
    both = await transcribe(own, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert len(both.segments) == 2
    assert both.words == words.words


async def test_text_comes_as_it_is_heard(own: Gateway) -> None:
    async with client_of(own) as client:
        stream = await client.audio.transcriptions.create(model="whisper-1", file=file(), stream=True)
        events = [event async for event in stream]
    assert [event.type for event in events] == [
        "transcript.text.delta",
        "transcript.text.delta",
        "transcript.text.done",
    ]
    assert "".join(getattr(event, "delta", "") for event in events) == TEXT
    assert getattr(events[-1], "text", "") == TEXT


async def test_what_is_asked_for_reaches_the_transcriber_wherever_it_stands_in_the_form(own: Gateway) -> None:
    data = make.wav(make.tone(3.0))
    await transcribe(own, file=file(data=data), language="de", prompt="Zürich", temperature=0.2)
    [parameters] = own.recordings.parameters
    assert (parameters.container, parameters.language, parameters.prompt) == ("wav", "de", "Zürich")
    assert own.recordings.files == [data]
    # curl and others send the file first.
    parts: Any = [("file", ("a.wav", data)), ("language", (None, "fr")), ("model", (None, "whisper-1"))]
    answer = await own.client.post("/v1/audio/transcriptions", files=parts, headers=own.as_account())
    assert answer.json()["text"] == TEXT
    assert answer.headers["x-verbatim-quality"] == "final"
    assert own.recordings.parameters[1].language == "fr"


async def test_drafts_and_silence_are_told_as_such(own: Gateway) -> None:
    own.recordings.quality = transcript_pb2.QUALITY_DRAFT
    async with client_of(own) as client:
        raw = await client.audio.transcriptions.with_raw_response.create(model="whisper-1", file=file())
        assert raw.headers["x-verbatim-quality"] == "draft"
    own.recordings.heard = ()
    assert (await transcribe(own)).text == ""
    assert (await transcribe(own, response_format="verbose_json")).segments == []


async def test_models_are_listed_and_one_that_is_not_there_is_said_so(own: Gateway) -> None:
    async with client_of(own) as client:
        assert [model.id async for model in client.models.list()] == ["whisper-1"]
        assert (await client.models.retrieve("whisper-1")).object == "model"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError) as caught:
        await transcribe(own, model="gpt-9")
    assert caught.value.param == "model"
    async with running(whisper_model="large-v3") as other, client_of(other) as client:
        assert [model.id async for model in client.models.list()] == ["large-v3", "whisper-1"]


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"file": file("a.wav", b"this is no sound")}, "file"),
        ({"file": file("a.txt", b"this is no sound")}, "file"),
        ({"file": file("a.wav", b"")}, "file"),
        ({"response_format": "pdf"}, "response_format"),
        ({"language": "englisch"}, "language"),
        ({"timestamp_granularities": ["letter"], "response_format": "verbose_json"}, "timestamp_granularities[]"),
        ({"prompt": "x" * 5000}, "prompt"),
    ],
)
async def test_what_is_wrong_is_said_in_their_words(own: Gateway, wanted: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await transcribe(own, **wanted)
    error = caught.value
    assert (error.param, error.code, error.type) == (param, "bad_request", "invalid_request_error")
    assert error.response.headers["x-should-retry"] == "false"
    assert error.request_id is None or error.request_id.startswith("req_")


@pytest.mark.req("R-ERR-1")
async def test_a_file_that_cannot_be_decoded_and_one_that_is_too_long(own: Gateway) -> None:
    own.recordings.fault = AppError(Kind.BAD_REQUEST, "The end of the file is missing.")
    with pytest.raises(openai.BadRequestError, match="end of the file"):
        await transcribe(own)
    async with running(transcription_bytes_max=100_000) as small:
        with pytest.raises(openai.APIStatusError) as caught:
            await transcribe(small, file=file(data=make.wav(make.tone(5.0))))
        assert caught.value.status_code == 413
        assert small.recordings.parameters == []


@pytest.mark.req("R-ERR-1", "R-RES-4")
async def test_clients_try_again_when_it_helps_and_only_then(own: Gateway) -> None:
    own.recordings.refusal = AppError(Kind.UNAVAILABLE, "Too many recordings at the moment.", retry_after_s=0.0)
    with pytest.raises(openai.InternalServerError) as caught:
        await transcribe(own)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["x-should-retry"] == "true"
    with pytest.raises(openai.AuthenticationError) as stranger:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{own.port}/v1", api_key="wrong") as client:
            await client.models.list()
    assert stranger.value.response.headers["x-should-retry"] == "false"


async def test_a_stream_that_breaks_off_ends_with_an_error(own: Gateway) -> None:
    own.recordings.fault, own.recordings.late = AppError(Kind.UNAVAILABLE, "The engine does not answer."), True
    with pytest.raises(openai.APIError, match="engine does not answer"):
        async with client_of(own) as client:
            stream = await client.audio.transcriptions.create(model="whisper-1", file=file(), stream=True)
            async for _ in stream:
                pass
    with pytest.raises(openai.InternalServerError):
        await transcribe(own)
