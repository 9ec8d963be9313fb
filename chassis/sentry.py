"""Failures and a share of the work, told to Sentry if there is one: built from what may be told, not scrubbed.

An event is made here from a list of allowed keys; whatever else a library puts into one does not leave. So there is
nothing in it that anybody said: constants of the code, types, places, ids.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, cast

import sentry_sdk
from prometheus_client import Counter
from sentry_sdk.types import Event, Hint

from chassis import faults

EVENTS = Counter("sentry_events_total", "Events for Sentry by what became of them.", ["result"])
DROPPED = Counter("sentry_events_dropped_total", "Events that were not sent to Sentry.")
for _result in ("error", "transaction"):
    EVENTS.labels(_result)

_LEVELS = {"error": "error", "critical": "fatal"}
_SHARE = 0.1
_FLUSH_S = 2.0
_TAGS = ("service", "replica", "request_id", "trace_id", "job_kind", "consumer")
_EVENT_KEYS = frozenset({
    "event_id", "timestamp", "level", "logger", "platform", "release", "environment", "sdk", "tags", "exception",
    "logentry", "fingerprint", "type", "transaction", "transaction_info", "start_timestamp", "profile",
})  # fmt: skip
_TRACE_KEYS = frozenset({"trace_id", "span_id", "parent_span_id", "op", "status", "origin"})
_SPAN_KEYS = frozenset(
    {"trace_id", "span_id", "parent_span_id", "op", "status", "origin", "description", "start_timestamp", "timestamp",
     "same_process_as_parent"}
)  # fmt: skip


class Sentry:
    """The client of a process."""

    def __init__(self, dsn: str, *, service: str, replica: str, environment: str, release: str) -> None:
        self._dsn = dsn
        self._about = {"service": service, "replica": replica}
        self._environment = environment
        self._release = release

    def install(self) -> None:
        """Begin to tell. Raises ValueError for a DSN that is none."""
        try:
            sentry_sdk.init(
                dsn=self._dsn,
                environment=self._environment,
                release=self._release,
                traces_sample_rate=_SHARE,
                profiles_sample_rate=_SHARE,
                # What the SDK would find out by itself is more than we want told.
                default_integrations=False,
                auto_enabling_integrations=False,
                include_local_variables=False,
                include_source_context=False,
                send_default_pii=False,
                max_request_body_size="never",
                max_breadcrumbs=0,
                send_client_reports=False,
                before_send=self._before_send,
                before_send_transaction=self._before_send,
                shutdown_timeout=0,
                server_name=self._about["replica"],
            )
        except sentry_sdk.utils.BadDsn as fault:
            raise ValueError("SENTRY_DSN is no DSN") from fault

    def close(self, within_s: float = _FLUSH_S) -> None:
        """Send what is left, for so many seconds at most. Blocks."""
        sentry_sdk.get_client().close(timeout=within_s)

    def _before_send(self, event: Event, _: Hint) -> Any:
        try:
            allowed = _allowed(event)
        except Exception:  # noqa: BLE001 - the edge: what cannot be built is not sent
            DROPPED.inc()
            return None
        allowed["tags"] = {**self._about, **allowed.get("tags", {})}
        EVENTS.labels("transaction" if event.get("type") == "transaction" else "error").inc()
        return allowed


def report(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Tell of a log line that is an error; a processor of structlog's. The line goes on as it is."""
    level = _LEVELS.get(str(event.get("level", "")))
    if level is None or not sentry_sdk.get_client().is_active():
        return event
    fault = _fault(event.get("exc_info"))
    ours = "_record" not in event  # what a library writes may quote anything
    told: dict[str, Any] = {
        "level": level,
        "logger": str(event.get("logger", "")),
        "tags": {name: str(event[name]) for name in _TAGS if event.get(name)},
    }
    if ours:
        told["logentry"] = {"message": str(event.get("event", ""))}
        told["fingerprint"] = [told["logger"], told["logentry"]["message"]]
    if fault is not None:
        told["exception"] = {"values": [_exception(one) for one in reversed(list(faults.chain(fault)))]}
        told.setdefault("fingerprint", [told["logger"]]).append(faults.name(fault))
    sentry_sdk.capture_event(told)  # type: ignore[arg-type]
    return event


@contextmanager
def transaction(name: str, kind: str) -> Iterator[None]:
    """Let what is done inside be one transaction, of which a share is told. `name` is a constant or a route template.

    `rename` inside when only the end knows it.
    """
    if not sentry_sdk.get_client().is_active():
        yield
        return
    with sentry_sdk.isolation_scope(), sentry_sdk.start_transaction(name=name, op=kind, source="custom"):
        yield


def rename(name: str) -> None:
    """Name the current transaction, if there is one."""
    if sentry_sdk.get_client().is_active() and (current := sentry_sdk.get_current_scope().transaction) is not None:
        current.name = name


def _fault(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return cast(BaseException | None, exc_info[1])
    return sys.exc_info()[1] if exc_info else None


def _exception(fault: BaseException) -> dict[str, Any]:
    places = [
        {
            "filename": frame.filename,
            "function": frame.name,
            "lineno": frame.lineno,
            "in_app": "/site-packages/" not in frame.filename,
        }
        for frame in faults.frames(fault)
    ]
    return {
        "type": faults.name(fault).rpartition(".")[2],
        "module": faults.name(fault).rpartition(".")[0],
        "value": faults.said(fault),
        "stacktrace": {"frames": places},
    }


def _allowed(event: Mapping[str, Any]) -> Any:
    """Return an event made of what is allowed. Anything the SDK or a later version of it adds is left out."""
    kept = {key: value for key, value in event.items() if key in _EVENT_KEYS}
    kept["tags"] = {name: value for name, value in (event.get("tags") or {}).items() if name in _TAGS}
    trace = (event.get("contexts") or {}).get("trace") or {}
    kept["contexts"] = {"trace": {key: value for key, value in trace.items() if key in _TRACE_KEYS}}
    if "spans" in event:
        kept["spans"] = [{key: value for key, value in span.items() if key in _SPAN_KEYS} for span in event["spans"]]
    return kept
