"""Ask a server once whether it is ready. Each question is bounded; a refusal is an answer, not an error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg

from dev.ports import HOST

ASK_WITHIN_S = 2.0
Probe = Callable[[], Awaitable[bool]]


def http(port: int, path: str) -> Probe:
    """Ready when GET answers 200."""
    return _tcp(port, f"GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode(), b" 200 ")


def redis(port: int) -> Probe:
    """Ready when it answers PING, which it does not while it still loads its file."""
    return _tcp(port, b"PING\r\n", b"+PONG")


def postgres(conninfo: str) -> Probe:
    """Ready when it takes a connection."""

    async def probe() -> bool:
        try:
            async with asyncio.timeout(ASK_WITHIN_S):
                await (await psycopg.AsyncConnection.connect(conninfo)).close()
        except (psycopg.OperationalError, TimeoutError):
            return False
        return True

    return probe


def _tcp(port: int, question: bytes, answer: bytes) -> Probe:
    async def probe() -> bool:
        try:
            async with asyncio.timeout(ASK_WITHIN_S):
                reader, writer = await asyncio.open_connection(HOST, port)
                try:
                    writer.write(question)
                    return answer in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    return probe
