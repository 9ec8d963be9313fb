"""What is done to the speech API while people talk, and to those who mend what came of it."""

from __future__ import annotations

from tests.chaos.scene import Scene

# Seconds instead of a minute: the outage is shorter than one that people have, too.
QUICK_BREAKER = {"transcriber": {"BREAKER_OPEN_S": "3", "BREAKER_RAMP_S": "2", "HEAL_HOLD_S": "3"}}


async def speech_outage(scene: Scene) -> None:
    """Let the speech API fail for a while; people go on talking, and drafts heal while they do."""
    scene.mark()
    await scene.platform.script(status=503)
    await scene.wait(15.0)
    await scene.platform.script(status=200)
    await scene.wait(8.0)


async def speech_rationed(scene: Scene) -> None:
    """Let the speech API ask for patience, and say for how long; it is not to be taken for broken."""
    scene.mark()
    await scene.platform.script(status=429, retry_after_s=2.0)
    await scene.wait(12.0)
    await scene.platform.script(status=200, retry_after_s=0.0)
    await scene.wait(8.0)


async def speech_hangs(scene: Scene) -> None:
    """Let the speech API take requests and answer none of them."""
    scene.mark()
    await scene.platform.script(stall_every=1)
    await scene.wait(20.0)
    await scene.platform.script(stall_every=0)
    await scene.wait(8.0)


async def healers_killed(scene: Scene) -> None:
    """Let some drafts heal while people talk, and some after they have left; kill who heals, both times both."""
    platform = scene.platform
    for ends in (False, True):
        await platform.script(status=503)
        await scene.wait(8.0)
        if ends:
            await scene.workload.finish()
        # Slow enough that there is somebody in the midst of it.
        await platform.script(status=200, latency_s=1.0)
        for name in platform.plan.names("transcriber"):
            await scene.wait(scene.draw.uniform(2.0, 4.0))
            scene.kill(name)
            await scene.restart(name)
    await platform.script(latency_s=0.1)
