"""Many sessions, one after the other, and what each leaves behind in memory."""

from __future__ import annotations

from collections import defaultdict

from chassis.resources import slope
from tests.chaos.rest import holdings
from tests.chaos.scene import Scene, Script

SESSIONS = 10_000
# A MiB an hour, if ten thousand sessions come in six hours.
LEFT_BYTES_MAX = 6 * 2**20 / SESSIONS
# Before that, a process comes to what it needs: a transcriber some fifteen MiB more than after its first session.
WARMED_UP_SESSIONS = 2_500
LOOK_EVERY_S = 2.0


def soak(sessions: int) -> Script:
    """Make a script that lets so many sessions come and go, and judges how memory grows with their number."""
    assert sessions > WARMED_UP_SESSIONS, "nothing would be judged"

    async def script(scene: Scene) -> None:
        seen: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        while (over := sum(ledger.over for ledger in scene.workload.ledgers)) < sessions:
            if over >= WARMED_UP_SESSIONS:
                for name, holding in (await holdings(scene.platform)).items():
                    seen[name].append((over, holding.memory_bytes))
            await scene.wait(LOOK_EVERY_S)
        left = {name: slope(looks) for name, looks in seen.items()}
        scene.breaches += [
            f"{name} keeps {kept:,.0f} bytes of each session, more than {LEFT_BYTES_MAX:,.0f}"
            for name, kept in left.items()
            if kept > LEFT_BYTES_MAX
        ]
        told = (f"{name} {kept:+,.0f}" for name, kept in left.items())
        scene.notes.append(f"bytes that each session leaves in memory: {', '.join(told)}")

    return script
