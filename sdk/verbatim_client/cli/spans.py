"""Spans of time as people write them."""

from __future__ import annotations

import re

import typer

_SPAN = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(span: str, option: str) -> int:
    """Return how long a span is. Raises typer.BadParameter that names the option."""
    match = _SPAN.fullmatch(span)
    if match is None:
        raise typer.BadParameter("is written as 30m, 2h or 1d", param_hint=option)
    return int(match[1]) * _SECONDS[match[2]]
