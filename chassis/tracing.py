"""Traces: what a request or an utterance did, through every process that it passed.

Spans are made where work changes hands (the edge, a call, a message, a transaction, a vendor), never per chunk of
audio. Names and attributes are constants, route templates and ids: nothing that anybody said or typed, and of an
exception its type alone. What is not sampled still has ids, which go along and stand in every log line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from prometheus_client import Counter

from chassis import sentry
from chassis.errors import AppError

__all__ = ["Span", "SpanKind", "Tracing", "Work", "begin", "carried", "exemplar", "follow", "many", "serve", "step"]

HEADER = "traceparent"
NONE: Span = trace.INVALID_SPAN

EXPORTED = Counter("trace_spans_exported_total", "Spans by what became of them.", ["result"])
for _result in ("sent", "lost"):
    EXPORTED.labels(_result)

_QUEUE_MAX = 4096
_BATCH_MAX = 512
_EVERY_MS = 1000
_EXPORT_S = 5.0
_FLUSH_S = 2.0
_LINKS_MAX = 32

_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("verbatim")

Attribute = str | int | float | bool


class Tracing:
    """Where the spans of a process go. `endpoint` is the base of an OTLP/HTTP receiver; without one ids are all."""

    def __init__(self, service: str, *, replica: str, version: str, endpoint: str, ratio: float) -> None:
        about = {"service.name": service, "service.version": version, "service.instance.id": replica}
        self._provider = TracerProvider(
            sampler=ParentBased(_AsLinked(TraceIdRatioBased(ratio if endpoint else 0.0))),
            resource=Resource(about),
            shutdown_on_exit=False,
        )
        if endpoint:
            exporter = _Counted(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_S))
            # What comes faster than it goes is dropped: a collector that is down costs neither time nor memory.
            self._provider.add_span_processor(
                BatchSpanProcessor(
                    exporter,
                    max_queue_size=_QUEUE_MAX,
                    schedule_delay_millis=_EVERY_MS,
                    max_export_batch_size=_BATCH_MAX,
                )
            )

    def install(self) -> None:
        """Let every span of the process go this way."""
        trace.set_tracer_provider(self._provider)

    def close(self, within_s: float = _FLUSH_S) -> None:
        """Send what is left, for so many seconds at most. Blocks: call it when the event loop has ended."""
        # The SDK waits half a minute for a receiver that does not answer; a thread that is still at it ends with us.
        closing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(within_s)


class Work:
    """A piece of work that begins in one task and ends in another. Make it current with `inside`."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @contextmanager
    def inside(self) -> Iterator[Span]:
        """Let what is done inside belong to it, without ending it."""
        with trace.use_span(self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield self._span

    @property
    def exemplar(self) -> dict[str, str] | None:
        """See `exemplar`."""
        return exemplar(self._span)

    def end(self, fault: BaseException | None = None, **attributes: Attribute) -> None:
        """Say that it is over, and how. A second time does nothing."""
        if self._span.is_recording():
            self._span.set_attributes(_dotted(attributes))
            if fault is not None:
                _blame(self._span, fault)
            self._span.end()


def begin(name: str, beside: Mapping[str, str], **attributes: Attribute) -> Work:
    """Begin a trace of its own that is linked to another: an utterance beside the session in whose `carried` it is.

    Sampled as that one is, so that who has the session has all of its utterances.
    """
    around = trace.get_current_span(_propagator.extract(beside, Context())).get_span_context()
    links = [Link(around)] if around.is_valid else []
    if around.is_valid and not around.trace_flags.sampled:
        return Work(trace.NonRecordingSpan(around))
    return Work(_tracer.start_span(name, Context(), attributes=_dotted(attributes), links=links))


@contextmanager
def serve(
    name: str, carrier: Mapping[str, str] | None, *, kind: SpanKind = SpanKind.SERVER, **attributes: Attribute
) -> Iterator[Span]:
    """Do inside what somebody else asked for: the next span of the trace in `carrier`, or the first of a new one."""
    parent = _propagator.extract(carrier or {}, Context())
    with sentry.transaction(name, kind.name.lower()), _span(name, parent, kind, attributes) as span:
        yield span


@contextmanager
def step(name: str, *, kind: SpanKind = SpanKind.CLIENT, **attributes: Attribute) -> Iterator[Span]:
    """Do inside one step of what is being traced; where nothing is, this costs next to nothing and makes no span."""
    if not trace.get_current_span().is_recording():
        yield trace.INVALID_SPAN
        return
    with _span(name, None, kind, attributes) as span:
        yield span


@contextmanager
def many(name: str, carriers: Sequence[Mapping[str, str] | None], **attributes: Attribute) -> Iterator[None]:
    """Do inside what several messages ask for at once: each trace that is sampled gets a span, linked to the first.

    What is done inside belongs to the first.
    """
    parents: dict[int, Context] = {}
    for carrier in carriers:
        if carrier and HEADER in carrier:
            context = _propagator.extract(carrier, Context())
            found = trace.get_current_span(context).get_span_context()
            if found.trace_flags.sampled and len(parents) < _LINKS_MAX:
                parents.setdefault(found.trace_id, context)
    if not parents:
        yield
        return
    began_ns = time.time_ns()
    first, *others = parents.values()
    with _span(name, first, SpanKind.CONSUMER, {**attributes, "batch.messages": len(carriers)}) as span:
        yield
    for other in others:
        twin = _tracer.start_span(
            name, other, SpanKind.CONSUMER, _dotted(attributes), [Link(span.get_span_context())], began_ns
        )
        twin.end()


@contextmanager
def follow(carrier: Mapping[str, str] | None) -> Iterator[None]:
    """Let what is done inside belong to the trace in `carrier`, if there is one, without a span of its own."""
    if not carrier or HEADER not in carrier:
        yield
        return
    context = _propagator.extract(carrier, Context())
    with trace.use_span(
        trace.get_current_span(context), end_on_exit=False, record_exception=False, set_status_on_exception=False
    ):
        yield


def carried() -> dict[str, str]:
    """Return what a message or call carries, so that what it causes belongs to the current trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    carrier.pop("tracestate", None)
    return carrier


def current_ids() -> tuple[str, str] | None:
    """Return the ids of the current trace and span in hexadecimal digits; None outside of any."""
    found = trace.get_current_span().get_span_context()
    return (f"{found.trace_id:032x}", f"{found.span_id:016x}") if found.is_valid else None


def exemplar(span: Span | None = None) -> dict[str, str] | None:
    """Return what ties a sample of a histogram to its trace; None if that is not kept."""
    one = span or trace.get_current_span()
    if not one.is_recording():
        return None
    return {"trace_id": f"{one.get_span_context().trace_id:032x}"}


def _dotted(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Return attributes under OpenTelemetry's names: `session_id` here is `verbatim.session_id` there."""
    return {_NAMES.get(name) or f"verbatim.{name}": value for name, value in attributes.items() if value != ""}


_NAMES = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "rpc": "rpc.method",
    "rpc_status": "rpc.response.status_code",
    "database": "db.system.name",
    "operation": "db.operation.name",
    "destination": "messaging.destination.name",
    "model": "gen_ai.request.model",
    "model_operation": "gen_ai.operation.name",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
}


