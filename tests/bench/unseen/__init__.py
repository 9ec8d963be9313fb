"""Services that tell nothing of themselves, to see what telling costs: the control of `overhead`."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase


def blind() -> None:
    """Let the libraries count nothing and make no span. To be called before anything of a service is imported."""

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def itself(self: MetricWrapperBase, *_: Any, **__: Any) -> MetricWrapperBase:
        return self

    for kind in (Counter, Gauge, Histogram):
        for name in ("inc", "dec", "set", "set_function", "set_to_current_time", "observe"):
            if hasattr(kind, name):
                setattr(kind, name, nothing)
        setattr(kind, "labels", itself)  # noqa: B010 - it is a library's
    trace.set_tracer_provider = nothing
