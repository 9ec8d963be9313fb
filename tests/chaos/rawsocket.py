"""A WebSocket client that sends whatever bytes it likes. Its masks are zero: what is written is what is meant."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from types import TracebackType
from typing import Self

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_WITHIN_S = 10.0


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """Return one frame of a client."""
    head = bytes([(fin << 7) | (rsv1 << 6) | opcode])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


async def shake_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, headers: str = "") -> str:
    """Become a WebSocket; give the head of the answer. Raises TimeoutError."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: raw\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n".encode()
    )
    async with asyncio.timeout(_WITHIN_S):
        return (await reader.readuntil(b"\r\n\r\n")).decode()


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return opcode and payload of the next frame."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return first & 0x0F, await reader.readexactly(size)


class RawSocket:
    """A socket to `/transcribe`; a context manager that connects, starts a session, and aborts at the end."""

    def __init__(self, host: str, port: int, token: str, *, headers: str = "") -> None:
        self.close_code: int | None = None
        self.answer = ""
        self._address = (host, port)
        self._token = token
        self._headers = headers

    async def __aenter__(self) -> Self:
        """Connect and start a session."""
        self.reader, self.writer = await asyncio.open_connection(*self._address)
        self.answer = await shake_hands(self.reader, self.writer, "/transcribe", self._headers)
        start = {"type": "start", "token": self._token, "title": "raw", "interim": False}
        self.writer.write(frame(TEXT, json.dumps(start).encode()))
        async with asyncio.timeout(_WITHIN_S):
            await self._frame()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Go without a farewell."""
        self.writer.transport.abort()

    async def push(self, data: bytes) -> None:
        """Send bytes; what comes after the other side has closed is lost."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            return

    async def closed(self, within_s: float = _WITHIN_S) -> int | None:
        """Read until the other side closes; give its code, None if it did not say one. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            try:
                while self.close_code is None:
                    await self._frame()
            except (asyncio.IncompleteReadError, OSError):
                pass
        return self.close_code

    async def _frame(self) -> None:
        opcode, payload = await read_frame(self.reader)
        if opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big")
