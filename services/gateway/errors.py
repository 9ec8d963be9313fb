"""How a failure leaves the gateway: one shape for every route, one place that makes it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope, Send

from chassis import telemetry
from chassis.errors import TABLE, AppError, Kind, Problem, kind_of_http
from services.gateway import headers, pages

log = telemetry.logger(__name__)

_WORDS = {
    Kind.BAD_REQUEST: "The request cannot be read.",
    Kind.NOT_FOUND: "There is nothing here.",
    Kind.METHOD_NOT_ALLOWED: "This cannot be done here.",
    Kind.PAYLOAD_TOO_LARGE: "The body is too long.",
    Kind.UNSUPPORTED_MEDIA_TYPE: "The body must be JSON, sent as application/json.",
    Kind.VALIDATION_FAILED: "Some fields do not hold.",
    Kind.INTERNAL: "Something went wrong on our side.",
}

# Only these messages of pydantic are known to be free of what was sent.
_SAFE_MESSAGES = frozenset(
    {"missing", "extra_forbidden", "string_type", "string_too_short", "string_too_long", "string_pattern_mismatch",
     "string_unicode", "literal_error", "int_type", "int_parsing", "greater_than_equal", "less_than_equal", "list_type",
     "too_short", "too_long", "dict_type", "model_attributes_type", "model_type", "no_text", "not_a_day", "not_a_time",
     "not_a_version", "nothing_to_change", "not_a_value"}
)  # fmt: skip
_FIELD_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class FieldProblem(BaseModel):
    """One thing wrong with one field."""

    field: str = Field(examples=["title"])
    problem: str = Field(examples=["Field required"])


class ErrorAnswer(BaseModel):
    """How every failure is answered. What cannot be said is left out."""

    error: Kind = Field(description="Code that programs may rely on.")
    message: str = Field(description="What to tell a person.")
    request_id: str = Field(examples=["req_R5sQpXb8oZ0mJ0aVf1l3Ng"])
    details: list[FieldProblem] | None = Field(None, description="Which fields do not hold, with `validation_failed`.")
    retry_after: float | None = Field(None, description="Seconds until the same call may succeed.")
    version: int | None = Field(None, description="Current version, with `precondition_failed`.")


class OpenAIError(BaseModel):
    """What OpenAI's clients read of a failure."""

    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(None, description="The field that does not hold.")
    code: Kind
    request_id: str


class OpenAIErrorAnswer(BaseModel):
    """How every failure under `/v1` is answered; `X-Should-Retry` tells clients whether to try again."""

    error: OpenAIError


def answer(error: AppError, scope: Scope) -> Response:
    """Return the public answer to a request: `/v1` speaks the shape that OpenAI's clients read, a person who follows a
    link in a browser gets a page."""
    request_id = telemetry.request_id()
    fields = _headers(error)
    if not scope["path"].startswith("/v1/"):
        if _asks_for_a_page(scope):
            return HTMLResponse(pages.failure(error, request_id), error.codes.http, fields | {"Vary": "Accept"})
        return Response(orjson.dumps(error.body(request_id)), error.codes.http, fields, "application/json")
    fields["X-Should-Retry"] = "true" if error.codes.retryable else "false"
    return Response(orjson.dumps(as_openai(error, request_id)), error.codes.http, fields, "application/json")


def _asks_for_a_page(scope: Scope) -> bool:
    """Tell whether a browser opens an address: it wants HTML first of all. Programs say `*/*`, JSON or nothing."""
    if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
        return False
    accepted = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    return bool(accepted.partition(b",")[0].partition(b";")[0].strip().lower() == b"text/html")


def body_of(error: AppError, request_id: str) -> bytes:
    """Return the public shape as bytes."""
    return orjson.dumps(error.body(request_id))


def raw(error: AppError, request_id: str) -> bytes:
    """Return a whole HTTP answer for a connection on which nothing can be read any more."""
    body = body_of(error, request_id)
    fields = [
        *((name.encode(), value.encode()) for name, value in _headers(error).items()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
        *headers.for_answer(request_id, page=False),
    ]
    status = HTTPStatus(error.codes.http)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode(), *(name + b": " + value for name, value in fields)]
    return b"\r\n".join([*lines, b"", body])


def of_status(status: int) -> AppError:
    """Return what to say instead of a library's own words."""
    kind = kind_of_http(status)
    return AppError(kind, _WORDS.get(kind, _WORDS[Kind.BAD_REQUEST]))


