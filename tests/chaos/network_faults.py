"""What is done to the network while people talk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2

from tests.chaos.platform import HEARTBEAT_S, Platform
from tests.chaos.scene import Scene


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
    """Let what clients say on their connections vanish, then what they hear, and tell nobody: not even of the end.

    Clients come back on new connections. Gateways find that the old ones are dead, and free what they hold.
    """
    for direction in ("up", "down"):
        scene.mark()
        scene.platform.clients.half_open(direction)
        await scene.flowing()
    people = len(scene.workload.speaking)
    await until_sockets(scene.platform, people, within_s=min(scene.settle_s, 6 * HEARTBEAT_S))


async def until_sockets(platform: Platform, wanted: int, within_s: float) -> None:
    """Wait until the gateways hold so many live sockets. Raises TimeoutError."""
    held = -1.0

    async def count() -> float:
        return sum([await platform.figure(name, "ws_sessions") for name in platform.gateways])

    try:
        async with asyncio.timeout(within_s):
            while (held := await count()) != wanted:
                await asyncio.sleep(0.1)
    except (TimeoutError, httpx2.TransportError):
        raise TimeoutError(f"gateways hold {held:g} sockets of {wanted} clients after {within_s:g} s") from None


async def bad_network(scene: Scene) -> None:
    """Slow, jittery, lossy, narrow, sliced; and connections that end after so many bytes, anywhere in a frame."""
    clients = scene.platform.clients
    for change in (
        {"latency_s": 0.05, "jitter_s": 0.05},
        {"latency_s": 0.02, "lost_share": 0.05},
        {"bytes_per_s": 150_000.0},
        {"bytes_per_s": 64_000 / 8},
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
