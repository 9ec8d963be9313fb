"""The janitor's tasks, one round of each."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from chassis import telemetry
from chassis.errors import AppError
from services.janitor import metrics, scratch, sweep, upkeep
from services.janitor.letters import DeadLetters
from services.janitor.session_logs import Finishers, SessionLogs

log = telemetry.logger(__name__)


async def sweep_uploads(folder: Path, *, age_s: float, removed_max: int) -> None:
    """Remove the left-overs of uploads below the folder. Raises OSError."""
    await asyncio.to_thread(_sweep, folder, age_s, removed_max)


def _sweep(folder: Path, age_s: float, removed_max: int) -> None:
    removed = removed_bytes = 0
    with scratch.opened(folder) as open_folder:
        if open_folder is None:
            return
        for entry in sweep.left_over(open_folder.entries(), now_s=time.time(), age_s=age_s, most=removed_max):
            if open_folder.remove(entry):
                removed += 1
                removed_bytes += entry.size_bytes
    metrics.FILES_REMOVED.inc(removed)
    metrics.BYTES_REMOVED.inc(removed_bytes)
    if removed:
        log.info("left-overs removed", files=removed, size_bytes=removed_bytes)


async def watch_disk(folder: Path) -> None:
    """Measure the file system of the folder. Raises OSError."""
    usage = await asyncio.to_thread(shutil.disk_usage, folder)
    metrics.DISK_FREE.set(usage.free)
    metrics.DISK_SIZE.set(usage.total)


async def watch_dead_letters(letters: DeadLetters) -> None:
    """Count the dead letters. Raises AppError while the broker is away."""
    metrics.DEAD_LETTERS.set(await letters.count())


@dataclass(frozen=True, slots=True)
class Keep:
    """How long sessions and their logs are kept (seconds), and how many one round treats."""

    orphan_idle_s: float
    logs_s: float
    draft_logs_s: float
    most: int


async def keep_sessions(logs: SessionLogs, finishers: Finishers, keep: Keep) -> None:
    """Finish the sessions that nobody owns, and remove the logs of those that are closed and stored.

    Raises AppError while the broker is away. A session that cannot be finished now waits for the next round.
    """
    survey = await logs.survey()
    metrics.OPEN_SESSIONS.set(sum(not log.closed for log in survey))
    now_s = time.time()
    for orphan in upkeep.orphans(survey, now_s=now_s, idle_s=keep.orphan_idle_s, most=keep.most):
        try:
            await finishers.finish(orphan.session_id, timeout_s=10.0)
            metrics.SESSIONS_FINISHED.inc()
            log.info("orphan finished", session=orphan.session_id)
        except AppError as fault:
            log.warning("orphan not finished", session=orphan.session_id, fault=str(fault))
    needless = upkeep.needless(
        survey,
        now_s=now_s,
        stored_sequence=await logs.stored_sequence(),
        keep_s=keep.logs_s,
        keep_drafts_s=keep.draft_logs_s,
        most=keep.most,
    )
    for done in needless:
        await logs.purge(done.session_id)
        metrics.LOGS_PURGED.inc()
