"""The audio log of sessions in JetStream: gathered messages, acknowledged when they are on the broker's disk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from nats.js.api import PubAck

from chassis import bus, telemetry
from services.transcriber import audio, metrics
from services.transcriber.logs import PUBLISH_S, batches_of, newest_of, read_all

log = telemetry.logger(__name__)

# About ten seconds of audio: what is read and not wanted is for nothing.
_FOLLOW_BATCH = 50
_FRUITLESS_MAX = 2
# One message of the audio log: about four seconds, well below the broker's limit of 1 MiB.
_MESSAGE_BYTES_MAX = 128 * 1024
_RETRY_S_MAX = 2.0


@dataclass(slots=True)
class _Flight:
    """One message of the audio log that the broker has not acknowledged.

    Without a payload it is a hole that the client declared; it counts as durable when its gap is in the transcript log.
    """

    offset: int
    payload: bytes
    end_offset: int
    acknowledged: asyncio.Future[PubAck] | None = None
    bridged: bool = False

    @property
    def durable(self) -> bool:
        if not self.payload:
            return self.bridged
        done = self.acknowledged
        return done is not None and done.done() and not done.cancelled() and done.exception() is None


@dataclass(slots=True, eq=False)
class AudioWriter:
    """The way of one session's bytes into the audio log.

    `held_offset` counts what came in, `durable_offset` what the broker has: the difference is in `_gathered` (not yet
    sent) or in `_flights` (sent, not acknowledged), in order.
    """

    session_id: str
    held_offset: int
    durable_offset: int
    on_durable: Callable[[], None]
    on_stall: Callable[[bool], None]
    _marks: deque[tuple[int, int]] = field(default_factory=deque)
    _gathered: list[bytes] = field(default_factory=list)
    _gathered_bytes: int = 0
    _due_at: float | None = None
    _flights: deque[_Flight] = field(default_factory=deque)
    _unsent: list[_Flight] = field(default_factory=list)
    _retry_at: float | None = None
    _retry_s: float = 0.0
    _stalled: bool = False
    closed: bool = False

    @property
    def settled(self) -> bool:
        return self.durable_offset == self.held_offset

    @property
    def pending_bytes(self) -> int:
        """Bytes that came and are not known to be durable; what the client dropped never came."""
        under_way = sum(flight.end_offset - flight.offset for flight in self._flights if flight.payload)
        return self._gathered_bytes + under_way

    def mark(self, offset: int, sequence: int) -> None:
        """Note that the durable message `sequence` starts at `offset`."""
        self._marks.append((offset, sequence))

    def sequence_of(self, offset: int) -> int:
        """Return the sequence from which a reader finds the byte at `offset`, and forget what lies before (0: unknown).

        Calls must come with offsets that do not go down.
        """
        while len(self._marks) > 1 and self._marks[1][0] <= offset:
            self._marks.popleft()
        return self._marks[0][1] if self._marks and self._marks[0][0] <= offset else 0


class AudioLog:
    """Appends the audio of all sessions of this process, coalesced and with a window, and reads it back."""

    def __init__(self, broker: bus.Bus, *, coalesce_s: float, tick_s: float = 0.04) -> None:
        self._bus = broker
        self._coalesce_s = coalesce_s
        self._tick_s = tick_s
        self._busy: set[AudioWriter] = set()

    def writer(
        self, session_id: str, offset: int, on_durable: Callable[[], None], on_stall: Callable[[bool], None]
    ) -> AudioWriter:
        """Return the writer of a session whose log ends at `offset`. Callbacks run on the loop and must not block."""
        return AudioWriter(session_id, offset, offset, on_durable, on_stall)

    def append(self, writer: AudioWriter, data: bytes, *, urgent: bool = False) -> None:
        """Take bytes at `held_offset`; they become durable within the coalescing time (at once if urgent)."""
        now = asyncio.get_running_loop().time()
        if data:
            writer._gathered.append(data)
            writer._gathered_bytes += len(data)
            writer.held_offset += len(data)
        if writer._due_at is None or urgent:
            writer._due_at = now if urgent else now + self._coalesce_s
        if writer._gathered:
            self._busy.add(writer)

    def skip(self, writer: AudioWriter, end_offset: int) -> None:
        """Leave a hole from `held_offset` to `end_offset`; what comes after is not durable before `bridge`."""
        self._gather(writer)
        writer._flights.append(_Flight(writer.held_offset, b"", end_offset))
        writer.held_offset = end_offset
        self._busy.add(writer)

    def bridge(self, writer: AudioWriter, end_offset: int) -> None:
        """The hole that ends at `end_offset` is recorded: the watermark may pass it."""
        for flight in writer._flights:
            if not flight.payload and flight.end_offset == end_offset:
                flight.bridged = True
        self._advance(writer)

    @property
    def pending_bytes(self) -> int:
        """See `AudioWriter`; of all sessions."""
        return sum(writer.pending_bytes for writer in self._busy)

    async def run(self) -> None:
        """Publish what is due, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._tick_s)
            now = loop.time()
            for writer in list(self._busy):
                if writer.closed:
                    self._drop(writer)
                elif writer._retry_at is not None:
                    if now >= writer._retry_at:
                        await self._again(writer)
                elif writer._unsent or (writer._gathered and writer._due_at is not None and now >= writer._due_at):
                    self._gather(writer)
                    unsent, writer._unsent = writer._unsent, []
                    await self._send_all(writer, unsent)
                elif not writer._gathered and not writer._flights:
                    self._busy.discard(writer)

    def _gather(self, writer: AudioWriter) -> None:
        """Make messages of what was gathered."""
        data = b"".join(writer._gathered)
        offset = writer.held_offset - len(data)
        writer._gathered.clear()
        writer._gathered_bytes = 0
        writer._due_at = None
        flights = [
            _Flight(start, audio.pack(start, part), start + len(part))
            for start, part in audio.pieces(data, offset, _MESSAGE_BYTES_MAX)
        ]
        writer._flights += flights
        writer._unsent += flights

    async def _send_all(self, writer: AudioWriter, flights: list[_Flight]) -> None:
        for flight in flights:
            if writer._retry_at is not None:
                return  # what follows a failure waits with it
            await self._send(writer, flight)

    async def _send(self, writer: AudioWriter, flight: _Flight) -> None:
        if self._bus.js.publish_async_pending() >= bus.PENDING_MAX:
            self._failed(writer, "too many appends are not acknowledged")
            return
        try:
            # Below the limit it does not wait, so that all that is due goes to the broker in one write. A deadline of
            # its own (`wait_stall`) would cost a task and a write for each append.
            future = await self._bus.js.publish_async(f"audio.{writer.session_id}", flight.payload)
        except bus.FAULTS as fault:
            self._failed(writer, repr(fault))
            return
        flight.acknowledged = future
        deadline = asyncio.get_running_loop().call_later(PUBLISH_S, future.cancel)

        def settle(done: asyncio.Future[PubAck]) -> None:
            deadline.cancel()
            if writer.closed or flight.acknowledged is not done:
                return
            if done.cancelled():
                self._failed(writer, "no acknowledgement in time")
            elif fault := done.exception():
                self._failed(writer, repr(fault))
            else:
                self._advance(writer)

        future.add_done_callback(settle)

    def _advance(self, writer: AudioWriter) -> None:
        """Move the watermark over every leading message that is acknowledged."""
        flights = writer._flights
        moved = False
        while flights and flights[0].durable:
            flight = flights.popleft()
            writer.durable_offset = flight.end_offset
            if flight.acknowledged is not None:
                writer.mark(flight.offset, flight.acknowledged.result().seq)
                metrics.AUDIO_DURABLE.inc(flight.end_offset - flight.offset)
            moved = True
        if moved:
            writer._retry_s = 0.0
            if writer._stalled:
                writer._stalled = False
                writer.on_stall(False)
            writer.on_durable()

    def _failed(self, writer: AudioWriter, fault: str) -> None:
        """Wait a little, then send everything that is not acknowledged again, in order. A repeat is harmless."""
        if writer._retry_at is not None:
            return
        writer._retry_s = min(max(0.1, writer._retry_s * 2), _RETRY_S_MAX)
        writer._retry_at = asyncio.get_running_loop().time() + writer._retry_s
        metrics.AUDIO_APPEND_FAILURES.inc()
        log.warning("audio append failed", session=writer.session_id, fault=fault)
        if not writer._stalled:
            writer._stalled = True
            writer.on_stall(True)

    async def _again(self, writer: AudioWriter) -> None:
        writer._retry_at = None
        for flight in writer._flights:
            if flight.acknowledged is not None:
                stale, flight.acknowledged = flight.acknowledged, None
                stale.cancel()
        writer._unsent.clear()
        await self._send_all(writer, [flight for flight in writer._flights if flight.payload])

    def _drop(self, writer: AudioWriter) -> None:
        self._busy.discard(writer)
        metrics.AUDIO_DROPPED.inc(writer.pending_bytes)
        for flight in writer._flights:
            if flight.acknowledged is not None:
                flight.acknowledged.cancel()
        writer._flights.clear()
        writer._unsent.clear()
        writer._gathered.clear()
        writer._gathered_bytes = 0

    async def read(self, session_id: str, start_offset: int, sequence: int) -> tuple[bytes, int]:
        """Return the unbroken bytes from `start_offset`, and the sequence from which they were read (0: no audio).

        `sequence` is one at or before which the byte is found (0: look from the beginning).
        """
        subject = f"audio.{session_id}"
        newest = await newest_of(self._bus, "AUDIO", subject)
        if newest is None:
            return b"", 0
        rows = await read_all(self._bus, "AUDIO", subject, min(sequence, newest[0]), newest[0])
        messages = [audio.unpack(data) for _, data in rows]
        return audio.assemble(messages, start_offset), rows[0][0]

    async def follow(self, session_id: str, start_offset: int, sequence: int) -> AsyncGenerator[bytes, None]:
        """Yield the unbroken bytes from `start_offset` piece by piece, to the end of what is in the log.

        `sequence` as for `read`. Ends early where bytes are missing. The caller closes it (`contextlib.aclosing`).
        Raises AppError(UNAVAILABLE).
        """
        subject = f"audio.{session_id}"
        newest = await newest_of(self._bus, "AUDIO", subject)
        if newest is None:
            return
        offset, ahead, fruitless = start_offset, list[tuple[int, bytes]](), 0
        first = min(sequence, newest[0])
        async with aclosing(batches_of(self._bus, "AUDIO", subject, first, newest[0], _FOLLOW_BATCH)) as batches:
            async for batch in batches:
                messages = [*ahead, *(audio.unpack(data) for _, data in batch)]
                data = audio.assemble(messages, offset)
                offset += len(data)
                ahead = [message for message in messages if message[0] + len(message[1]) > offset]
                # Messages that overtook each other lie side by side; a hole that wide is one.
                fruitless = fruitless + 1 if ahead and not data else 0
                if fruitless > _FRUITLESS_MAX:
                    return
                if data:
                    yield data
