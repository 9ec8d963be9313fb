"""The rows: what is done to the platform while people talk. Numbers are those of the fault matrix."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.fuzz import FuzzedWorkload
from tests.chaos.scene import Scene, Script
from tests.chaos.workload import Workload


@dataclass(frozen=True)
class Row:
    """One row of the table. `without` names the defence (`tests.chaos.without`) whose absence must be noticed here;
    `unnoticed` says that no client may see anything at all of this fault."""

    key: str
    fault: str
    script: Script
    without: str | None = None
    workload: type[Workload] = Workload
    sessions: int = 10
    speed: float = 6.0
    unnoticed: bool = False
    heals: bool = False


async def client_resets(scene: Scene) -> None:
    """Reset half of the clients' connections, again and again."""
    for _ in range(12):
        scene.mark()
        scene.platform.clients.reset(0.5)
        await scene.wait(1.0)


async def client_flaps(scene: Scene) -> None:
    """Let the clients' network vanish for a moment, again and again."""
    for _ in range(6):
        scene.mark()
        scene.platform.clients.partition()
        await scene.wait(0.7)
        scene.platform.clients.heal()
        await scene.wait(1.5)


async def bad_frames(scene: Scene) -> None:
    """Do nothing: the workload itself is the fault."""
    scene.mark()
    await scene.wait(15.0)


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


async def broker_killed(scene: Scene) -> None:
    """Kill the broker; the last time keep it away for a while."""
    for away_s in (0.0, 0.5, 8.0):
        scene.kill("nats")
        await scene.wait(away_s)
        await scene.restart("nats")
        await scene.flowing()


async def broker_and_transcriber_killed(scene: Scene) -> None:
    """Kill the broker, then a transcriber with audio that it could not store."""
    for name in ("transcriber", "transcriber-2"):
        scene.kill("nats")
        await scene.wait(0.5)
        scene.platform.stack.kill(name)
        await scene.restart("nats", name)
        await scene.flowing()


async def database_crashes(scene: Scene) -> None:
    """Stop Postgres as a crash does ("immediate"), and start it again."""
    for _ in range(4):
        scene.kill("postgres", signal.SIGQUIT)
        await scene.wait(scene.draw.uniform(0.2, 1.0))
        await scene.restart("postgres")
        await scene.wait(2.0)


async def database_unreachable(scene: Scene) -> None:
    """Cut meetings off from Postgres: reset, refusal, then a hole."""
    database = scene.platform.database
    scene.mark()
    database.refusing = True
    database.reset()
    await scene.wait(4.0)
    database.heal()
    await scene.wait(1.0)
    scene.mark()
    database.partition()
    await scene.wait(5.0)
    database.heal()
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


async def partitions(scene: Scene) -> None:
    """Let the bytes between two processes vanish, pair by pair, both ways and one way."""
    platform = scene.platform
    relay, broker = platform.relays["transcriber"], platform.broker["transcriber-2"]
    cuts: list[tuple[Callable[[], None], Callable[[], None], float]] = [
        (relay.partition, relay.heal, 8.0),
        (lambda: setattr(relay.down, "hole", True), relay.heal, 8.0),
        (lambda: setattr(broker.down, "hole", True), broker.heal, 6.0),
        (broker.partition, broker.heal, 6.0),
    ]
    for cut, heal, seconds in cuts:
        scene.mark()
        cut()
        await scene.wait(seconds)
        heal()
        await scene.flowing()


async def half_open_clients(scene: Scene) -> None:
    """Let what clients say vanish while what they hear arrives, then the reverse."""
    for direction in (scene.platform.clients.up, scene.platform.clients.down):
        scene.mark()
        direction.hole = True
        await scene.wait(10.0)
        scene.platform.clients.heal()
        await scene.flowing()


async def speech_outage(scene: Scene) -> None:
    """Let the speech API fail for a while; people go on talking, and drafts heal while they do."""
    scene.mark()
    await scene.platform.script(status=503)
    await scene.wait(15.0)
    await scene.platform.script(status=200)
    await scene.wait(8.0)


async def healers_killed(scene: Scene) -> None:
    """Let half of the drafts heal while people talk and half after they have left; kill whoever heals, twice each."""
    platform = scene.platform
    for ends in (False, True):
        await platform.script(status=503)
        await scene.wait(10.0)
        if ends:
            await scene.workload.finish()
        # Slow enough that there is always somebody in the midst of it.
        await platform.script(status=200, latency_s=1.0)
        for name in platform.plan.names("transcriber"):
            await scene.wait(scene.draw.uniform(2.0, 4.0))
            scene.kill(name)
            await scene.restart(name)
    await platform.script(latency_s=0.1)


