"""Logs and the ids that tie them together: JSON lines, one per fact, with request id, service and session."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import orjson
import structlog
from prometheus_client import Gauge

from chassis import faults, sentry, tracing

_request_id: ContextVar[str] = ContextVar("request_id", default="")

BUILD_INFO = Gauge("build_info", "1; labels tell service and version.", ["service", "version"])
VERSION = "0.1.0"

# Values under these names never reach a log line, whatever is passed.
_SECRET_NAMES = frozenset(
    {"password", "token", "access_token", "refresh_token", "resume_token", "authorization", "api_key", "secret", "text",
     "prompt", "title", "email", "speaker"}
)  # fmt: skip


def request_id() -> str:
    """Return the id of the request that the current task serves, or an empty text."""
    return _request_id.get()


@contextmanager
def bound(request_id: str, **fields: object) -> Iterator[None]:
    """Let every log line inside carry the request id and the fields."""
    token = _request_id.set(request_id)
    try:
        with structlog.contextvars.bound_contextvars(request_id=request_id, **fields):
            yield
    finally:
        _request_id.reset(token)


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in event.keys() & _SECRET_NAMES:
        event[name] = "[redacted]"
    return event


def _without_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Of what a library logs keep the constant part: what it fills in may be what was being worked on."""
    event["event"] = str(event["_record"].msg)
    return event


def _place_in_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if (ids := tracing.current_ids()) is not None:
        event["trace_id"], event["span_id"] = ids
    return event


def _tell_fault(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Write an exception without its message, which may quote anything."""
    exc_info = event.pop("exc_info", None)
    fault = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
    if isinstance(exc_info, tuple):
        fault = exc_info[1]
    if exc_info and fault is not None:
        event["exception"] = faults.told(fault)
    return event


def _dumps(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def _unless_refused_handshake(record: logging.LogRecord) -> bool:
    """Drop what uvicorn 0.54 says, as an error, of every handshake that was properly refused with an HTTP answer."""
    return record.msg != "ASGI callable returned without completing handshake."


def configure(service: str, *, replica: str, level: str, log_format: str) -> None:
    """Send every log line of the process, also those of libraries, to standard output in one shape."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _place_in_trace,
        sentry.report,
        _tell_fault,
        _redact,
    ]

    def name_process(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        event["replica"] = replica
        return event

    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_dumps)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_without_values, *shared],
            processors=[name_process, structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These speak of every request or reconnect; what we need of that we log ourselves.
    # uvicorn.error also writes the query of each WebSocket, where a one-time ticket may be.
    for noisy in ("uvicorn.access", "uvicorn.error", "httpx2", "httpcore2", "openai", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # A receiver of spans that is down is counted, and no reason for a line each second.
    for mute in ("opentelemetry", "urllib3", "sentry_sdk.errors"):
        logging.getLogger(mute).setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.error").addFilter(_unless_refused_handshake)
    BUILD_INFO.labels(service=service, version=VERSION).set(1)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of one module."""
    return structlog.stdlib.get_logger(name)