def tell(span: Span, **attributes: Attribute) -> None:
    """Say more of a span, under the same names as at its beginning."""
    if span.is_recording():
        span.set_attributes(_dotted(attributes))


def spoil(span: Span) -> None:
    """Say that a span ended badly, for a reason that stands elsewhere."""
    if span.is_recording():
        span.set_status(Status(StatusCode.ERROR))


def fail(span: Span, fault: BaseException) -> None:
    """Say what went wrong inside of a span, by its type; what leaves the span in its place says nothing more."""
    if span.is_recording():
        _blame(span, fault)


def _blame(span: Span, fault: BaseException) -> None:
    """Say what went wrong by its type alone: a message may quote what was said. The first to say something holds."""
    told: Status = getattr(span, "status")  # noqa: B009 - of the SDK's spans, which are the ones that record
    if told.status_code is StatusCode.ERROR:
        return
    span.set_attribute("error.type", fault.kind.value if isinstance(fault, AppError) else type(fault).__name__)
    span.set_status(Status(StatusCode.ERROR))


@contextmanager
def _span(name: str, parent: Context | None, kind: SpanKind, attributes: Mapping[str, Attribute]) -> Iterator[Span]:
    span = _tracer.start_span(name, parent, kind, _dotted(attributes))
    try:
        with trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield span
    except BaseException as fault:
        if span.is_recording():
            _blame(span, fault)
        raise
    finally:
        span.end()


class _AsLinked(Sampler):
    """Samples the first span of a trace as the one that it is linked to; one that is linked to none by a share."""

    def __init__(self, share: Sampler) -> None:
        self._share = share

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if links:
            sampled = links[0].context.trace_flags.sampled
            return SamplingResult(Decision.RECORD_AND_SAMPLE if sampled else Decision.DROP, attributes)
        return self._share.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"AsLinked({self._share.get_description()})"


class _Counted(SpanExporter):
    """Counts what became of the spans; what cannot be sent is not worth more than that."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        EXPORTED.labels("sent" if result is SpanExportResult.SUCCESS else "lost").inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)
