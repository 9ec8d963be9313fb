"""`/v1`: what programs made for OpenAI's audio API call. Files are transcribed while the caller waits, and not kept."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse
from verbatim.transcriber.v1 import recordings_pb2 as pb

from chassis import telemetry
from chassis.errors import AppError, Kind, Problem
from services.gateway import errors, metrics, sse
from services.gateway.auth import Who
from services.gateway.forms import Field, FileBegins, FileBytes, FormItem, read_form
from services.gateway.media_types import media_type
from services.gateway.openai_answers import ANSWERS, Transcript, delta_event, done_event, error_event
from services.gateway.transcribing import Transcribers

log = telemetry.logger(__name__)

ALWAYS_KNOWN = "whisper-1"
_PROMPT_CHARS_MAX = 4000
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_GRANULARITIES = ("segment", "word")
_BYTES = {"type": "string", "format": "binary"}
_FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "model"],
                "properties": {
                    "file": {**_BYTES, "description": "mp3, wav, ogg, webm, mp4 or m4a."},
                    "model": {"type": "string", "description": "One of `/v1/models`."},
                    "language": {"type": "string", "description": "ISO 639, as `en`."},
                    "prompt": {"type": "string", "maxLength": _PROMPT_CHARS_MAX},
                    "response_format": {"type": "string", "enum": list(ANSWERS), "default": "json"},
                    "temperature": {"type": "number", "minimum": 0, "maximum": 1, "description": "Changes nothing."},
                    "timestamp_granularities[]": {
                        "type": "array",
                        "items": {"type": "string", "enum": list(_GRANULARITIES)},
                    },
                    "stream": {"type": "boolean", "default": False},
                },
            }
        }
    },
}
_TEXT = {"schema": {"type": "string"}}
_HEARD: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What was heard, as `response_format` says; with `stream` as server-sent events.",
        "headers": {"X-Verbatim-Quality": {"schema": {"type": "string", "enum": ["draft", "final"]}}},
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
                "example": {"text": "We launch in May.", "usage": {"type": "duration", "seconds": 2}},
            },
            "text/plain": _TEXT,
            "text/event-stream": {"schema": sse.SCHEMA},
        },
    }
}
_FAILURES = (
    Kind.BAD_REQUEST, Kind.UNAUTHORIZED, Kind.NOT_FOUND, Kind.PAYLOAD_TOO_LARGE, Kind.UNSUPPORTED_MEDIA_TYPE,
    Kind.VALIDATION_FAILED, Kind.RATE_LIMIT_EXCEEDED,
)  # fmt: skip


class Model(BaseModel):
    """A name that `model` may have."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "verbatim"


class Models(BaseModel):
    """The names that `model` may have."""

    object: str = "list"
    data: list[Model]


@dataclass(slots=True)
class _Wish:
    """What the form asks for besides the file."""

    model: str = ""
    language: str = ""
    prompt: str = ""
    response_format: str = "json"
    granularities: list[str] = field(default_factory=list)
    stream: bool = False

    def take(self, name: str, value: str) -> None:
        """Take a field of the form; one that we do not know changes nothing, as at OpenAI's other models."""
        match name:
            case "model" | "prompt":
                setattr(self, name, value)
            case "language":
                self.language = value.lower()
            case "response_format":
                self.response_format = value
            case "timestamp_granularities[]" | "timestamp_granularities":
                self.granularities.append(value)
            case "stream":
                self.stream = value.lower() in {"true", "1"}

    def check(self, models: frozenset[str]) -> None:
        """Raise AppError for what does not hold."""
        problems = {
            "response_format": self.response_format not in ANSWERS and f"Should be one of {', '.join(ANSWERS)}",
            "language": bool(self.language) and not _LANGUAGE.fullmatch(self.language) and "Should be a code as en",
            "prompt": len(self.prompt) > _PROMPT_CHARS_MAX and "Is too long",
            "timestamp_granularities[]": not set(self.granularities) <= set(_GRANULARITIES)
            and f"Should be of {', '.join(_GRANULARITIES)}",
            "model": not self.model and "Field required",
        }
        for name, problem in problems.items():
            if problem:
                raise AppError(Kind.BAD_REQUEST, f"{name}: {problem}.", details=(Problem(name, str(problem)),))
        if self.model not in models:
            raise unknown_model()

    def parameters(self, container: str) -> pb.TranscribeParameters:
        return pb.TranscribeParameters(container=container, language=self.language, prompt=self.prompt)


def unknown_model() -> AppError:
    """Return what to say of a model that is not there."""
    problem = Problem("model", "Is not one of /v1/models")
    return AppError(Kind.NOT_FOUND, "There is no such model.", details=(problem,))


