"""A thousand people log in at once: what hashing their passwords costs (row 15 of the fault matrix)."""

from __future__ import annotations

import asyncio
from collections import Counter

import argon2
import psutil
import pytest

from chassis.errors import AppError, Kind
from services.meetings.passwords import Passwords

pytestmark = [pytest.mark.long, pytest.mark.req("R-AUTH-3", "R-RES-4"), pytest.mark.timeout(600)]

PEOPLE = 1000
ROOM_BYTES = 64 * 1024**2
"""Beside the hashes themselves, which take 64 MiB each."""


async def storm(workers: int, queue_max: int) -> tuple[Counter[str], int]:
    """Check a thousand passwords at once; return what became of them, and bytes that the process grew by at most."""
    passwords = Passwords(argon2.PasswordHasher(), workers=workers, queue_max=queue_max)
    kept = await passwords.hash("the right one")
    process = psutil.Process()
    before, grown = process.memory_info().rss, 0

    async def one() -> str:
        try:
            return "looked at" if not await passwords.matches(kept, "a wrong one") else "let in"
        except AppError as refusal:
            assert refusal.kind is Kind.RATE_LIMIT_EXCEEDED
            assert refusal.retry_after_s
            return "put off"

    people = [asyncio.create_task(one()) for _ in range(PEOPLE)]
    everybody = asyncio.gather(*people)
    while not everybody.done():
        await asyncio.wait([everybody], timeout=0.02)
        grown = max(grown, process.memory_info().rss - before)
    passwords.close()
    return Counter(await everybody), grown


async def test_two_hashes_at_once_and_a_short_queue_whatever_comes() -> None:
    outcomes, grown = await storm(workers=2, queue_max=32)
    print(f"{dict(outcomes)}, {grown / 2**20:.0f} MiB")  # noqa: T201 - the figure of docs/faults-edge.md
    assert outcomes == {"looked at": 34, "put off": PEOPLE - 34}
    assert grown < 2 * 64 * 1024**2 + ROOM_BYTES


async def test_without_the_bounds_a_storm_takes_the_memory() -> None:
    """Negative control."""
    outcomes, grown = await storm(workers=16, queue_max=64)
    assert outcomes["looked at"] == 80
    assert grown > 2 * 64 * 1024**2 + ROOM_BYTES
