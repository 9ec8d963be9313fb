"""The door to webhooks: a request to a stranger's server that cannot be led anywhere else.

The name is looked up once, all its addresses are checked, and the connection goes to one of these: who answers the
second question about a name in another way is not asked it. No redirect is followed, no proxy used, no cookie kept.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from chassis.errors import AppError, Kind
from chassis.threads import ready_pool
from services.meetings.targets import Address, Reach, Target

ANSWER_BYTES_MAX = 64 * 1024
_REST_S = 0.5
_ADDRESSES_MAX = 4


class Resolver(Protocol):
    """Who knows which addresses a name has."""

    async def addresses(self, host: str) -> Sequence[Address]:
        """Return the addresses of a host, at least one. Raises OSError if there is none."""


class SystemResolver:
    """Asks as any program on this machine does, in threads of its own: a name that hangs holds up other names only."""

    def __init__(self, workers: int = 8) -> None:
        self._pool = ready_pool(workers, "webhook-names")
        self._places = asyncio.Semaphore(workers)

    async def addresses(self, host: str) -> Sequence[Address]:
        """See `Resolver`."""
        await self._places.acquire()
        looking = asyncio.get_running_loop().run_in_executor(self._pool, _look_up, host)
        looking.add_done_callback(self._done)
        # Nobody can end a look-up: its place is taken until it is over, also when we have given up.
        return await asyncio.shield(looking)

    def _done(self, looking: asyncio.Future[list[Address]]) -> None:
        self._places.release()
        looking.cancelled() or looking.exception()

    def close(self) -> None:
        """Begin no look-up any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> list[Address]:
    # A full name ends in a dot: else the search list of this machine's own network is tried with it first.
    name = f"{host}." if "." in host else host
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(one[4][0]) for one in found))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; 3xx is an answer like any other."""

    status: int
    retry_after_s: float | None = None

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300


class Poster:
    """Posts to strangers. Times are of a whole request: look-up, connection, answer."""

    def __init__(
        self, resolver: Resolver, reach: Reach, *, timeout_s: float = 5.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._resolver = resolver
        self._reach = reach
        self._timeout_s = timeout_s
        self._tls = tls or ssl.create_default_context()

    async def post(self, to: Target, headers: Mapping[str, str], content: bytes) -> Answer:
        """Post and return the answer. Raises AppError (BAD_GATEWAY, TIMEOUT) whose words its owner may read.

        A host that has no address and one that leads where it must not are told in the same words: else this would be a
        way to ask which names our network knows.
        """
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                addresses = await self.checked(to)
                async with self._session(to, addresses) as session:
                    return await self._send(session, to, headers, content, limit)
        except TimeoutError:
            raise AppError(Kind.TIMEOUT, "It did not answer in time.") from None
        except aiohttp.ClientConnectorCertificateError:
            raise AppError(Kind.BAD_GATEWAY, "Its certificate is not valid.") from None
        except aiohttp.ClientSSLError:
            raise AppError(Kind.BAD_GATEWAY, "No secure connection could be made.") from None
        except aiohttp.ClientConnectionError:
            raise AppError(Kind.BAD_GATEWAY, "No connection could be made, or it broke.") from None
        except aiohttp.ClientError:
            raise AppError(Kind.BAD_GATEWAY, "Its answer cannot be read.") from None

    async def checked(self, to: Target) -> Sequence[Address]:
        """Return the addresses that may be called. Raises AppError if there is none, or one that may not."""
        try:
            found = [to.address] if to.address is not None else await self._resolver.addresses(to.host)
        except (OSError, UnicodeError):
            found = []
        if not found or not all(self._reach.permits(one) for one in found):
            raise AppError(Kind.BAD_GATEWAY, "Its host has no address that may be called.")
        return found[:_ADDRESSES_MAX]

    def _session(self, to: Target, addresses: Sequence[Address]) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Pinned(addresses),
                use_dns_cache=False,
                force_close=True,
                ssl=self._tls if to.secure else False,
            ),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=ANSWER_BYTES_MAX // 2,  # of which it holds twice as much
        )

    async def _send(
        self,
        session: aiohttp.ClientSession,
        to: Target,
        headers: Mapping[str, str],
        content: bytes,
        limit: asyncio.Timeout,
    ) -> Answer:
        url = _url(to)
        async with session.post(url, data=content, headers=headers, allow_redirects=False) as response:
            # It has answered: whatever comes behind that is not waited for, but not cut off either if it is short.
            limit.reschedule(None)
            with suppress(aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(_REST_S):
                    await response.content.readexactly(ANSWER_BYTES_MAX)
            wait = response.headers.get("Retry-After", "")
            return Answer(response.status, float(wait) if wait.isascii() and wait.isdigit() else None)


def _url(to: Target) -> str:
    host = f"[{to.host}]" if ":" in to.host else to.host
    return f"{to.scheme}://{host}:{to.port}{to.rest}"


class _Pinned(AbstractResolver):
    """Answers with what was checked, whatever is asked."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses, as the connector wants them."""
        return [
            ResolveResult(
                hostname=host,
                host=str(one),
                port=port,
                family=socket.AF_INET if one.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for one in self._addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""