def routes(transcribers: Transcribers, *, model: str, idle_s: float) -> APIRouter:
    """Return the routes of `/v1`."""
    router = APIRouter(prefix="/v1", tags=["openai"])
    models = list(dict.fromkeys((model, ALWAYS_KNOWN)))
    known = frozenset(models)

    @router.get("/models", responses=errors.documented(Kind.UNAUTHORIZED, openai=True))
    async def list_models(_: Who) -> Models:
        """List the names that `model` may have. All stand for the engines that this platform has."""
        return Models(data=[Model(id=name) for name in models])

    @router.get("/models/{model_id}", responses=errors.documented(*errors.READ, openai=True))
    async def get_model(model_id: str, _: Who) -> Model:
        """Read one of them."""
        if model_id not in known:
            raise unknown_model()
        return Model(id=model_id)

    @router.post(
        "/audio/transcriptions",
        responses={**errors.documented(*_FAILURES, openai=True), **_HEARD},
        openapi_extra={"requestBody": _FORM},
        response_class=Response,
    )
    async def transcribe(request: Request, _: Who) -> Response:
        """Transcribe a recording. The answer's `X-Verbatim-Quality` is `draft` if any of it is."""
        wish = _Wish()
        with _invalid_as_openai_says():
            return await answered(request, wish)

    async def answered(request: Request, wish: _Wish) -> Response:
        async with AsyncExitStack() as stack:
            items = await stack.enter_async_context(aclosing(read_form(request, idle_s=idle_s)))
            file = await _file_of(items, wish)
            kind = media_type(file.file_name, file.media_type)

            def parameters() -> pb.TranscribeParameters:
                wish.check(known)
                return wish.parameters(kind.container)

            heard = await stack.enter_async_context(transcribers.transcribing(kind, _bytes_of(items, wish), parameters))
            # Failures come before the first word, nearly always: then they have a status of their own.
            first = await anext(heard, None)
            if wish.stream:
                return StreamingResponse(_told(first, heard, stack.pop_all()), media_type="text/event-stream")
            transcript = await _whole(first, heard)
        metrics.TRANSCRIPTIONS.labels(wish.response_format).inc()
        content_type, answer = ANSWERS[wish.response_format]
        quality = "draft" if transcript.is_draft else "final"
        content = answer(transcript, wish.granularities or ["segment"])
        return Response(content, headers={"X-Verbatim-Quality": quality}, media_type=content_type)

    return router


@contextmanager
def _invalid_as_openai_says() -> Iterator[None]:
    """Say 400 of whatever is wrong with what was sent."""
    try:
        yield
    except AppError as fault:
        if fault.kind not in {Kind.UNSUPPORTED_MEDIA_TYPE, Kind.VALIDATION_FAILED}:
            raise
        raise AppError(Kind.BAD_REQUEST, fault.message, details=fault.details) from fault


async def _file_of(items: AsyncIterator[FormItem], wish: _Wish) -> FileBegins:
    async for item in items:
        if isinstance(item, FileBegins) and item.name == "file":
            return item
        if isinstance(item, Field):
            wish.take(item.name, item.value)
        elif isinstance(item, FileBegins):
            break
    raise AppError(Kind.BAD_REQUEST, "file: Field required.", details=(Problem("file", "Field required"),))


async def _bytes_of(items: AsyncIterator[FormItem], wish: _Wish) -> AsyncIterator[bytes]:
    async for item in items:
        match item:
            case FileBytes():
                yield item.data
            case Field():
                wish.take(item.name, item.value)
            case FileBegins():
                raise AppError(Kind.BAD_REQUEST, "file: only one.", details=(Problem("file", "Comes twice"),))


async def _whole(first: pb.TranscribeResponse | None, heard: AsyncIterator[pb.TranscribeResponse]) -> Transcript:
    transcript = Transcript()
    _take(transcript, first)
    async for response in heard:
        _take(transcript, response)
    return transcript


async def _told(
    first: pb.TranscribeResponse | None, heard: AsyncIterator[pb.TranscribeResponse], stack: AsyncExitStack
) -> AsyncIterator[bytes]:
    """Yield what is heard as server-sent events."""
    transcript = Transcript()
    async with stack:
        try:
            async for response in _with_first(first, heard):
                _take(transcript, response)
                if response.HasField("segment"):
                    yield delta_event(response.segment, first=len(transcript.segments) == 1)
        except AppError as fault:
            log.warning("transcription broke off", fault=str(fault))
            yield error_event(errors.as_openai(fault, telemetry.request_id()))
            return
    metrics.TRANSCRIPTIONS.labels("stream").inc()
    yield done_event(transcript)


async def _with_first(
    first: pb.TranscribeResponse | None, heard: AsyncIterator[pb.TranscribeResponse]
) -> AsyncIterator[pb.TranscribeResponse]:
    if first is not None:
        yield first
        async for response in heard:
            yield response


def _take(transcript: Transcript, response: pb.TranscribeResponse | None) -> None:
    match response.WhichOneof("kind") if response is not None else None:
        case "segment":
            assert response is not None
            transcript.segments.append(response.segment)
        case "summary":
            assert response is not None
            transcript.duration_s = response.summary.duration_s
            transcript.language = response.summary.language
