"""One error type and one table: what went wrong, as HTTP, gRPC and WebSocket say it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import grpc


class Kind(StrEnum):
    """What went wrong. The value is the public code."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    PRECONDITION_FAILED = "precondition_failed"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    VALIDATION_FAILED = "validation_failed"
    PRECONDITION_REQUIRED = "precondition_required"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    INTERNAL = "internal_server_error"
    BAD_GATEWAY = "bad_gateway"
    UNAVAILABLE = "service_unavailable"
    TIMEOUT = "gateway_timeout"
    INSUFFICIENT_STORAGE = "insufficient_storage"


@dataclass(frozen=True, slots=True)
class Codes:
    """How one kind is said: HTTP status, gRPC status, WebSocket close code; may the same call succeed later?"""

    http: int
    grpc: grpc.StatusCode
    close: int
    retryable: bool


S = grpc.StatusCode
TABLE: dict[Kind, Codes] = {
    Kind.BAD_REQUEST: Codes(400, S.INVALID_ARGUMENT, 4400, False),
    Kind.UNAUTHORIZED: Codes(401, S.UNAUTHENTICATED, 4401, False),
    Kind.FORBIDDEN: Codes(403, S.PERMISSION_DENIED, 4401, False),
    Kind.NOT_FOUND: Codes(404, S.NOT_FOUND, 4404, False),
    Kind.METHOD_NOT_ALLOWED: Codes(405, S.UNIMPLEMENTED, 4400, False),
    Kind.CONFLICT: Codes(409, S.ALREADY_EXISTS, 4409, False),
    Kind.PRECONDITION_FAILED: Codes(412, S.ABORTED, 4400, False),
    Kind.PAYLOAD_TOO_LARGE: Codes(413, S.OUT_OF_RANGE, 1009, False),
    Kind.UNSUPPORTED_MEDIA_TYPE: Codes(415, S.INVALID_ARGUMENT, 4400, False),
    Kind.VALIDATION_FAILED: Codes(422, S.INVALID_ARGUMENT, 4400, False),
    Kind.PRECONDITION_REQUIRED: Codes(428, S.FAILED_PRECONDITION, 4400, False),
    Kind.RATE_LIMIT_EXCEEDED: Codes(429, S.RESOURCE_EXHAUSTED, 4429, True),
    Kind.INTERNAL: Codes(500, S.INTERNAL, 1011, True),
    Kind.BAD_GATEWAY: Codes(502, S.UNAVAILABLE, 4503, True),
    Kind.UNAVAILABLE: Codes(503, S.UNAVAILABLE, 4503, True),
    Kind.TIMEOUT: Codes(504, S.DEADLINE_EXCEEDED, 4503, True),
    Kind.INSUFFICIENT_STORAGE: Codes(507, S.RESOURCE_EXHAUSTED, 1013, True),
}

# What a bare gRPC status (without a kind in the trailers: from the transport itself) means to the caller.
_FROM_GRPC: dict[grpc.StatusCode, Kind] = {
    S.INVALID_ARGUMENT: Kind.BAD_REQUEST,
    S.UNAUTHENTICATED: Kind.INTERNAL,  # our own credential was refused: never the client's fault
    S.PERMISSION_DENIED: Kind.INTERNAL,
    S.NOT_FOUND: Kind.NOT_FOUND,
    S.ALREADY_EXISTS: Kind.CONFLICT,
    S.ABORTED: Kind.CONFLICT,
    S.RESOURCE_EXHAUSTED: Kind.UNAVAILABLE,
    S.UNAVAILABLE: Kind.UNAVAILABLE,
    S.DEADLINE_EXCEEDED: Kind.TIMEOUT,
    S.CANCELLED: Kind.UNAVAILABLE,
}

_BY_HTTP = {codes.http: kind for kind, codes in TABLE.items()}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one field. Never holds the value that was sent."""

    field: str
    problem: str


class AppError(Exception):
    """An expected failure, in the words of the taxonomy.

    ``message`` is safe to show to anybody. ``log`` is for the log only. ``version`` is the current version of the
    resource on a conflict. ``retry_after_s`` says when the same call may succeed.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        details: tuple[Problem, ...] = (),
        retry_after_s: float | None = None,
        version: int | None = None,
        log: str | None = None,
    ) -> None:
        super().__init__(log or message)
        self.kind = kind
        self.message = message
        self.details = details
        self.version = version
        if retry_after_s is None and kind in {
            Kind.UNAVAILABLE,
            Kind.BAD_GATEWAY,
            Kind.TIMEOUT,
            Kind.RATE_LIMIT_EXCEEDED,
            Kind.INSUFFICIENT_STORAGE,
        }:
            retry_after_s = 1.0
        self.retry_after_s = retry_after_s

    @property
    def codes(self) -> Codes:
        return TABLE[self.kind]

    def body(self, request_id: str) -> dict[str, object]:
        """Return the public JSON shape."""
        shape: dict[str, object] = {
            "error": self.kind.value,
            "message": self.message,
            "request_id": request_id,
        }
        if self.details:
            shape["details"] = [{"field": d.field, "problem": d.problem} for d in self.details]
        if self.retry_after_s is not None:
            shape["retry_after"] = self.retry_after_s
        if self.version is not None:
            shape["version"] = self.version
        return shape


def kind_of_http(status: int) -> Kind:
    """Return the kind that an HTTP status stands for; an unknown 4xx is BAD_REQUEST, anything else INTERNAL."""
    return _BY_HTTP.get(status, Kind.BAD_REQUEST if 400 <= status < 500 else Kind.INTERNAL)


def kind_of_grpc(status: grpc.StatusCode) -> Kind:
    """Return the kind for a gRPC status that came without one of our trailers."""
    return _FROM_GRPC.get(status, Kind.INTERNAL)
