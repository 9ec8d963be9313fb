"""The socket under the NATS client, which says that it is closed in words that the client understands.

uvloop answers a write to a socket that the other side has just closed with RuntimeError, as a bug would. nats-py takes
that for the end of the event loop: whatever task was writing ends without a word, also the one that reconnects, and the
client is deaf for the rest of its days. As ConnectionResetError it is what it is: one more lost connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nats.aio.client import Client, Srv
from nats.aio.transport import Transport


@contextmanager
def _lost_if_closed() -> Iterator[None]:
    try:
        yield
    except RuntimeError as fault:
        raise ConnectionResetError(str(fault)) from fault


class Socket:
    """A transport of nats-py, honest about being closed."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __bool__(self) -> bool:
        return bool(self._inner)

    def write(self, payload: bytes) -> None:
        """Queue bytes. Raises OSError if the socket is closed."""
        with _lost_if_closed():
            self._inner.write(payload)

    def writelines(self, payload: list[bytes]) -> None:
        """Queue bytes. Raises OSError if the socket is closed."""
        with _lost_if_closed():
            self._inner.writelines(payload)

    async def drain(self) -> None:
        """Wait until there is room. Raises OSError if the socket is closed."""
        with _lost_if_closed():
            await self._inner.drain()  # type: ignore[no-untyped-call]


class SturdyClient(Client):
    """A NATS client on such a socket."""

    async def _connect_to_server(self, s: Srv) -> None:
        await super()._connect_to_server(s)
        if not isinstance(self._transport, Socket):
            self._transport: Any = Socket(self._transport)

    async def _ping_interval(self) -> None:
        with suppress(OSError):  # the reading task learns of it too, and reconnects
            await super()._ping_interval()
