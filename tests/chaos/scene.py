"""One fault row played: a workload on the platform while faults are injected, and its result."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import cycle

import httpx2
from verbatim_client import VerbatimClient
from verbatim_client.errors import ApiError

from tests.chaos.judge import Verdict, judge
from tests.chaos.platform import Platform, until
from tests.chaos.workload import Ledger, Workload

STORED_WITHIN_S = 30.0
HEALED_WITHIN_S = 90.0
SETTLE_S = 30.0
# What a client notices anyway: acknowledgements come every 200 ms.
NOTICEABLE_S = 0.5


@dataclass
class Scene:
    """What a row's script is given. `mark` notes the moment of a fault; `wait` lets the workload go on for a while."""

    platform: Platform
    workload: Workload
    draw: random.Random
    marks: list[float] = field(default_factory=list)
    calls: int = 0
    failed_calls: int = 0
    stuck: str = ""

    def mark(self) -> None:
        """Note that a fault begins now."""
        self.marks.append(time.monotonic())

    async def wait(self, seconds: float) -> None:
        """Let time pass under load: here the time itself is the fault's length, or the pause between two."""
        await asyncio.sleep(seconds)

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Mark, and signal a process."""
        self.mark()
        self.platform.stack.kill(name, sig)

    async def restart(self, *names: str) -> None:
        """Start processes again, one after the other, and wait until each is ready."""
        for name in names:
            await self.platform.stack.restart(name)

    async def flowing(self) -> None:
        """Wait until every session that lives has been acknowledged something new."""
        before = {ledger.number: ledger.acked_offset for ledger in self.workload.ledgers}

        def waiting() -> list[Ledger]:
            return [
                ledger
                for ledger in self.workload.ledgers
                if ledger.acked_offset <= before[ledger.number] and not ledger.failure and not ledger.finished
            ]

        try:
            await until(lambda: not waiting(), SETTLE_S, "acknowledgements to every session")
        except TimeoutError as fault:
            raise TimeoutError(f"{fault} ({', '.join(ledger.session_id for ledger in waiting())})") from None


Script = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Result:
    """A row's figures. Pauses are seconds between two acknowledgements around a fault, one per session and fault."""

    sessions: int
    faults: int
    reconnects: int
    verdict: Verdict
    pauses: list[float]
    calls: int
    failed_calls: int
    failures: list[str]
    seconds: float

    @property
    def pause_p50(self) -> float:
        return statistics.median(self.pauses) if self.pauses else 0.0

    @property
    def pause_max(self) -> float:
        return max(self.pauses, default=0.0)


async def play(
    platform: Platform,
    script: Script,
    *,
    sessions: int,
    speed: float,
    seed: int,
    workload_type: type[Workload] = Workload,
    rest_hz: float = 5.0,
    healed: bool = False,
) -> Result:
    """Run a workload, inject the faults of the script, heal, let everybody finish, judge.

    With `healed` drafts are given time to be heard again, and none may be left.
    """
    began = time.monotonic()
    clients = [await platform.new_client() for _ in range(2)]
    try:
        workload = workload_type(clients, sessions, speed=speed, seed=seed)
        scene = Scene(platform, workload, random.Random(seed))
        workload.start()
        calls = asyncio.create_task(_call(scene, clients[0], rest_hz))
        try:
            await until(workload.all_heard, SETTLE_S, "a first acknowledgement to every session")
            await script(scene)
        except TimeoutError as fault:
            scene.stuck = str(fault)
        finally:
            await platform.revive()
            calls.cancel()
            await workload.finish()
        verdict = Verdict()
        kept = await asyncio.gather(
            *(
                _stored(client, ledger, healed=healed)
                for client, ledger in zip(cycle(clients), workload.ledgers, strict=False)
            )
        )
        verdict.failed += bool(scene.stuck)
        for ledger, rows in zip(workload.ledgers, kept, strict=True):
            verdict.add(judge(ledger, rows, healed=healed))
    finally:
        for client in clients:
            await client.__aexit__(None, None, None)
    return Result(
        sessions=sessions,
        faults=len(scene.marks),
        reconnects=sum(ledger.reconnects for ledger in workload.ledgers),
        verdict=verdict,
        pauses=_pauses(scene),
        calls=scene.calls,
        failed_calls=scene.failed_calls,
        failures=[
            *filter(None, [scene.stuck]),
            *(f"session {one.number}: {one.failure}" for one in workload.ledgers if one.failure),
        ],
        seconds=time.monotonic() - began,
    )


def _pauses(scene: Scene) -> list[float]:
    ends = [*scene.marks[1:], time.monotonic()]
    return [
        pause
        for begin, end in zip(scene.marks, ends, strict=True)
        for ledger in scene.workload.ledgers
        if (pause := ledger.longest_pause_s(begin, end)) > NOTICEABLE_S
    ]


async def _call(scene: Scene, client: VerbatimClient, hz: float) -> None:
    """Read the library again and again, as a page does, and count what fails."""
    while True:
        scene.calls += 1
        try:
            await client.call("GET", "/api/meetings", params={"limit": 5})
        except (ApiError, httpx2.TransportError):
            scene.failed_calls += 1
        await asyncio.sleep(1.0 / hz)


async def _stored(client: VerbatimClient, ledger: Ledger, *, healed: bool) -> list[dict[str, object]]:
    """Return the meeting's segments when there are as many as the accounts say (and no drafts, if they should have
    healed), or what is there after a while."""
    wanted = ledger.finished["segments"] if ledger.finished else None
    patience_s = HEALED_WITHIN_S if healed else STORED_WITHIN_S
    deadline = time.monotonic() + (patience_s if ledger.finished else 5.0)
    rows: list[dict[str, object]] = []
    while time.monotonic() < deadline:
        try:
            rows = await client.segments(ledger.meeting_id)
        except (ApiError, httpx2.TransportError):
            rows = []
        if len(rows) == wanted and not (healed and any(row["quality"] == "draft" for row in rows)):
            break
        await asyncio.sleep(0.2)
    return rows
