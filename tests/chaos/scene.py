"""One fault row played: a workload on the platform while faults are injected, and its result."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx2
from verbatim_client import VerbatimClient
from verbatim_client.errors import ApiError

from tests.chaos.callers import Callers
from tests.chaos.judge import Verdict, judge
from tests.chaos.platform import Platform, until
from tests.chaos.rest import Baseline, Holding, Logs, settled
from tests.chaos.workload import FINISH_WITHIN_S, Ledger, Workload

STORED_WITHIN_S = 30.0
# A healer that was killed is missed by the broker for ten seconds.
HEALED_WITHIN_S = 90.0
SETTLE_S = 30.0
# What a client notices anyway: acknowledgements come every 200 ms.
NOTICEABLE_S = 0.5
ACCOUNTS = 2
REST_HZ = 10.0
_READERS = 10


@dataclass
class Scene:
    """What a row's script is given. `mark` notes the moment of a fault; `wait` lets the workload go on for a while.

    A script writes what the row promises besides and finds broken into `breaches`, and what is worth telling into
    `notes`.
    """

    platform: Platform
    workload: Workload
    draw: random.Random
    settle_s: float = SETTLE_S
    clients: list[VerbatimClient] = field(default_factory=list)
    marks: list[float] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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

    async def flowing(self, within_s: float | None = None) -> None:
        """Wait until every session that lives has been acknowledged something new. Raises TimeoutError."""
        before = {ledger.number: ledger.acked_offset for ledger in self.workload.ledgers}
        await self.each(
            lambda ledger: ledger.number not in before or ledger.acked_offset > before[ledger.number],
            "acknowledgements to every session",
            within_s,
        )

    async def each(self, holds: Callable[[Ledger], bool], what: str, within_s: float | None = None) -> None:
        """Wait until something holds for every session that lives. Raises TimeoutError."""

        def waiting() -> list[Ledger]:
            return [ledger for ledger in self.workload.speaking if not holds(ledger)]

        try:
            await until(lambda: not waiting(), within_s or self.settle_s, what)
        except TimeoutError as fault:
            raise TimeoutError(f"{fault} ({', '.join(ledger.session_id for ledger in waiting())})") from None


Script = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Result:
    """A row's figures. Pauses are seconds between two acknowledgements around a fault, one per session and fault.

    `held` is what each process holds afterwards; empty where that is not judged.
    """

    sessions: int
    faults: int
    reconnects: int
    verdict: Verdict
    pauses: list[float]
    callers: Callers
    breaches: list[str]
    notes: list[str]
    failures: list[str]
    held: dict[str, Holding]
    seconds: float

    @property
    def pause_p50(self) -> float:
        return statistics.median(self.pauses) if self.pauses else 0.0

    @property
    def pause_p95(self) -> float:
        return sorted(self.pauses)[math.ceil(0.95 * len(self.pauses)) - 1] if self.pauses else 0.0

    @property
    def pause_max(self) -> float:
        return max(self.pauses, default=0.0)


@dataclass
class Stage:
    """A platform on which rows are played, and what it holds at rest. Without a baseline that is not judged."""

    platform: Platform
    logs: Logs
    baseline: Baseline | None = None


async def play(
    stage: Stage,
    script: Script,
    *,
    sessions: int,
    speed: float,
    seed: int,
    workload_type: type[Workload] = Workload,
    session_s: float | None = None,
    rest_hz: float = REST_HZ,
    patience: float = 1.0,
    healed: bool = False,
) -> Result:
    """Run a workload, inject the faults of the script, heal, let everybody finish, judge.

    With `healed`, drafts are given time to be heard again.

    `patience` is how long everything may take: a control, of which is known that it goes wrong, needs less.
    """
    began = time.monotonic()
    platform = stage.platform
    clients = [await platform.new_client() for _ in range(ACCOUNTS)]
    stuck = ""
    callers = Callers()
    try:
        workload = workload_type(
            clients, sessions, speed=speed, seed=seed, session_s=session_s, finish_within_s=FINISH_WITHIN_S * patience
        )
        scene = Scene(platform, workload, random.Random(seed), SETTLE_S * patience, clients)
        workload.start()
        calling = [asyncio.create_task(callers.call(client, rest_hz / len(clients))) for client in clients]
        try:
            await until(workload.all_heard, SETTLE_S, "a first acknowledgement to every session")
            await script(scene)
        except TimeoutError as fault:
            # asyncio's own has no words.
            stuck = str(fault) or "the script came to no end: somebody does not answer"
        finally:
            await platform.revive()
            for task in calling:
                task.cancel()
            await asyncio.wait(calling)
            await workload.finish()
        verdict = await _judge(clients, workload, patience, healed=healed)
        verdict.failed += bool(stuck)
        await _look(callers, clients, scene)
    finally:
        for client in clients:
            await client.__aexit__(None, None, None)
    held = await _rest(stage, scene, clients)
    return Result(
        sessions=len(workload.ledgers),
        faults=len(scene.marks),
        reconnects=sum(ledger.reconnects for ledger in workload.ledgers),
        verdict=verdict,
        pauses=_pauses(scene),
        callers=callers,
        breaches=scene.breaches,
        notes=scene.notes,
        failures=[
            *filter(None, [stuck]),
            *(f"session {one.number}: {one.failure}" for one in workload.ledgers if one.failure),
        ],
        held=held,
        seconds=time.monotonic() - began,
    )


async def _judge(clients: Sequence[VerbatimClient], workload: Workload, patience: float, *, healed: bool) -> Verdict:
    readers = asyncio.Semaphore(_READERS)

    async def one(ledger: Ledger) -> Verdict:
        async with readers:
            stored_s = HEALED_WITHIN_S if healed else STORED_WITHIN_S
            within_s = stored_s * patience if ledger.finished else 5.0 * patience
            return judge(ledger, await _stored(clients, ledger, within_s, healed=healed), healed=healed)

    verdict = Verdict()
    for part in await asyncio.gather(*(one(ledger) for ledger in workload.ledgers)):
        verdict.add(part)
    return verdict


async def _look(callers: Callers, clients: list[VerbatimClient], scene: Scene) -> None:
    try:
        await callers.look(clients)
    except (ApiError, httpx2.TransportError, TimeoutError) as fault:
        scene.breaches.append(f"what was written cannot be read: {fault!r}")
    if callers.lost or callers.doubled:
        scene.breaches.append(f"of what was written over REST {callers.lost} are lost and {callers.doubled} are double")
    scene.breaches += sorted(set(callers.wrong))


async def _rest(stage: Stage, scene: Scene, clients: Sequence[VerbatimClient]) -> dict[str, Holding]:
    """Look at the platform when all is over; give what its processes hold."""
    held: dict[str, Holding] = {}
    if stage.baseline is not None:
        excess, held = await settled(stage.platform, stage.baseline)
        scene.breaches += excess
    secrets = {secret for ledger in scene.workload.ledgers for secret in ledger.secrets}
    tokens = {token for client in clients for token in (client.access_token, client.refresh_token) if token}
    scene.breaches += stage.logs.leaks(secrets | tokens)
    return held


def _pauses(scene: Scene) -> list[float]:
    return [
        pause
        for begin, end in itertools.pairwise([*scene.marks, time.monotonic()])
        for ledger in scene.workload.ledgers
        if (pause := ledger.longest_pause_s(begin, end)) > NOTICEABLE_S
    ]


async def _stored(
    clients: Sequence[VerbatimClient], ledger: Ledger, within_s: float, *, healed: bool
) -> list[dict[str, object]]:
    """Return the meeting's segments when there are as many as the accounts say (and no drafts among them, if they
    should have healed), or what is there after a while."""
    wanted = ledger.finished["segments"] if ledger.finished else None
    deadline = time.monotonic() + within_s
    rows: list[dict[str, object]] = []
    while ledger.meeting_id:
        for client in clients:
            try:
                rows = await client.segments(ledger.meeting_id)
            except (ApiError, httpx2.TransportError):
                continue
            break
        waits = healed and any(row["quality"] == "draft" for row in rows)
        if (len(rows) == wanted and not waits) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.2)
    return rows
