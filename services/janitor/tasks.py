"""The janitor's tasks, one round of each."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

from chassis import telemetry
from chassis.dead_letters import DeadLetters
from services.janitor import metrics, scratch, sweep

log = telemetry.logger(__name__)

_WEBHOOK = "webhook"


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
    """Count the dead letters. Raises AppError while the broker is away.

    What strangers' servers did not take is counted apart: it is their owners who can do something about it.
    """
    to_webhooks = await letters.count_of(_WEBHOOK)
    metrics.WEBHOOK_LETTERS.set(to_webhooks)
    metrics.DEAD_LETTERS.set(await letters.count() - to_webhooks)
