"""A TCP proxy that makes the network's faults: per direction, switchable while connections are open.

Verbs: latency, jitter, bandwidth, slices, a hole (bytes vanish, the connection looks alive), a stall (bytes wait until
it is lifted), the end after n bytes; and at once: reset, half-close, half-open, refusal of new connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

HOST = "127.0.0.1"
READ_BYTES = 64 * 1024
CONNECT_S = 2.0
RESENT_S = 0.25

Direction = Literal["up", "down"]
Address = tuple[str, int]


@dataclass
class Toxics:
    """What happens to the bytes of one direction. Change the fields at any time; all connections follow.

    `close_after_bytes` counts each connection's bytes of this direction; what is above is not delivered, and the
    connection is reset. `slice_bytes` splits what is read into parts of at most so many bytes, each sent on its own.
    Of `lost_share` of all parts TCP has to send again what a network lost: they come later.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    lost_share: float = 0.0
    bytes_per_s: float | None = None
    slice_bytes: int | None = None
    close_after_bytes: int | None = None
    hole: bool = False
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._open.set()

    def stall(self) -> None:
        """Let bytes wait."""
        self._open.clear()

    def flow(self) -> None:
        """Let waiting bytes go."""
        self._open.set()

    async def unstalled(self) -> None:
        """Wait while bytes are to wait."""
        await self._open.wait()

    def clear(self) -> None:
        """Be an honest wire again."""
        self.latency_s = self.jitter_s = self.lost_share = 0.0
        self.bytes_per_s = self.slice_bytes = self.close_after_bytes = None
        self.hole = False
        self.flow()


class Proxy:
    """One listening port before one or several upstreams, which take new connections in turn.

    An upstream that refuses is skipped, and those in `avoided` get no new connections while there are others, as by a
    load balancer. `up` is towards the upstream, `down` towards the client.
    """

    def __init__(self, port: int, upstreams: Sequence[Address], *, seed: int = 0) -> None:
        self.port = port
        self.up = Toxics()
        self.down = Toxics()
        self.refusing = False
        self.avoided: set[Address] = set()
        self.connections = 0
        self._upstreams = list(upstreams)
        self._turn = 0
        self._random = random.Random(seed)
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, HOST, self.port, limit=READ_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        self.reset()
        while self._pairs:
            await asyncio.sleep(0.01)

    def reset(self, share: float = 1.0) -> int:
        """Reset open connections (RST to both sides), each with this probability; say how many."""
        hit = [pair for pair in self._pairs if self._random.random() < share]
        for pair in hit:
            pair.reset()
        return len(hit)

    def half_close(self, direction: Direction) -> None:
        """End one direction of every open connection (FIN); the other goes on."""
        for pair in self._pairs:
            pair.half_close(direction)

    def half_open(self, direction: Direction) -> int:
        """Let what comes in one direction of every connection that is open now vanish for good, its end included: the
        other side is not told. New connections are honest. Say how many it hit."""
        for pair in self._pairs:
            pair.deaf.add(direction)
        return len(self._pairs)

    def partition(self) -> None:
        """Let all bytes of both directions vanish, without a word to anybody."""
        self.up.hole = self.down.hole = True

    def heal(self) -> None:
        """Be an honest wire for new bytes, and reset the connections from which bytes are missing."""
        holed = self.up.hole or self.down.hole
        self.refusing = False
        self.up.clear()
        self.down.clear()
        if holed:
            # TCP would send again what a network lost; this proxy has acknowledged it and cannot.
            self.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        upstream = None if self.refusing else await self._connect()
        if upstream is None:
            _abort(writer)
            return
        pair = _Pair((reader, writer), upstream)
        self._pairs.add(pair)
        try:
            await pair.run(self.up, self.down, self._random)
        finally:
            self._pairs.discard(pair)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        wanted = [one for one in self._upstreams if one not in self.avoided] or self._upstreams
        for _ in wanted:
            self._turn += 1
            host, port = wanted[self._turn % len(wanted)]
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_S):
                    return await asyncio.open_connection(host, port, limit=READ_BYTES)
        return None


class _Pair:
    """One connection through the proxy."""

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.deaf: set[Direction] = set()
        self._client, self._upstream = client, upstream
        self._over = asyncio.Event()

    async def run(self, up: Toxics, down: Toxics, draw: random.Random) -> None:
        """Carry bytes until both directions have ended, or one fails."""
        halves = [
            asyncio.create_task(self._carry(self._client[0], self._upstream[1], "up", up, draw)),
            asyncio.create_task(self._carry(self._upstream[0], self._client[1], "down", down, draw)),
        ]
        over = asyncio.create_task(self._over.wait())
        running: set[asyncio.Task[Any]] = {*halves, over}
        while over in running and running & {*halves}:
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in running:
            task.cancel()
        await asyncio.gather(*halves, over, return_exceptions=True)
        for _, writer in (self._client, self._upstream):
            writer.close()

    def reset(self) -> None:
        """Reset both sides."""
        for _, writer in (self._client, self._upstream):
            _abort(writer)
        self._over.set()

    def half_close(self, direction: Direction) -> None:
        """Send FIN in one direction."""
        writer = self._upstream[1] if direction == "up" else self._client[1]
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
        toxics: Toxics,
        draw: random.Random,
    ) -> None:
        passed_bytes = 0
        try:
            while data := await reader.read(READ_BYTES):
                if toxics.hole or direction in self.deaf:
                    continue
                await toxics.unstalled()
                if draw.random() < toxics.lost_share:
                    await asyncio.sleep(RESENT_S)
                if toxics.latency_s or toxics.jitter_s:
                    # Delays add up in the reader's order: a slow wire, not one that reorders.
                    await asyncio.sleep(toxics.latency_s + draw.uniform(0.0, toxics.jitter_s))
                if toxics.close_after_bytes is not None and passed_bytes + len(data) > toxics.close_after_bytes:
                    writer.write(data[: max(0, toxics.close_after_bytes - passed_bytes)])
                    await writer.drain()
                    self.reset()
                    return
                passed_bytes += len(data)
                await _send(writer, data, toxics)
            if direction not in self.deaf:
                writer.write_eof()
        except (OSError, RuntimeError):
            if self.deaf:
                await _swallow(reader)  # the word that one side is gone does not get through either
            else:
                self.reset()  # one side is gone: the other learns it the same way


async def _swallow(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(READ_BYTES):
            pass


async def _send(writer: asyncio.StreamWriter, data: bytes, toxics: Toxics) -> None:
    size = toxics.slice_bytes or len(data)
    if toxics.bytes_per_s:
        size = min(size, max(1, int(toxics.bytes_per_s * 0.05)))
    for start in range(0, len(data), size):
        part = data[start : start + size]
        writer.write(part)
        await writer.drain()
        if toxics.bytes_per_s:
            await asyncio.sleep(len(part) / toxics.bytes_per_s)
        elif toxics.slice_bytes:
            await asyncio.sleep(0)  # so that the parts leave as packets of their own


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
