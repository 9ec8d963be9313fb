"""Which sessions nobody owns any more, and which logs are no longer needed. Pure decisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionLog:
    """What the newest entry of a session's transcript log tells. `sequence` is its place in the stream."""

    session_id: str
    sequence: int
    written_s: float
    closed: bool
    draft_segments: int = 0


def orphans(logs: Iterable[SessionLog], *, now_s: float, idle_s: float, most: int) -> list[SessionLog]:
    """Return at most `most` open sessions that nobody has written to for `idle_s`, the longest left first.

    A living owner writes at least a checkpoint every ten minutes while a client is there, and closes the session
    itself when it is idle: what is silent for longer has no owner.
    """
    left = [log for log in logs if not log.closed and now_s - log.written_s > idle_s]
    return sorted(left, key=lambda log: log.written_s)[:most]


def needless(
    logs: Iterable[SessionLog], *, now_s: float, stored_sequence: int, keep_s: float, keep_drafts_s: float, most: int
) -> list[SessionLog]:
    """Return at most `most` closed sessions whose logs may go, the oldest first.

    Only what the database has (everything up to `stored_sequence`) may go, `keep_s` after the session was closed;
    with draft segments `keep_drafts_s`, because their audio is what they are heard again from.
    """
    done = [
        log
        for log in logs
        if log.closed
        and log.sequence <= stored_sequence
        and now_s - log.written_s > (keep_drafts_s if log.draft_segments else keep_s)
    ]
    return sorted(done, key=lambda log: log.written_s)[:most]
