"""The janitor's smaller tasks, one round of each."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

from chassis import resources, telemetry
from chassis.dead_letters import DeadLetters
from services.janitor import metrics, open_files, scratch, sweep

log = telemetry.logger(__name__)

_WEBHOOK = "webhook"


async def sweep_uploads(folder: Path, *, age_s: float, removed_max: int, dry: bool = False) -> None:
    """Remove the left-overs of uploads below the folder, but none that somebody uses. Raises OSError."""
    await asyncio.to_thread(_sweep, folder, age_s, removed_max, dry)


def _sweep(folder: Path, age_s: float, removed_max: int, dry: bool) -> None:
    removed = removed_bytes = 0
    with scratch.opened(folder) as open_folder:
        if open_folder is None:
            return
        old = sweep.left_over(open_folder.entries(), now_s=time.time(), age_s=age_s, most=removed_max)
        elsewhere = open_files.seen() if old else set()
        for entry in old:
            if open_folder.in_use(entry, elsewhere):
                metrics.FILES_IN_USE.inc()
            elif dry:
                log.warning("would remove a left-over", name=entry.name, size_bytes=entry.size_bytes)
            elif open_folder.remove(entry):
                removed += 1
                removed_bytes += entry.size_bytes
    metrics.FILES_REMOVED.inc(removed)
    metrics.BYTES_REMOVED.inc(removed_bytes)
    if removed:
        log.info("left-overs removed", files=removed, size_bytes=removed_bytes)


async def trim_memory() -> None:
    """Collect garbage, and give what the allocator keeps back to the system."""
    gc.collect()
    metrics.MEMORY_FREED.inc(await asyncio.to_thread(resources.trim))


async def watch_dead_letters(letters: DeadLetters) -> None:
    """Count the dead letters. Raises AppError while the broker is away.

    What strangers' servers did not take is counted apart: it is their owners who can do something about it.
    """
    to_webhooks = await letters.count_of(_WEBHOOK)
    metrics.WEBHOOK_LETTERS.set(to_webhooks)
    metrics.DEAD_LETTERS.set(await letters.count() - to_webhooks)
