"""OpenAI's client against the whole platform, with the embedded engine behind it."""

from __future__ import annotations

import io

import jiwer
import openai
import pytest

from dev.stack import Stack
from tests.corpus import recordings as make
from tests.e2e.conftest import NewClient
from tests.e2e.speech import plain, recording, script
from tests.e2e.test_uploads import stored


@pytest.mark.req("R-UP-4")
async def test_a_recording_is_transcribed_for_a_program_that_knows_openai(stack: Stack, new_client: NewClient) -> None:
    account = await new_client()
    before = await stored(stack)
    pcm = recording(20.0)
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=account.access_token, max_retries=0) as client:
        file = ("meeting.mp3", io.BytesIO(make.mp3(pcm)))
        answer = await client.audio.transcriptions.create(
            model="whisper-1", file=file, response_format="verbose_json", timestamp_granularities=["segment", "word"]
        )
        assert answer.duration == pytest.approx(20.0, abs=0.1)
        assert answer.segments
        assert answer.words
        assert all(one.start <= two.start for one, two in zip(answer.words, answer.words[1:], strict=False))
        spoken = plain(script())[: len(plain(answer.text))]
        assert jiwer.wer(spoken, plain(answer.text)) < 0.15

        file = ("meeting.webm", io.BytesIO(make.webm(pcm[: 8 * 32_000])))
        stream = await client.audio.transcriptions.create(model="whisper-1", file=file, stream=True)
        deltas = [event async for event in stream]
        assert getattr(deltas[-1], "text", "") == "".join(getattr(event, "delta", "") for event in deltas)

        with pytest.raises(openai.BadRequestError, match="end of the file"):
            half = ("half.wav", io.BytesIO(make.wav(pcm)[:100_000]))
            await client.audio.transcriptions.create(model="whisper-1", file=half)
    assert [meeting async for meeting in account.meetings()] == [], "nothing is kept"
    assert await stored(stack) <= before
