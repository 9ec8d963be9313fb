"""Whose session is an orphan, and whose log may go."""

from __future__ import annotations

import pytest

from services.janitor.upkeep import SessionLog, hopeless, needless, orphans, unhealed

pytestmark = pytest.mark.req("R-WS-5", "R-RES-1")

NOW = 100_000.0


def log(name: str, sequence: int = 1, age_s: float = 0.0, *, closed: bool = False, drafts: int = 0) -> SessionLog:
    return SessionLog(name, sequence, NOW - age_s, closed, drafts)


def names(logs: list[SessionLog]) -> list[str]:
    return [one.session_id for one in logs]


def test_only_open_sessions_that_were_long_silent_are_orphans() -> None:
    logs = [log("young", age_s=99), log("old", age_s=101), log("older", age_s=300), log("done", age_s=500, closed=True)]
    assert names(orphans(logs, now_s=NOW, idle_s=100, most=10)) == ["older", "old"]
    assert names(orphans(logs, now_s=NOW, idle_s=100, most=1)) == ["older"]


def test_a_log_that_the_database_does_not_have_is_kept_however_old() -> None:
    logs = [log("stored", 5, 1000, closed=True), log("not stored", 6, 1000, closed=True), log("open", 1, 1000)]
    found = needless(logs, now_s=NOW, stored_sequence=5, keep_s=100, most=10)
    assert names(found) == ["stored"]


def test_audio_of_drafts_is_kept_until_they_are_healed_or_given_up() -> None:
    logs = [log("final", age_s=200, closed=True), log("draft", age_s=9000, closed=True, drafts=3), log("open", age_s=9)]
    assert names(needless(logs, now_s=NOW, stored_sequence=9, keep_s=100, most=10)) == ["final"]
    assert names(unhealed(logs, now_s=NOW, idle_s=100, most=10)) == ["draft"]
    assert names(hopeless(logs, now_s=NOW, keep_s=10_000, most=10)) == []
    assert names(hopeless(logs, now_s=NOW, keep_s=1000, most=10)) == ["draft"]


def test_session_that_is_being_healed_is_not_asked_for() -> None:
    logs = [log("busy", age_s=5, closed=True, drafts=3), log("left", age_s=50, closed=True, drafts=1)]
    assert names(unhealed(logs, now_s=NOW, idle_s=20, most=10)) == ["left"]


def test_a_round_purges_no_more_than_it_may_and_the_oldest_first() -> None:
    logs = [log(str(age), age_s=age, closed=True) for age in (200, 400, 300)]
    found = needless(logs, now_s=NOW, stored_sequence=9, keep_s=100, most=2)
    assert names(found) == ["400", "300"]