def _headers(error: AppError) -> dict[str, str]:
    fields = {}
    if error.retry_after_s is not None:
        fields["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.version is not None:
        fields["ETag"] = f'"{error.version}"'
    if error.kind is Kind.UNAUTHORIZED:
        fields["WWW-Authenticate"] = "Bearer"
    return fields


def as_openai(error: AppError, request_id: str) -> dict[str, object]:
    """Return the shape that OpenAI's clients read."""
    return {
        "error": {
            "message": error.message,
            "type": "invalid_request_error" if error.codes.http < 500 else "server_error",
            "param": error.details[0].field if error.details else None,
            "code": error.kind.value,
            "request_id": request_id,
        }
    }


def install(app: FastAPI) -> None:
    """Let every failure inside the application leave through `answer`."""
    app.add_exception_handler(AppError, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_framework)
    app.add_exception_handler(Exception, _unforeseen)


async def _expected(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    if error.codes.http >= 500:
        log.warning("answered with a failure", kind=error.kind.value, fault=str(error))
    return answer(error, request.scope)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answer(_invalid_as_app_error(error), request.scope)


def _invalid_as_app_error(error: RequestValidationError) -> AppError:
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return AppError(Kind.BAD_REQUEST, _WORDS[Kind.BAD_REQUEST], details=(Problem("body", "Should be valid JSON"),))
    if isinstance(error.body, bytes):
        # FastAPI hands over a body as bytes when its declared type is not JSON.
        return AppError(Kind.UNSUPPORTED_MEDIA_TYPE, _WORDS[Kind.UNSUPPORTED_MEDIA_TYPE])
    problems = tuple(Problem(_field(one["loc"]), _problem(one)) for one in found[:20])
    return AppError(Kind.VALIDATION_FAILED, _WORDS[Kind.VALIDATION_FAILED], details=problems)


def _field(location: tuple[str | int, ...]) -> str:
    """Return where in the body, path or query: `participants.3`. A field name that is not ours may be anything."""
    parts = [str(part) for part in location[1:]] or [str(location[0])]
    return ".".join(part if _FIELD_NAME.fullmatch(part) else "(unreadable name)" for part in parts)


def _problem(one: Mapping[str, Any]) -> str:
    return str(one["msg"]) if one["type"] in _SAFE_MESSAGES else "Is not valid"


async def _of_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    found = of_status(error.status_code)
    response = answer(found, request.scope)
    if found.kind is Kind.METHOD_NOT_ALLOWED:
        # The framework names the methods of one route; a path may have several.
        path = request.scope["route"].path
        methods = {method for route in request.app.routes if route.path == path for method in route.methods}
        response.headers["Allow"] = ", ".join(sorted(methods))
    return response


async def _unforeseen(request: Request, _: Exception) -> Response:
    # The edge logs the trace: the framework raises the exception again after this answer.
    return answer(unforeseen(), request.scope)


def unforeseen() -> AppError:
    """Return what the world may know of a bug."""
    return AppError(Kind.INTERNAL, _WORDS[Kind.INTERNAL])


def too_long() -> HTTPException:
    """Return what to raise while a body is read; the framework lets only its own exceptions through there."""
    return HTTPException(TABLE[Kind.PAYLOAD_TOO_LARGE].http)


async def refuse_handshake(error: AppError, scope: Scope, send: Send) -> None:
    """Answer a WebSocket handshake with the error as an HTTP answer."""
    response = answer(error, scope)
    fields = [*response.raw_headers, *headers.for_answer(telemetry.request_id(), page=False)]
    await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": fields})
    await send({"type": "websocket.http.response.body", "body": response.body})


# What routes have in common: reading a body; naming one's own resource; changing it.
BODY = (Kind.BAD_REQUEST, Kind.PAYLOAD_TOO_LARGE, Kind.UNSUPPORTED_MEDIA_TYPE, Kind.VALIDATION_FAILED)
READ = (Kind.UNAUTHORIZED, Kind.NOT_FOUND, Kind.VALIDATION_FAILED)
CHANGE = (*READ, Kind.PRECONDITION_FAILED, Kind.PRECONDITION_REQUIRED)


def documented(*kinds: Kind, openai: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI answers for the kinds of failure, with an example each; in the shape of `/v1` if asked for.

    Who is known may still not be allowed: an API key has scopes.
    """
    allowed = (Kind.FORBIDDEN,) if Kind.UNAUTHORIZED in kinds else ()
    always = (Kind.INTERNAL, Kind.UNAVAILABLE, Kind.TIMEOUT)
    return {TABLE[kind].http: _documented(kind, openai) for kind in (*kinds, *allowed, *always)}


def _documented(kind: Kind, openai: bool) -> dict[str, Any]:
    details = (Problem("title", "Field required"),) if kind is Kind.VALIDATION_FAILED else ()
    version = 4 if kind is Kind.PRECONDITION_FAILED else None
    example = AppError(
        kind, _WORDS.get(kind, "What went wrong, in words for a person."), details=details, version=version
    )
    request_id = "req_R5sQpXb8oZ0mJ0aVf1l3Ng"
    body = as_openai(example, request_id) if openai else example.body(request_id)
    entry: dict[str, Any] = {
        "model": OpenAIErrorAnswer if openai else ErrorAnswer,
        "description": kind.value.replace("_", " ").capitalize(),
        "content": {"application/json": {"example": body}},
    }
    names = [name for name in _headers(example) if name != "WWW-Authenticate"]
    if names:
        entry["headers"] = {name: {"schema": {"type": "string"}} for name in names}
    return entry
