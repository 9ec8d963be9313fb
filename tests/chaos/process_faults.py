"""What is done to processes while people talk: killed, frozen, asked to end."""

from __future__ import annotations

import contextlib
import signal
import time

import httpx2
from verbatim_client.errors import ApiError

from tests.chaos.scene import Scene, Script

TERM_SWEEP = 12


def killed(*groups: tuple[str, ...]) -> Script:
    """Make a script that kills the processes of each group at once, mid-sentence, and starts them again."""

    async def script(scene: Scene) -> None:
        for group in groups:
            scene.mark()
            for name in group:
                scene.platform.stack.kill(name)
            await scene.wait(scene.draw.uniform(0.3, 1.5))
            await scene.restart(*group)
            await scene.flowing()

    return script


async def keepers_killed(scene: Scene) -> None:
    """Kill those who store, summarise and tidy up, each in turn: who speaks notices nothing, and in the end every
    meeting has its minutes."""
    for name in scene.platform.plan.names("meetings", "insights", "janitor"):
        scene.kill(name)
        await scene.wait(scene.draw.uniform(0.3, 1.5))
        await scene.restart(name)
        await scene.flowing()
    await scene.workload.finish()
    scene.kill("insights")  # now there is something to summarise
    await scene.restart("insights")
    await minutes_of_all(scene)


async def minutes_of_all(scene: Scene, within_s: float = 60.0) -> None:
    """Wait until every meeting has its minutes; say whose are missing."""
    waiting = {ledger.meeting_id for ledger in scene.workload.ledgers if ledger.meeting_id}
    deadline = time.monotonic() + within_s
    while waiting and time.monotonic() < deadline:
        for meeting_id in sorted(waiting):
            for client in scene.clients:
                with contextlib.suppress(ApiError, httpx2.TransportError):
                    if (await client.insights(meeting_id))["status"] == "ready":
                        waiting.discard(meeting_id)
        await scene.wait(0.5)
    if waiting:
        scene.breaches.append(f"{len(waiting)} of {len(scene.workload.ledgers)} meetings have no minutes")


async def rolling_restart(scene: Scene) -> None:
    """SIGTERM one process after the other, each back before the next goes."""
    for name in scene.platform.plan.names("gateway", "transcriber", "meetings"):
        scene.mark()
        await scene.restart(name)
        await scene.flowing()


async def database_crashes(scene: Scene) -> None:
    """Stop Postgres as a crash does ("immediate"), and start it again."""
    for _ in range(4):
        scene.kill("postgres", signal.SIGQUIT)
        await scene.wait(scene.draw.uniform(0.5, 2.0))
        await scene.restart("postgres")
        await scene.wait(2.0)


async def cache_flaps(scene: Scene) -> None:
    """Freeze Redis, then let it come and go."""
    scene.kill("redis", signal.SIGSTOP)
    await scene.wait(4.0)
    scene.platform.stack.kill("redis", signal.SIGCONT)
    for _ in range(4):
        scene.kill("redis")
        await scene.wait(scene.draw.uniform(0.1, 0.5))
        await scene.restart("redis")
        await scene.wait(scene.draw.uniform(0.2, 1.0))


async def cache_killed(scene: Scene) -> None:
    """Kill Redis, and bring it back later."""
    for _ in range(2):
        scene.kill("redis")
        await scene.wait(3.0)
        await scene.restart("redis")
        await scene.wait(1.0)


def frozen(name: str, seconds: float) -> Script:
    """Make a script that freezes a process for a while."""

    async def script(scene: Scene) -> None:
        scene.kill(name, signal.SIGSTOP)
        await scene.wait(seconds)
        scene.platform.stack.kill(name, signal.SIGCONT)
        await scene.flowing()

    return script


def frozen_in_turn(*names: str, seconds: float) -> Script:
    """Make a script that freezes one process after the other, none of which a speaker waits for."""

    async def script(scene: Scene) -> None:
        for name in names:
            scene.kill(name, signal.SIGSTOP)
            await scene.wait(seconds)
            scene.platform.stack.kill(name, signal.SIGCONT)
            await scene.flowing()

    return script


async def deposed_owner_returns(scene: Scene) -> None:
    """Freeze a transcriber until others own its sessions, hide that from it, thaw it; then kill the new owner."""
    platform = scene.platform
    await platform.script(latency_s=0.8)  # so that there is always something under way that it will want to append
    await scene.wait(2.0)
    broker = platform.broker["transcriber"]
    scene.kill("transcriber", signal.SIGSTOP)
    broker.down.stall()
    await scene.flowing()
    await scene.wait(1.0)
    broker.reset()
    broker.down.flow()
    platform.stack.kill("transcriber", signal.SIGCONT)
    await scene.wait(4.0)
    scene.kill("transcriber-2")
    await scene.flowing()
    await scene.restart("transcriber-2")
    await platform.script(latency_s=0.1)


async def ended_while_recognising(scene: Scene) -> None:
    """SIGTERM transcribers in turn while the speech API has their calls, each time at another moment of a call."""
    platform = scene.platform
    await platform.script(latency_s=1.0)
    under_way = 0
    for turn in range(TERM_SWEEP):
        name = ("transcriber", "transcriber-2")[turn % 2]
        await scene.wait(2.0 * turn / TERM_SWEEP)
        scene.mark()
        under_way += await platform.recognitions_under_way(name)
        await scene.restart(name)
        await scene.flowing()
    await platform.script(latency_s=0.1)
    scene.notes.append(f"{under_way} recognitions were under way at the signals")


def speech_for(seconds: float) -> Script:
    """Make a script that does nothing while people talk."""

    async def script(scene: Scene) -> None:
        await scene.wait(seconds)

    return script
