"""One round over the sessions: finish what has no owner, see that drafts heal, free what nobody needs."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from verbatim.transcript.v1 import transcript_pb2

from chassis import telemetry
from chassis.errors import AppError, Kind
from services.janitor import metrics, upkeep
from services.janitor.session_logs import SessionLogs, Transcribers
from services.janitor.upkeep import SessionLog

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Keep:
    """How long sessions and their logs are kept (seconds), how many one round treats, how full the audio log may be."""

    orphan_idle_s: float
    unhealed_idle_s: float
    logs_s: float
    draft_logs_s: float
    most: int
    audio_share_max: float
    audio_share_low: float


async def keep_sessions(logs: SessionLogs, transcribers: Transcribers, keep: Keep) -> None:
    """Make the round. Raises AppError while the broker is away.

    What cannot be done now waits for the next round.
    """
    survey = await logs.survey()
    now_s = time.time()
    drafts = [one for one in survey if one.drafts_left]
    metrics.OPEN_SESSIONS.set(sum(not one.closed for one in survey))
    metrics.DRAFTS_WAITING.set(sum(one.drafts_left for one in drafts))
    metrics.DRAFTS_OLDEST_S.set(max((now_s - one.written_s for one in drafts), default=0.0))

    async def finish(orphan: SessionLog) -> None:
        await transcribers.finish(orphan.session_id)
        metrics.SESSIONS_FINISHED.inc()
        log.info("orphan finished", session=orphan.session_id)

    async def give_up(old: SessionLog) -> None:
        await transcribers.give_up(old.session_id, transcript_pb2.GIVEN_UP_REASON_AGE)
        log.warning("drafts given up: they are too old", session=old.session_id, drafts=old.drafts_left)

    async def heal(unhealed: SessionLog) -> None:
        await transcribers.heal(unhealed.session_id)

    orphans = upkeep.orphans(survey, now_s=now_s, idle_s=keep.orphan_idle_s, most=keep.most)
    await _each(orphans, "orphan finished", finish)
    hopeless = upkeep.hopeless(survey, now_s=now_s, keep_s=keep.draft_logs_s, most=keep.most)
    await _each(hopeless, "drafts given up", give_up)
    unhealed = upkeep.unhealed(survey, now_s=now_s, idle_s=keep.unhealed_idle_s, most=keep.most)
    await _each([one for one in unhealed if one not in hopeless], "healing asked for", heal)

    stored = await logs.stored_sequence()
    needless = upkeep.needless(survey, now_s=now_s, stored_sequence=stored, keep_s=keep.logs_s, most=keep.most)
    for done in needless:
        await logs.purge(done.session_id)
        metrics.LOGS_PURGED.inc()
    await _make_room(logs, transcribers, [one for one in survey if one not in needless], stored, keep)


async def _each(some: Sequence[SessionLog], what: str, work: Callable[[SessionLog], Awaitable[None]]) -> None:
    for one in some:
        try:
            await work(one)
        except AppError as fault:
            log.warning(f"not {what}", session=one.session_id, fault=str(fault))
            if fault.kind is Kind.UNAVAILABLE:
                return  # nobody is there: the next one would wait as long for nothing


async def _make_room(
    logs: SessionLogs, transcribers: Transcribers, survey: Sequence[SessionLog], stored: int, keep: Keep
) -> None:
    """Free audio before the log is full and live clients have to hold: first what nobody needs, then that of drafts."""
    share = await logs.audio_share()
    metrics.AUDIO_SHARE.set(share)
    if share < keep.audio_share_max:
        return
    now_s = time.time()
    for done in upkeep.needless(survey, now_s=now_s, stored_sequence=stored, keep_s=0.0, most=keep.most):
        await logs.purge(done.session_id)
        metrics.LOGS_PURGED.inc()
        if (share := await logs.audio_share()) < keep.audio_share_low:
            break
    for old in upkeep.hopeless(survey, now_s=now_s, keep_s=0.0, most=keep.most):
        if share < keep.audio_share_low:
            break
        try:
            await transcribers.give_up(old.session_id, transcript_pb2.GIVEN_UP_REASON_SPACE)
        except AppError as fault:
            log.warning("no room made: drafts not given up", session=old.session_id, fault=str(fault))
            break
        log.error("drafts given up: the audio log is full", session=old.session_id, drafts=old.drafts_left)
        await logs.purge_audio(old.session_id)
        share = await logs.audio_share()
    metrics.AUDIO_SHARE.set(share)
