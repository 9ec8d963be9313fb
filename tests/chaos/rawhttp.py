"""HTTP callers from any address of the loopback network, one connection each: what a load balancer does not hide."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from dev.ports import HOST

_WITHIN_S = 60.0
PUT_OFF = frozenset({429, 503, 504})


@dataclass(frozen=True)
class Answer:
    """What came back: status, header fields in lower case, body, and the seconds that it took."""

    status: int
    fields: dict[str, str]
    body: bytes
    took_s: float

    @property
    def code(self) -> str:
        """The code of an error; empty if it is none."""
        return str(json.loads(self.body).get("error", "")) if self.status >= 400 else ""

    @property
    def helpless(self) -> bool:
        """Whether a client is put off and not told until when."""
        return self.status in PUT_OFF and "retry-after" not in self.fields


class Caller:
    """A connection that stays open, from an address; a context manager."""

    def __init__(self, port: int, source: str) -> None:
        self._port, self._source = port, source

    async def __aenter__(self) -> Self:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(
            HOST, self._port, local_addr=(self._source, 0), limit=1 << 20
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def ask(
        self, method: str, path: str, *, body: dict[str, Any] | None = None, fields: dict[str, str] | None = None
    ) -> Answer:
        """Send a request and read its answer. Raises TimeoutError, or OSError or EOFError if the connection ends."""
        content = json.dumps(body).encode() if body is not None else b""
        sent = {"Host": "edge", **({"Content-Type": "application/json"} if body is not None else {}), **(fields or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        began = time.monotonic()
        async with asyncio.timeout(_WITHIN_S):
            self._writer.write(f"{method} {path} HTTP/1.1\r\n{head}Content-Length: {len(content)}\r\n\r\n".encode())
            self._writer.write(content)
            status, found = _head(await self._reader.readuntil(b"\r\n\r\n"))
            size = int(found.get("content-length", 0))
            return Answer(status, found, await self._reader.readexactly(size), time.monotonic() - began)


def _head(raw: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = raw.decode("latin-1").strip().split("\r\n")
    return int(first.split()[1]), {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


async def ask(port: int, source: str, method: str, path: str, **request: Any) -> Answer:
    """Send one request on a connection of its own."""
    async with Caller(port, source) as caller:
        return await caller.ask(method, path, **request)


@dataclass
class Tally:
    """What many requests were answered."""

    answers: list[Answer] = field(default_factory=list)
    cut: int = 0
    """Requests whose connection ended without an answer."""

    @property
    def statuses(self) -> Counter[int]:
        return Counter(one.status for one in self.answers)

    @property
    def helpless(self) -> int:
        return sum(one.helpless for one in self.answers)

    def percentile_s(self, share: float) -> float:
        """Return what that share of the answers took at most, in seconds."""
        took = sorted(one.took_s for one in self.answers)
        return took[min(len(took) - 1, int(share * len(took)))] if took else 0.0


async def together(jobs: Iterable[Any], *, at_once: int) -> list[Any]:
    """Await so many at a time; results in order."""
    turns = asyncio.Semaphore(at_once)

    async def one(job: Any) -> Any:
        async with turns:
            return await job

    return await asyncio.gather(*(one(job) for job in jobs))


async def burst(ports: Sequence[int], source: str, path: str, count: int, *, at_once: int, tally: Tally) -> None:
    """Send GETs from one address to several servers in turn, each connection one after the other."""

    async def many(number: int) -> None:
        async with Caller(ports[number % len(ports)], source) as caller:
            for _ in range(count // at_once):
                try:
                    tally.answers.append(await caller.ask("GET", path))
                except (OSError, EOFError):
                    tally.cut += 1
                    return

    await asyncio.gather(*(many(number) for number in range(at_once)))
