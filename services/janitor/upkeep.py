"""What becomes of the logs of sessions: finished, healed, given up, removed. Pure decisions."""

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
    drafts_left: int = 0
    """Of a closed session: draft segments that are still to be heard again."""


def orphans(logs: Iterable[SessionLog], *, now_s: float, idle_s: float, most: int) -> list[SessionLog]:
    """Return at most `most` open sessions that nobody has written to for `idle_s`, the longest left first.

    A living owner writes at least a checkpoint every ten minutes while a client is there, and closes the session
    itself when it is idle: what is silent for longer has no owner.
    """
    return _oldest((log for log in logs if not log.closed and now_s - log.written_s > idle_s), most)


def unhealed(logs: Iterable[SessionLog], *, now_s: float, idle_s: float, most: int) -> list[SessionLog]:
    """Return at most `most` closed sessions with drafts in whose logs nothing has been written for `idle_s`."""
    return _oldest((log for log in logs if log.drafts_left and now_s - log.written_s > idle_s), most)


def hopeless(logs: Iterable[SessionLog], *, now_s: float, keep_s: float, most: int) -> list[SessionLog]:
    """Return at most `most` closed sessions whose drafts have waited for as long as audio is kept for them."""
    return _oldest((log for log in logs if log.drafts_left and now_s - log.written_s > keep_s), most)


def needless(
    logs: Iterable[SessionLog], *, now_s: float, stored_sequence: int, keep_s: float, most: int
) -> list[SessionLog]:
    """Return at most `most` closed sessions whose logs may go, the oldest first.

    Only what the database has (everything up to `stored_sequence`) may go, `keep_s` after the last entry; and nothing
    that is still to be healed, for its audio is what it is heard again from.
    """
    done = (
        log
        for log in logs
        if log.closed and not log.drafts_left and log.sequence <= stored_sequence and now_s - log.written_s > keep_s
    )
    return _oldest(done, most)


def _oldest(logs: Iterable[SessionLog], most: int) -> list[SessionLog]:
    return sorted(logs, key=lambda log: log.written_s)[:most]
