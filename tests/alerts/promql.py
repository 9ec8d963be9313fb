"""What a PromQL expression asks for, read from its syntax tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser

ROOT = Path(__file__).parents[2]
# Of exporters that are not ours, and what our own rules record.
FOREIGN = re.compile(
    r"^(up|ALERTS|scrape_samples_scraped|(process|python|container|kube|certmanager|probe)_\w+|(service|slo):[\w:]+)$"
)
_PARTS = ("lhs", "rhs", "expr", "args", "vector_selector", "param")


def metrics_asked_for(expression: str) -> set[str]:
    """Return the names of the series that an expression reads. Raises ValueError if it cannot be parsed."""
    return {str(selector.name) for selector in _selectors(promql_parser.parse(expression)) if selector.name}


def _selectors(node: Any) -> Iterator[Any]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, list):
        for part in node:
            yield from _selectors(part)
    else:
        for name in _PARTS:
            part = getattr(node, name, None)
            if part is not None:
                yield from _selectors(part)


@cache
def declared() -> frozenset[str]:
    """Return every metric that the code declares."""
    found: set[str] = set()
    for folder in ("chassis", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            if "tests" not in path.parts:
                found |= set(re.findall(r'(?:Counter|Gauge|Histogram)\(\s*"([a-z][a-z0-9_]+)"', path.read_text()))
    # Of the probe, which tells of itself without a library.
    found |= set(
        re.findall(r'\("(synthetic_probe_[a-z_]+)"', (ROOT / "sdk/verbatim_client/cli/probing.py").read_text())
    )
    return frozenset(found)


def unknown(expression: str) -> set[str]:
    """Return the names that an expression asks for and nobody declares."""
    asked = metrics_asked_for(expression)
    return {name for name in asked if not FOREIGN.match(name) and not _is_declared(name)}


def _is_declared(name: str) -> bool:
    return name in declared() or re.sub(r"_(bucket|count|sum)$", "", name) in declared()
