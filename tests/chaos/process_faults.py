"""What is done to processes while people talk: killed, frozen, asked to end."""

from __future__ import annotations

import signal

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
        await scene.wait(scene.draw.uniform(0.2, 1.0))
        await scene.restart("postgres")
        await scene.wait(2.0)


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
