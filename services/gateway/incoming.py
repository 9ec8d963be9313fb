"""A file on its way into the object store: counted, gathered into pieces, durable before it is promised."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress

from chassis import telemetry
from chassis.errors import AppError, Kind
from chassis.objects import PIECE_BYTES, Held, Objects, Overtaken
from services.gateway import metrics

log = telemetry.logger(__name__)

# As long as a broker takes to start again; meanwhile the client's sending is held by the network.
_PATIENCE_S = 20.0
_PAUSE_S_MAX = 1.0


def too_long(bytes_max: int) -> AppError:
    """Return what to say of a file that is longer than what is taken."""
    return AppError(Kind.PAYLOAD_TOO_LARGE, f"The file is longer than {bytes_max // 1_000_000} MB.")


class IncomingFile:
    """Writes one file, or the rest of one. At most three pieces of it are in memory.

    `held` is what of it is durable when writing begins. After a failure `held` tells how far it came.
    """

    def __init__(self, objects: Objects, name: str, *, bytes_max: int, held: Held = Held()) -> None:  # noqa: B008
        self._objects = objects
        self._name = name
        self._bytes_max = bytes_max
        self._gathered = bytearray()
        self._flight: asyncio.Task[Held] | None = None
        self._digest = hashlib.sha256() if held.offset == 0 else None
        self._received = held.offset
        self.held = held

    @property
    def digest(self) -> bytes | None:
        """SHA-256 of the file, if all of it passed here."""
        return self._digest.digest() if self._digest is not None else None

    async def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises AppError: PAYLOAD_TOO_LARGE as soon as there are too many, INSUFFICIENT_STORAGE, UNAVAILABLE if the
        broker does not come back, CONFLICT if somebody else writes the same file.
        """
        self._received += len(data)
        if self._received > self._bytes_max:
            raise too_long(self._bytes_max)
        self._gathered += data
        while len(self._gathered) >= PIECE_BYTES:
            piece = bytes(self._gathered[:PIECE_BYTES])
            del self._gathered[:PIECE_BYTES]
            await self._launch(piece)

    async def flush(self) -> Held:
        """Make everything durable that was written. Raises as `write` does."""
        if self._gathered:
            piece = bytes(self._gathered)
            self._gathered.clear()
            await self._launch(piece)
        await self._land()
        return self.held

    async def stop(self) -> None:
        """Let go of what is not durable."""
        self._gathered.clear()
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.cancel()
            await asyncio.wait([flight])

    async def _launch(self, piece: bytes) -> None:
        """Send a piece while the next one is gathered."""
        await self._land()
        self._flight = asyncio.create_task(self._append(piece))

    async def _land(self) -> None:
        flight, self._flight = self._flight, None
        if flight is not None:
            try:
                self.held = await flight
            except asyncio.CancelledError:
                flight.cancel()
                raise

    async def _append(self, piece: bytes) -> Held:
        if self._digest is not None:
            self._digest.update(piece)
        held, pause_s = self.held, 0.05
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        while True:
            try:
                held = await self._objects.append(self._name, held, piece)
            except Overtaken:
                raise AppError(Kind.CONFLICT, "The file is being sent by somebody else too.") from None
            except AppError as fault:
                if fault.kind is not Kind.UNAVAILABLE or asyncio.get_running_loop().time() + pause_s > deadline:
                    raise
                log.info("broker does not take it yet", fault=str(fault))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_S_MAX)
            else:
                metrics.UPLOADED_BYTES.inc(len(piece))
                return held


async def discard(objects: Objects, name: str) -> None:
    """Remove what was stored of a file that is not wanted; what cannot be removed now the janitor removes."""
    with suppress(AppError):
        await objects.remove(name)
