"""What can go wrong, as the platform tells it."""

from __future__ import annotations

from typing import Any

RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class ApiError(Exception):
    """A REST call was refused. `code` is from the platform's taxonomy (`not_found`), `body` the whole answer.

    `retry_after_s` is how long the platform asks to wait, where it does.
    """

    def __init__(self, status: int, body: dict[str, Any], request_id: str, retry_after_s: float | None) -> None:
        nested = body.get("error")
        fault = nested if isinstance(nested, dict) else body  # under /v1 the shape is OpenAI's
        self.status = status
        self.code = str(fault.get("code") if fault is nested else fault.get("error") or "unknown")
        self.message = str(fault.get("message") or "")
        self.request_id = request_id
        self.body = body
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {self.code}: {self.message} (request {request_id})")

    @property
    def retryable(self) -> bool:
        """Whether the same call may be answered later."""
        return self.status in RETRYABLE_STATUS


class StreamError(Exception):
    """The platform ended a live session for good. `event` is its last `error`, if it sent one."""

    def __init__(self, message: str, close_code: int | None, event: dict[str, Any] | None = None) -> None:
        self.close_code = close_code
        self.event = event or {}
        self.code = str(self.event.get("error") or "unknown")
        super().__init__(message)


class SessionLostError(StreamError):
    """The session is expired or unknown: what was not acknowledged has to be sent in a new one."""


class ConnectionGivenUpError(StreamError):
    """The connection failed too often in a row to go on trying; the person should be told."""
