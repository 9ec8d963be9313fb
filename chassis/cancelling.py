"""Cancellation that is not lost."""

from __future__ import annotations

import asyncio


def check_cancelled() -> None:
    """Raise CancelledError if this task was asked to end: for loops that go on after a TaskGroup has failed.

    Before Python 3.13 a TaskGroup forgets that it was cancelled when a task of it fails just then
    (https://github.com/python/cpython/issues/116720).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
