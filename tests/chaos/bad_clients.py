"""Clients that send what no client should: by mistake, or to do harm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import psutil

from dev.ports import HOST
from tests.chaos.platform import Platform
from tests.chaos.rawsocket import BINARY, CONT, PING, TEXT, RawSocket, frame
from tests.chaos.scene import Scene

ATTACKERS = 6
MEMORY_MAX_BYTES = 10 * 1024 * 1024
"""What one connection may cost a gateway, whatever is sent on it."""
RESET, OPEN, COMPRESSED = 0, 1, 2
"""In the place of a close code: none came, nobody closed, the platform agreed to compression."""
_LOOK_EVERY_S = 0.05
_FLOOD_BYTES = 4 * 1024 * 1024
_FLOODS_WITHIN_S = 15.0


async def bad_frames(scene: Scene) -> None:
    """Do nothing: the workload itself is the fault."""
    scene.mark()
    await scene.wait(15.0)


@dataclass(frozen=True)
class Attack:
    """What is sent, and how the platform closes on it (None: it need not, the rest of the budget holds)."""

    name: str
    send: Callable[[RawSocket], Coroutine[Any, Any, None]]
    closes: int | None
    headers: str = ""


async def _fragments(socket: RawSocket, payload: bytes, count: int) -> None:
    await socket.push(frame(BINARY, payload, fin=False))
    await _flood(socket, frame(CONT, payload, fin=False), count * len(frame(CONT, payload)))


async def _flood(socket: RawSocket, piece: bytes, size: int = _FLOOD_BYTES) -> None:
    """Send a piece again and again; not all of it if the other side does not take it."""
    many = piece * max(1, 65_536 // len(piece))
    try:
        async with asyncio.timeout(_FLOODS_WITHIN_S):
            for _ in range(max(1, size // len(many))):
                if socket.writer.transport.is_closing():
                    return
                await socket.push(many)
    except TimeoutError:
        return


_DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"

ATTACKS = (
    Attack("a frame of 1 MiB", lambda s: s.push(frame(BINARY, bytes(1 << 20))), 1009),
    Attack("audio of 128 KiB", lambda s: s.push(frame(BINARY, bytes(8 + (128 << 10)))), 1009),
    Attack("a message of 32 KiB", lambda s: s.push(frame(TEXT, b" " * (32 << 10))), 1009),
    Attack("a message of 4 MiB in fragments", lambda s: _fragments(s, bytes(16 << 10), 256), 1009),
    Attack("a message in 600,000 empty fragments", lambda s: _fragments(s, b"", 600_000), 1008),
    Attack("a compressed frame", lambda s: s.push(frame(BINARY, bytes(100), rsv1=True)), 1002, _DEFLATE),
    Attack("pings, their answers read", lambda s: _flood(s, frame(PING, b"x" * 125)), 1008),
    Attack("messages of one byte", lambda s: _flood(s, frame(TEXT, b"x")), 1008),
    Attack("a flood of `finalize`", lambda s: _flood(s, frame(TEXT, b'{"type":"finalize"}')), None),
    Attack("a flood of `ping`, their answers not read", lambda s: _flood(s, frame(TEXT, b'{"type":"ping"}')), None),
)


async def hostile_frames(scene: Scene) -> None:
    """Let several attackers at once do each thing; look at what it costs the gateways, and how they close."""
    token = scene.clients[0].access_token or ""
    for attack in ATTACKS:
        scene.mark()
        before = _memory_bytes(scene.platform)
        attacks = asyncio.gather(*(_attack(scene.platform, attack, token) for _ in range(ATTACKERS)))
        grown = 0
        while not attacks.done():
            await asyncio.wait([attacks], timeout=_LOOK_EVERY_S)
            grown = max(grown, _memory_bytes(scene.platform) - before)
        codes = await attacks
        # A flood that is still under way when the other side closes meets a reset, which may overtake the code.
        if attack.closes is not None and not {attack.closes} <= set(codes) <= {attack.closes, RESET}:
            scene.breaches.append(f"{attack.name}: closed with {sorted(set(codes))}, not {attack.closes}")
        if grown > MEMORY_MAX_BYTES * ATTACKERS:
            scene.breaches.append(f"{attack.name}: {grown / ATTACKERS / 2**20:.0f} MiB for each connection")
        scene.notes.append(f"{attack.name}: {grown / ATTACKERS / 2**20:.1f} MiB")
    await scene.flowing()


async def _attack(platform: Platform, attack: Attack, token: str) -> int:
    """Attack once; give the code that it was closed with."""
    async with RawSocket(HOST, platform.clients.port, token, headers=attack.headers) as socket:
        if "permessage-deflate" in socket.answer.lower():
            return COMPRESSED
        if attack.closes is None:
            await attack.send(socket)
            return OPEN
        sending = asyncio.create_task(attack.send(socket))
        try:
            return await socket.closed(_FLOODS_WITHIN_S) or RESET
        except TimeoutError:
            return OPEN
        finally:
            sending.cancel()
            await asyncio.wait([sending])


def _memory_bytes(platform: Platform) -> int:
    pids = [platform.stack.runner.pid(name) for name in platform.gateways]
    return sum(psutil.Process(pid).memory_info().rss for pid in pids if pid is not None)