async def bad_network(scene: Scene) -> None:
    """Slow, jittery, narrow, sliced; and connections that end after so many bytes, anywhere in a frame."""
    clients = scene.platform.clients
    for change in (
        {"latency_s": 0.05, "jitter_s": 0.05},
        {"bytes_per_s": 150_000.0},
        {"slice_bytes": 100},
        {"close_after_bytes": 300_001},
    ):
        scene.mark()
        for name, value in change.items():
            setattr(clients.up, name, value)
        await scene.wait(4.0)
        clients.up.clear()
        clients.reset(0.3)
        await scene.wait(1.0)


VICTIMS = ("gateway", "gateway-2", "transcriber", "transcriber-2", "meetings", "nats", "postgres", "redis")


def nemesis(seconds: float) -> Script:
    """Make a script that does one or two things at a time out of all of the above, drawn from the seed."""

    async def script(scene: Scene) -> None:
        platform, left_s = scene.platform, seconds
        while left_s > 0:
            scene.mark()
            for victim in scene.draw.sample(VICTIMS, scene.draw.choice((1, 1, 2))):
                sig = signal.SIGQUIT if victim == "postgres" else signal.SIGKILL
                platform.stack.kill(victim, scene.draw.choice((sig, sig, signal.SIGSTOP)))
            if scene.draw.random() < 0.5:
                proxy = scene.draw.choice(platform.proxies())
                scene.draw.choice((proxy.reset, proxy.partition, proxy.up.stall, proxy.down.stall))()
            away_s, calm_s = scene.draw.uniform(0.2, 4.0), scene.draw.uniform(1.0, 4.0)
            await scene.wait(away_s)
            await platform.revive()
            await scene.wait(calm_s)
            left_s -= away_s + calm_s
        await scene.flowing()

    return script


_TRANSCRIBERS = (("transcriber",), ("transcriber-2",))
_GATEWAYS = (("gateway",), ("gateway-2",))
_BOTH = (("gateway", "transcriber"), ("gateway-2", "transcriber-2"))

ROWS = (
    Row("1", "meetings cut off from Postgres: refused 4 s, silent 5 s", database_unreachable),
    Row("6", "speech API fails for 15 s", speech_outage, "healing", sessions=4, speed=2.0, heals=True),
    Row(
        "6k",
        "transcribers SIGKILL while drafts heal, live and closed",
        healers_killed,
        sessions=4,
        speed=2.0,
        heals=True,
    ),
    Row("8", "clients' connections reset, 12 times half of them", client_resets),
    Row("8b", "clients' network gone for 0.7 s, 6 times", client_flaps),
    Row("9", "frames repeated, overlapping, reordered, with holes", bad_frames, "trim", FuzzedWorkload),
    Row("19", "Redis killed twice, away 3 s", cache_killed, unnoticed=True),
    Row("21", "partitions: gateway–transcriber, transcriber–NATS; one way and both", partitions),
    Row("24a", "transcriber SIGKILL mid-sentence", killed(*_TRANSCRIBERS, *_TRANSCRIBERS), "puback"),
    Row("24b", "gateway SIGKILL mid-sentence", killed(*_GATEWAYS, *_GATEWAYS)),
    Row("24c", "gateway and transcriber SIGKILL at once", killed(*_BOTH, *_BOTH), "puback"),
    Row("24d", "all transcribers SIGKILL at once", killed(("transcriber", "transcriber-2")), "puback"),
    Row("25a", "transcriber frozen 10 s", frozen("transcriber", 10.0)),
    Row("25b", "NATS frozen 6 s", frozen("nats", 6.0)),
    Row("25c", "frozen transcriber returns after its sessions moved", deposed_owner_returns, "fence"),
    Row("26", "rolling restart: gateways, transcribers, meetings (SIGTERM)", rolling_restart),
    Row("28", "NATS SIGKILL, away 0 to 8 s", broker_killed),
    Row("28b", "NATS, then a transcriber SIGKILL", broker_and_transcriber_killed, "puback"),
    Row("30", "Postgres crash, 4 times", database_crashes),
    Row("35", "half-open clients, 10 s each way", half_open_clients),
    Row("44", "slow, narrow, sliced, cut-off network", bad_network),
    Row("45", "seeded nemesis, 60 s", nemesis(60.0), "puback"),
)
