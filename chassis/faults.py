"""What may be said of an exception in a log line or an event: where it was raised and what it is, never what it quotes.

The message of an exception may repeat what was being worked on: a sentence, a name, a password. So it is left out,
unless the exception is one whose messages are written here, and are about the work and not its content.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from types import TracebackType

from chassis.errors import AppError

_CHAIN_MAX = 10
_FRAMES_MAX = 60
_GROUP_MAX = 5

ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


def said(fault: BaseException) -> str:
    """Return what a fault may be quoted with; empty for one of which nothing is known."""
    if isinstance(fault, AppError):
        return str(fault)
    if isinstance(fault, OSError) and fault.errno:
        return os.strerror(fault.errno)  # not its own text: that names the file
    return ""


def name(fault: BaseException) -> str:
    """Return the type of a fault: `module.Class`, without the module for built-in ones."""
    kind = type(fault)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def chain(fault: BaseException) -> Iterator[BaseException]:
    """Yield a fault and what it came from, the newest first; of a group also some of what is in it."""
    seen: set[int] = set()
    waiting: list[BaseException] = [fault]
    while waiting and len(seen) < _CHAIN_MAX:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions[:_GROUP_MAX]
        cause = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        if cause is not None:
            waiting.append(cause)


def frames(fault: BaseException) -> list[traceback.FrameSummary]:
    """Return where a fault was raised, the innermost last. No values: frames hold what was being worked on."""
    return list(traceback.StackSummary.extract(traceback.walk_tb(fault.__traceback__), lookup_lines=False))[
        -_FRAMES_MAX:
    ]


def told(fault: BaseException) -> str:
    """Return a fault for the log: each of its chain with its frames."""
    parts = []
    for one in chain(fault):
        lines = [f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}' for frame in frames(one)]
        parts.append("\n".join([": ".join(filter(None, (name(one), said(one)))), *lines]))
    return "\ncaused by ".join(parts)
