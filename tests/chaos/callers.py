"""REST calls beside the live sessions: what each was answered, and whether what was written is there at the end."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field

import httpx2
from verbatim_client import VerbatimClient
from verbatim_client.errors import ApiError

RETRYABLE = frozenset(
    {"service_unavailable", "gateway_timeout", "bad_gateway", "rate_limit_exceeded", "insufficient_storage"}
)
_LOOK_WITHIN_S = 20.0
_titles = itertools.count(1)


@dataclass
class Callers:
    """Reads the library, and writes tasks, again and again; each call is made once.

    `failed` were not answered, or with a failure that says when to come back; `wrong` are answers that a client can do
    nothing with: a failure that does not say so, or one that blames the client.
    """

    calls: int = 0
    failed: int = 0
    wrong: list[str] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    lost: int = 0
    doubled: int = 0

    async def call(self, client: VerbatimClient, hz: float) -> None:
        """Call for ever."""
        for turn in itertools.cycle(("read", "write", "read", "tasks")):
            self.calls += 1
            try:
                await self._one(client, turn)
            except httpx2.TransportError:
                self.failed += 1
            except ApiError as error:
                self.failed += 1
                self._judge(turn, error)
            await asyncio.sleep(1.0 / hz)

    async def _one(self, client: VerbatimClient, turn: str) -> None:
        match turn:
            case "read":
                await client.call("GET", "/api/meetings", params={"limit": 5})
            case "tasks":
                await client.call("GET", "/api/tasks", params={"limit": 5})
            case "write":
                title = f"Errand {next(_titles)}"
                await client.create_task(title)
                self.written.add(title)

    def _judge(self, turn: str, error: ApiError) -> None:
        if error.status < 500 and error.status != httpx2.codes.TOO_MANY_REQUESTS:
            self.wrong.append(f"{turn} was answered {error.status} {error.code}")
        elif error.code not in RETRYABLE or error.retry_after_s is None:
            self.wrong.append(f"{turn} was answered {error.status} {error.code}, and not when to come back")

    async def look(self, clients: list[VerbatimClient]) -> None:
        """Compare what was acknowledged with what is there. Raises ApiError or TransportError if nobody answers."""
        async with asyncio.timeout(_LOOK_WITHIN_S):
            found = Counter([task["title"] for client in clients async for task in client.tasks()])
        self.lost = sum(not found[title] for title in self.written)
        self.doubled = sum(count > 1 for count in found.values())
