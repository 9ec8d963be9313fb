"""A task that is cancelled just when something in its group fails ends nevertheless."""

from __future__ import annotations

import asyncio
import sys

import pytest

from chassis.cancelling import check_cancelled


async def fail(now: asyncio.Event) -> None:
    await now.wait()
    raise OSError


async def keep(now: asyncio.Event, *, checks: bool) -> None:
    """Go on whatever fails, as the loops of services do."""
    for _ in range(2):
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fail(now))
                await asyncio.Event().wait()
        except* OSError:
            pass
        if checks:
            check_cancelled()
        now.clear()
        await asyncio.sleep(0)


@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.req("R-HEAL-2")
async def test_a_cancellation_beside_a_failure_is_not_lost(checks: bool) -> None:
    now = asyncio.Event()
    task = asyncio.create_task(keep(now, checks=checks))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    now.set()
    task.cancel()
    _, running = await asyncio.wait([task], timeout=0.5)
    if checks:
        assert not running
        assert task.cancelled()
    else:
        assert running or sys.version_info >= (3, 13)
        task.cancel()
        await asyncio.wait([task])
