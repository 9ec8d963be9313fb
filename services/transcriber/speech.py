"""The door to speech engines: what an engine is, how it fails, and the OpenAI-compatible one.

The embedded engine is in `services/transcriber/sphinx.py`.
"""

import asyncio
import contextlib
import io
import math
import wave
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Protocol

import httpx2
import openai

from chassis import tracing
from services.transcriber.cutting import SAMPLE_BYTES, SAMPLE_RATE_HZ
from services.transcriber.openai_answer import MalformedAnswerError, ReportedError, read_answer
from services.transcriber.transcription import Transcription

Reason = Literal[
    "rate_limited",
    "quota",
    "unauthorized",
    "rejected",
    "too_large",
    "timeout",
    "connection",
    "server",
    "malformed",
    "overloaded",
    "crashed",
    "closed",
    "breaker_open",
]

# The limit of the OpenAI API, which reports a larger file as an error of the server: refused before sending.
UPLOAD_BYTES_MAX = 26_214_400
# Words with times for an utterance of 30 s are about 20 kB.
ANSWER_BYTES_MAX = 4 * 1024 * 1024


class SpeechError(Exception):
    """An engine did not transcribe. `retryable` says whether the same request may succeed later.

    `retry_after_s` is how long the engine asked to be left alone, None if it did not. The message names no
    text that was spoken and no credential.
    """

    def __init__(self, message: str, *, retryable: bool, reason: Reason, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.reason: Reason = reason
        self.retry_after_s = retry_after_s


class SpeechEngine(Protocol):
    """Turns audio into text. Every adapter passes the tests in `test_engine_conformance.py`."""

    name: str
    quality: Literal["final", "draft"]

    async def start(self) -> None:
        """Make ready to transcribe; raises `SpeechError`."""

    async def transcribe(self, pcm: bytes, *, language: str | None, prompt: str, deadline_s: float) -> Transcription:
        """Return the text of `pcm` (16 kHz mono s16le) within `deadline_s`.

        `language` is an ISO 639-1 code or None, `prompt` is what was said before and words to expect, or
        "". One attempt: it never retries. Raises `SpeechError` for every failure, and leaves nothing
        running after it.
        """

    async def close(self) -> None:
        """Let go of connections and processes. May be called twice, and without `start`."""


class OpenAISpeech:
    """Any server with OpenAI's `POST /audio/transcriptions`.

    `detail` "words" asks for `verbose_json` with word times, "text" for `json`; "auto" asks for words,
    unless a server that has never given them rejects that. Then it asks for text from there on.
    """

    quality: Literal["final", "draft"] = "final"

    def __init__(
        self,
        *,
        base_url: str | None,
        api_key: str,
        model: str,
        detail: Literal["auto", "words", "text"] = "auto",
        name: str = "openai",
        connect_timeout_s: float = 3.0,
        upload_bytes_max: int = UPLOAD_BYTES_MAX,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = name
        self._base_url = base_url
        self._api_key = api_key
        self._model = model
        # OpenAI's own gpt-*-transcribe models know `json` only.
        self._detail = "text" if detail == "auto" and model.startswith("gpt-") else detail
        self._connect_timeout_s = connect_timeout_s
        self._upload_bytes_max = upload_bytes_max
        self._now = now
        self._client: openai.AsyncOpenAI | None = None

    async def start(self) -> None:
        """Make the client. Connects only when there is something to transcribe."""
        # Over aiohttp: half the CPU per utterance (docs/adr/0030-the-speech-client-over-aiohttp.md).
        http = openai.DefaultAioHttpClient()
        self._client = openai.AsyncOpenAI(
            base_url=self._base_url, api_key=self._api_key, max_retries=0, http_client=http
        )

    async def close(self) -> None:
        """Close the client's connections."""
        client, self._client = self._client, None
        if client:
            await client.close()

    async def transcribe(self, pcm: bytes, *, language: str | None, prompt: str, deadline_s: float) -> Transcription:
        """See `SpeechEngine`."""
        if self._client is None:
            raise SpeechError("the engine is closed", retryable=False, reason="closed")
        recording = _wav(pcm)
        if len(recording) > self._upload_bytes_max:
            raise SpeechError("the audio is above the upload limit", retryable=False, reason="too_large")
        try:
            # The client's timeout is one for each read: a server that trickles would never meet it.
            async with asyncio.timeout(deadline_s):
                return await self._transcribe(self._client, recording, language, prompt, deadline_s)
        except TimeoutError as error:
            raise SpeechError("no answer within the deadline", retryable=True, reason="timeout") from error

    async def _transcribe(
        self,
        client: openai.AsyncOpenAI,
        recording: bytes,
        language: str | None,
        prompt: str,
        deadline_s: float,
    ) -> Transcription:
        request: dict[str, Any] = {
            "file": ("a.wav", recording, "audio/wav"),
            "model": self._model,
            "timeout": openai.Timeout(deadline_s, connect=min(self._connect_timeout_s, deadline_s)),
        }
        if language:
            request["language"] = language
        if prompt:
            request["prompt"] = prompt
        if self._detail != "text":
            with_words = {"response_format": "verbose_json", "timestamp_granularities": ["word", "segment"]}
            try:
                answer = await self._ask(client, request | with_words)
            except SpeechError as error:
                if self._detail == "words" or error.reason != "rejected":
                    raise
                answer = await self._ask(client, request | {"response_format": "json"})
                # Only an answer proves that the words were what the server minded.
                self._detail = "text"
            else:
                self._detail = "words"
            return answer
        return await self._ask(client, request | {"response_format": "json"})

    async def _ask(self, client: openai.AsyncOpenAI, request: dict[str, Any]) -> Transcription:
        body = bytearray()
        try:
            # One span for each request over the wire; its id goes along, for servers of one's own.
            with tracing.step("POST /audio/transcriptions", model=self._model) as span:
                call = client.audio.transcriptions.with_streaming_response.create(
                    **request, extra_headers=tracing.carried()
                )
                async with call as response:
                    tracing.tell(span, status=response.status_code)
                    async for part in response.iter_bytes():
                        body += part
                        if len(body) > ANSWER_BYTES_MAX:
                            raise SpeechError("the answer is too long", retryable=True, reason="malformed")
        except openai.APIStatusError as error:
            raise self._status_error(error) from error
        except (openai.APITimeoutError, httpx2.TimeoutException) as error:
            # The transport over aiohttp calls every failure to connect, also a refusal, by this name.
            if isinstance(error, httpx2.ConnectTimeout) or isinstance(error.__cause__, httpx2.ConnectTimeout):
                raise SpeechError("the connection failed", retryable=True, reason="connection") from error
            raise SpeechError("no answer in time", retryable=True, reason="timeout") from error
        except (openai.APIConnectionError, httpx2.TransportError) as error:
            raise SpeechError("the connection failed", retryable=True, reason="connection") from error
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise SpeechError("the answer is not valid", retryable=True, reason="malformed") from error
        try:
            return read_answer(bytes(body))
        except ReportedError as error:
            raise _reported(error.code) from error
        except MalformedAnswerError as error:
            raise SpeechError(str(error), retryable=True, reason="malformed") from error

    def _status_error(self, error: openai.APIStatusError) -> SpeechError:
        status = error.status_code
        if _is_quota(error.code) or _is_quota(error.type):
            return _reported("insufficient_quota")
        message = f"the server answered {status}"
        if status in (408, 409, 425, 429) or status >= 500:
            reason: Reason = "rate_limited" if status == 429 else "timeout" if status == 408 else "server"
            wait_s = _retry_after_s(error.response.headers, self._now())
            return SpeechError(message, retryable=True, reason=reason, retry_after_s=wait_s)
        reasons: dict[int, Reason] = {401: "unauthorized", 403: "unauthorized", 413: "too_large"}
        return SpeechError(message, retryable=False, reason=reasons.get(status, "rejected"))


def _reported(code: str | None) -> SpeechError:
    if _is_quota(code):
        return SpeechError("the quota of the account is used up", retryable=False, reason="quota")
    return SpeechError("the server answered 200 with an error", retryable=True, reason="server")


def _is_quota(code: str | None) -> bool:
    return code == "insufficient_quota"


def _retry_after_s(headers: httpx2.Headers, now: datetime) -> float | None:
    """Return what `Retry-After` asks for, in seconds or as a date (RFC 9110, 10.2.3); never negative."""
    asked_s = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        wait_s = float(headers["retry-after-ms"]) / 1_000 if "retry-after-ms" in headers else float(asked_s)
        return max(0.0, wait_s) if math.isfinite(wait_s) else None
    with contextlib.suppress(ValueError):
        until = parsedate_to_datetime(asked_s)
        return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())
    return None


def _wav(pcm: bytes) -> bytes:
    recording = io.BytesIO()
    with wave.open(recording, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(SAMPLE_BYTES)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(pcm)
    return recording.getvalue()
