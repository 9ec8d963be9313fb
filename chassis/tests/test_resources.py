"""What a process is told of its own memory and event loop."""

from __future__ import annotations

import asyncio
import platform
import time
from pathlib import Path

import psutil
import pytest

from chassis import resources
from chassis.resources import Resources, memory_limit_bytes, slope

pytestmark = pytest.mark.req("R-RES-2")


class Machine:
    """Memory and time as the test says."""

    def __init__(self) -> None:
        self.used, self.limit, self.now = 0, 1000, 0.0

    def watch(self) -> Resources:
        return Resources(used_bytes=lambda: self.used, limit_bytes=lambda: self.limit, clock=lambda: self.now)


@pytest.mark.parametrize(
    ("name", "told", "limit"),
    [
        ("memory.max", "536870912\n", 536870912),
        ("memory/memory.limit_in_bytes", "268435456\n", 268435456),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
    ],
)
def test_limit_is_the_containers_or_the_machines(tmp_path: Path, name: str, told: str, limit: int | None) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(told)
    assert memory_limit_bytes(tmp_path) == (limit or psutil.virtual_memory().total)


def test_without_cgroups_the_machine_is_the_limit(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path) == psutil.virtual_memory().total


def test_short_memory_refuses_new_work_until_there_is_room_again() -> None:
    machine = Machine()
    watch = machine.watch()
    for used, tight in ((800, False), (801, True), (760, True), (740, False), (790, False)):
        machine.used = used
        watch.look()
        assert watch.tight is tight, used


def test_slope_is_of_the_trend_and_not_of_a_jump() -> None:
    steady = [(float(t), 5.0 * t) for t in range(60)]
    assert slope(steady) == pytest.approx(5.0)
    jump = [(float(t), 1000.0 if t >= 30 else 0.0) for t in range(60)]
    assert slope(jump) < 50.0
    peak = [(float(t), 1e6 if t == 30 else 100.0) for t in range(60)]
    assert slope(peak) == 0.0
    assert slope([]) == slope([(1.0, 1.0)]) == 0.0


@pytest.mark.req("R-RES-1")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    # Small enough to be in the heap, and something above them: unasked the allocator gives nothing back below it.
    freed = [bytes([1]) * 20_000 for _ in range(5000)]
    above = bytes([1]) * 20_000
    before = resources.TRIMMED._value.get()
    freed.clear()
    assert resources.trim() > 50_000_000
    assert resources.TRIMMED._value.get() - before > 50_000_000
    assert above


@pytest.mark.req("R-OBS-1")
async def test_a_blocked_event_loop_is_seen() -> None:
    watch = Resources()
    running = asyncio.create_task(watch.run())
    await asyncio.sleep(0.3)
    time.sleep(0.8)  # noqa: ASYNC251 - the fault
    await asyncio.sleep(0.3)
    running.cancel()
    assert resources.LAG._value.get() >= 0.4
