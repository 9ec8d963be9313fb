"""A server with OpenAI's transcription API that hears the numbers in numbered audio (`numbered.py`), and nothing else.

`python -m tests.chaos.oracle PORT [HOST]` runs it. `PUT /script` changes at run time how it behaves: see `Script`. It
holds no state about what it heard, so whatever reaches it twice is heard twice.
"""

from __future__ import annotations

import asyncio
import io
import sys
import wave
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson
import uvicorn

from tests.chaos.numbered import SAMPLE_RATE_HZ, hear, word

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HOST = "127.0.0.1"
BODY_BYTES_MAX = 26 * 1024 * 1024
STALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Script:
    """How the server behaves. `latency_s` before each answer; `status` other than 200 is answered as an error, with
    `retry_after_s` if it is not 0; every `stall_every`th request (0: none) gets no answer for a minute. When `deaf`,
    it says the same to any audio: for measuring what others cost.
    """

    latency_s: float = 0.1
    status: int = 200
    retry_after_s: float = 0.0
    stall_every: int = 0
    deaf: bool = False


class Oracle:
    """The ASGI application."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._requests = 0
        self._languages: dict[str, list[int]] = {}
        self._under_way: Counter[int] = Counter()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http"
        body = await _body(receive)
        match scope["method"], scope["path"]:
            case "POST", "/v1/audio/transcriptions":
                caller_port = scope["client"][1]
                self._under_way[caller_port] += 1
                try:
                    await self._transcribe(scope, body, send)
                finally:
                    self._under_way[caller_port] -= 1
            case "PUT", "/script":
                self._script = replace(self._script, **orjson.loads(body))
                await _answer(send, 200, asdict(self._script))
            case "GET", "/healthz":
                ports = list((+self._under_way).elements())
                await _answer(
                    send,
                    200,
                    {"status": "ok", "requests": self._requests, "under_way": ports, "languages": self._languages},
                )
            case _:
                await _answer(send, 404, _error("no such path"))

    async def _transcribe(self, scope: Message, body: bytes, send: Send) -> None:
        script = self._script
        self._requests += 1
        if script.stall_every and self._requests % script.stall_every == 0:
            await asyncio.sleep(STALL_S)
        if script.latency_s:
            await asyncio.sleep(script.latency_s)
        if script.status != 200:
            wait = {b"retry-after": str(script.retry_after_s).encode()} if script.retry_after_s else {}
            await _answer(send, script.status, _error("scripted"), wait)
            return
        if script.deaf:
            self._count(_fields(scope, body).get("language", b"").decode(), len(body))
            await _answer(send, 200, {"text": "Somebody said a sentence of usual length, and more words."})
            return
        fields = _fields(scope, body)
        try:
            pcm = _pcm(fields["file"])
        except (KeyError, wave.Error, EOFError):
            await _answer(send, 400, _error("the file is no 16 kHz mono s16le recording"))
            return
        detailed = fields.get("response_format") == b"verbose_json"
        await _answer(send, 200, transcription(pcm, detailed=detailed))

    def _count(self, language: str, body_bytes: int) -> None:
        """Note what was asked for a language: requests and bytes."""
        told = self._languages.setdefault(language, [0, 0])
        told[0] += 1
        told[1] += body_bytes


def transcription(pcm: bytes, *, detailed: bool) -> dict[str, Any]:
    """Return OpenAI's answer to audio: `json`, or `verbose_json` with a word for each number, at its chunk's centre."""
    heard = hear(pcm)
    text = " ".join(word(one.session, one.chunk) for one in heard)
    if not detailed:
        return {"text": text}
    duration_s = len(pcm) / 2 / SAMPLE_RATE_HZ
    segment = {"id": 0, "start": 0.0, "end": duration_s, "text": text, "avg_logprob": -0.1, "no_speech_prob": 0.01}
    words = [
        {"word": word(one.session, one.chunk), "start": at_s, "end": at_s}
        for one in heard
        for at_s in [one.centre / SAMPLE_RATE_HZ]
    ]
    return {
        "task": "transcribe",
        "language": "english",
        "duration": duration_s,
        "text": text,
        "words": words,
        # Numbers in a row compress better than speech does; that is no sign of a loop here.
        "segments": [segment | {"compression_ratio": 1.2}],
    }


def _fields(scope: Message, body: bytes) -> dict[str, bytes]:
    """Return the fields of a multipart body by name. Good enough for what the openai client sends."""
    content_type = dict(scope["headers"]).get(b"content-type", b"")
    _, _, boundary = content_type.partition(b"boundary=")
    fields: dict[str, bytes] = {}
    for part in body.split(b"--" + boundary.strip(b'"'))[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        _, _, name = head.partition(b'name="')
        fields[name.partition(b'"')[0].decode()] = value.removesuffix(b"\r\n")
    return fields


def _pcm(recording: bytes) -> bytes:
    with wave.open(io.BytesIO(recording)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE_HZ, 1, 2):
            raise wave.Error("another format")
        return bytes(file.readframes(file.getnframes()))


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body") or len(body) > BODY_BYTES_MAX:
            return bytes(body)


async def _answer(send: Send, status: int, body: dict[str, Any], headers: dict[bytes, bytes] | None = None) -> None:
    head = {b"content-type": b"application/json"} | (headers or {})
    await send({"type": "http.response.start", "status": status, "headers": list(head.items())})
    await send({"type": "http.response.body", "body": orjson.dumps(body)})


def main() -> None:
    """Serve until told to stop."""
    port, host = int(sys.argv[1]), (sys.argv[2:] or [HOST])[0]
    uvicorn.run(Oracle(Script()), host=host, port=port, log_level="warning", loop="uvloop", lifespan="off")


if __name__ == "__main__":
    main()
