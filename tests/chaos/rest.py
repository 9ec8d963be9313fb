"""The platform at rest: what its processes hold when nobody speaks, and what must not be in their logs."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil

from dev.plan import service_of
from tests.chaos.books import unbalanced
from tests.chaos.platform import PASSWORD, Platform
from tests.chaos.workload import TITLE

# Every process gives free memory back to the system once a minute.
SETTLES_WITHIN_S = 75.0
# Pools keep some connections more or less. A leak for each session or fault adds up from row to row.
FDS_MORE = 24
TASKS_MORE = 3
MEMORY_MORE_SHARE = 0.05
MEMORY_MORE_BYTES = 24 * 1024 * 1024
# Of its first growth, what a process may grow again when it is loaded a second time.
AGAIN_SHARE = 0.5
_SHOWN_BYTES = 60

# The words of the oracle are what people said; a token of ours is a JWT.
_SPOKEN = re.compile(rb"\bs\d{1,8}c\d{1,8}\b")
_TOKEN = re.compile(rb"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.")


@dataclass(frozen=True)
class Holding:
    """What one process holds: file descriptors, tasks, resident memory in bytes."""

    fds: int
    tasks: int
    memory_bytes: int


async def holdings(platform: Platform) -> dict[str, Holding]:
    """Look at every process of ours."""
    found = {}
    for name in platform.services:
        pid = platform.stack.runner.pid(name)
        assert pid is not None, f"{name} does not run"
        process = psutil.Process(pid)
        tasks = await platform.figure(name, "asyncio_tasks")
        found[name] = Holding(process.num_fds(), int(tasks), process.memory_info().rss)
    return found


@dataclass(frozen=True)
class Baseline:
    """What a process of each service holds at rest, after some work: the most of its replicas."""

    of: dict[str, Holding]

    @classmethod
    def from_holdings(cls, found: dict[str, Holding]) -> Baseline:
        """Take the most of each service's replicas."""
        most: dict[str, Holding] = {}
        for name, one in found.items():
            other = most.get(service_of(name), one)
            most[service_of(name)] = Holding(
                max(one.fds, other.fds), max(one.tasks, other.tasks), max(one.memory_bytes, other.memory_bytes)
            )
        return cls(most)

    def excess(self, found: dict[str, Holding]) -> list[str]:
        """Say what is held beyond it."""
        said = []
        for name, one in found.items():
            base = self.of[service_of(name)]
            if one.fds > base.fds + FDS_MORE:
                said.append(f"{name} holds {one.fds} file descriptors at rest, {base.fds} before")
            if one.tasks > base.tasks + TASKS_MORE:
                said.append(f"{name} has {one.tasks} tasks at rest, {base.tasks} before")
        return said

    def grown(self, found: dict[str, Holding]) -> dict[str, int]:
        """Give by how many bytes those have grown that hold more memory than is allowed."""
        most = {name: self.of[service_of(name)].memory_bytes for name in found}
        return {
            name: one.memory_bytes - most[name]
            for name, one in found.items()
            if one.memory_bytes > most[name] * (1 + MEMORY_MORE_SHARE) + MEMORY_MORE_BYTES
        }

    def memory_growth_bytes(self, found: dict[str, Holding]) -> int:
        """Give the most that a process has grown by."""
        return max(
            (one.memory_bytes - self.of[service_of(name)].memory_bytes for name, one in found.items()), default=0
        )


def still_growing(grown: dict[str, int], first: dict[str, Holding], second: dict[str, Holding]) -> list[str]:
    """Say which processes, loaded a second time, have grown again by more than `AGAIN_SHARE` of their first growth.

    A leak takes as much again; what the allocator keeps of the greatest load it has seen is there already.
    """
    return [
        f"{name} holds {first[name].memory_bytes >> 20} MiB at rest, {second[name].memory_bytes >> 20} after more load"
        for name, bytes_more in grown.items()
        if second[name].memory_bytes - first[name].memory_bytes > AGAIN_SHARE * bytes_more
    ]


async def settled(platform: Platform, baseline: Baseline) -> tuple[list[str], dict[str, Holding]]:
    """Wait until everything is back; say what never was, memory aside, and what each process holds.

    Who was at rest at one look may be at some periodic work at the next, while memory is waited for.
    """
    deadline = time.monotonic() + SETTLES_WITHIN_S
    rested = False
    while True:
        found: dict[str, Holding] = {}
        try:
            found = await holdings(platform)
            excess = baseline.excess(found) + await unbalanced(platform)
        except httpx2.TransportError as fault:
            excess = [f"a process does not answer at rest: {fault!r}"]
        rested = rested or not excess
        if (rested and not baseline.grown(found)) or time.monotonic() > deadline:
            return [] if rested else excess, found
        await asyncio.sleep(0.5)


class Logs:
    """Reads what processes log, once, for what must not be in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read_bytes: dict[Path, int] = {}

    def leaks(self, secrets: Iterable[str]) -> list[str]:
        """Say which logs tell what people said, a title, a password or a token, since the last look."""
        known = [secret.encode() for secret in (*secrets, PASSWORD, TITLE) if secret]
        said = []
        for log in sorted(self._folder.glob("*.log")):
            with log.open("rb") as file:
                start = self._read_bytes.get(log, 0)
                file.seek(start)
                text = file.read()
                text = text[: text.rfind(b"\n") + 1]  # what is being written comes next time, whole
                self._read_bytes[log] = start + len(text)
            for line in text.splitlines():
                what = _told(line, known)
                if what:
                    said.append(f"{log.name} tells {what}: {line[:_SHOWN_BYTES].decode(errors='replace')}…")
                    break
        return said


def _told(line: bytes, known: list[bytes]) -> str:
    if _SPOKEN.search(line):
        return "what was said"
    if _TOKEN.search(line) or any(secret in line for secret in known):
        return "a secret"
    return ""
