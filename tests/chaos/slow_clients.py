"""A thousand clients that take their time: with the head of a request, with its body, with reading the answer."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from dev.ports import HOST
from tests.chaos.rawhttp import Caller, Tally
from tests.chaos.scene import Scene

SLOW = 1000
AS_SHIPPED = {"gateway": {"CONNECTIONS_PER_IP_MAX": "256", "UNREAD_TIMEOUT_S": "15"}}
CUT_WITHIN_S = 45.0
"""Of the slowest defence (15 s), and of a busy machine."""
P99_FACTOR = 2.0
P99_MORE_S = 0.1
STRAGGLERS = 10
_PER_ADDRESS = 100
_OTHERS = "127.40.0.1"
_SAMPLES_S = 8.0
_OTHERS_AT_ONCE = 4
_DRIP_S = 1.0
_ANSWERS_ASKED_FOR = 8
"""Of a quarter of a megabyte each; more at once are cut off for their number."""


@dataclass(frozen=True)
class Slowness:
    """What is sent at first, and what again and again. Nothing of an answer is ever read."""

    name: str
    first: bytes
    again: bytes


KINDS = (
    Slowness("head", b"GET /healthz HTTP/1.1\r\nHost: edge\r\nX-Slow: ", b"x"),
    Slowness(
        "body",
        b"POST /api/auth/login HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100000\r\n\r\n{",
        b" ",
    ),
    Slowness("read", b"GET /openapi.json HTTP/1.1\r\nHost: edge\r\n\r\n" * _ANSWERS_ASKED_FOR, b""),
)


@dataclass(frozen=True)
class Outcome:
    """What became of slow connections: how many were open at first, behind the measurement, and at the end, `after_s`
    seconds after the last had come; and how others were served meanwhile."""

    open: int
    during: int
    left: int
    after_s: float
    others: Tally

    @property
    def cut_off(self) -> bool:
        return self.left <= STRAGGLERS

    def __str__(self) -> str:
        return (
            f"{self.open} open, {self.during} behind the measurement, {max(0, self.left)} after {self.after_s:.0f} s; "
            f"others meanwhile {told(self.others)}"
        )


async def outlast(
    port: int, kind: Slowness, connections: Callable[[], Awaitable[int]], within_s: float = CUT_WITHIN_S
) -> Outcome:
    """Let a thousand connections take their time, until they are cut off or `within_s` is over.

    `connections` asks the server how many it has.
    """
    before = await connections()
    async with _Crowd(port, kind) as slow:
        at_first = await connections() - before
        served = await others(port)
        during = await connections() - before
        while (left := await connections() - before) > STRAGGLERS and slow.open_s < within_s:
            await asyncio.sleep(0.2)
        return Outcome(at_first, during, left, slow.open_s, served)


async def slow_clients(scene: Scene) -> None:
    """Let a thousand connections of each kind take their time; see how others are served, and that they are cut off."""
    name, (_, port) = next(iter(scene.platform.gateways.items()))

    async def connections() -> int:
        return int(await scene.platform.figure(name, "http_server_connections"))

    quiet = await others(port)
    scene.notes.append(f"others alone: {told(quiet)}")
    for kind in KINDS:
        scene.mark()
        found = await outlast(port, kind, connections)
        scene.breaches += [f"slow {kind.name}: {what}" for what in broken(found, quiet)]
        scene.notes.append(f"slow {kind.name}: {found}")


def broken(found: Outcome, quiet: Tally) -> list[str]:
    """Say what does not hold; `quiet` is how others were served without slow connections."""
    wrong = []
    p99_s, p99_max_s = found.others.percentile_s(0.99), P99_FACTOR * quiet.percentile_s(0.99) + P99_MORE_S
    if found.others.cut or set(found.others.statuses) != {200}:
        wrong.append(f"others got {dict(found.others.statuses)}, {found.others.cut} nothing")
    if p99_s > p99_max_s:
        wrong.append(f"others waited {p99_s:.2f} s (p99), more than {p99_max_s:.2f} s")
    if not found.cut_off:
        wrong.append(f"{found.left} of {SLOW} still there after {found.after_s:.0f} s")
    return wrong


def told(tally: Tally) -> str:
    p50_s, p99_s = tally.percentile_s(0.5), tally.percentile_s(0.99)
    return f"p50 {p50_s * 1000:.0f} ms, p99 {p99_s * 1000:.0f} ms of {len(tally.answers)}"


async def others(port: int) -> Tally:
    """Ask for what touches no database, for some seconds, from another address."""
    tally, until = Tally(), time.monotonic() + _SAMPLES_S

    async def ask() -> None:
        async with Caller(port, _OTHERS) as caller:
            while time.monotonic() < until:
                tally.answers.append(await caller.ask("GET", "/style.css"))
                await asyncio.sleep(0.01)

    try:
        await asyncio.gather(*(ask() for _ in range(_OTHERS_AT_ONCE)))
    except (OSError, EOFError):
        tally.cut += 1
    return tally


class _Crowd:
    """The slow connections of one kind; a context manager."""

    def __init__(self, port: int, kind: Slowness) -> None:
        self._port, self._kind = port, kind
        self._sockets: list[socket.socket] = []
        self._opened_at = 0.0

    @property
    def open_s(self) -> float:
        """For how long all have been there."""
        return time.monotonic() - self._opened_at

    async def __aenter__(self) -> Self:
        """Connect all, send what comes first, and go on slowly."""
        loop = asyncio.get_running_loop()
        for source in _addresses():
            one = socket.socket()
            self._sockets.append(one)
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.bind((source, 0))
            await loop.sock_connect(one, (HOST, self._port))
            with suppress(OSError):
                one.send(self._kind.first)
        self._opened_at = time.monotonic()
        self._dripping = asyncio.create_task(self._drip())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        self._dripping.cancel()
        await asyncio.wait([self._dripping])
        for one in self._sockets:
            one.close()

    async def _drip(self) -> None:
        """Send a little on each, for ever; who was cut off does not matter here."""
        while self._kind.again:
            for one in self._sockets:
                with suppress(OSError):
                    one.send(self._kind.again)
            await asyncio.sleep(_DRIP_S)


def _addresses() -> Iterator[str]:
    for number in range(SLOW):
        yield f"127.41.0.{1 + number // _PER_ADDRESS}"
