"""Everything at once, drawn from a seed."""

from __future__ import annotations

import signal
import time

from tests.chaos.scene import Scene, Script

VICTIMS = (
    "gateway", "gateway-2", "transcriber", "transcriber-2", "meetings", "meetings-2", "insights", "janitor",
    "nats", "postgres", "redis",
)  # fmt: skip


def nemesis(seconds: float) -> Script:
    """Make a script that does one or two of all these things at a time, drawn from the seed."""

    async def script(scene: Scene) -> None:
        platform, until = scene.platform, time.monotonic() + seconds
        while time.monotonic() < until:
            scene.mark()
            for victim in scene.draw.sample(VICTIMS, scene.draw.choice((1, 1, 2))):
                sig = signal.SIGQUIT if victim == "postgres" else signal.SIGKILL
                platform.stack.kill(victim, scene.draw.choice((sig, sig, signal.SIGSTOP)))
            if scene.draw.random() < 0.5:
                proxy = scene.draw.choice(platform.proxies())
                scene.draw.choice((proxy.reset, proxy.partition, proxy.up.stall, proxy.down.stall))()
            await scene.wait(scene.draw.uniform(0.2, 4.0))
            await platform.revive()
            await scene.wait(scene.draw.uniform(1.0, 4.0))
        await scene.flowing()

    return script
