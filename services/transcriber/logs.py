"""The two durable logs of a session in JetStream: its audio, and its transcript, which is fenced."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, PubAck
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import bus, telemetry, tracing
from chassis.errors import AppError, Kind
from services.transcriber import audio, metrics

log = telemetry.logger(__name__)

_WRONG_LAST_SEQUENCE = 10071
_READ_BATCH = 500
# About ten seconds of audio: what is read and not wanted is for nothing.
_FOLLOW_BATCH = 50
_FRUITLESS_MAX = 2
_READ_S = 10.0
_PUBLISH_S = 5.0
# One message of the audio log: about four seconds, well below the broker's limit of 1 MiB.
_MESSAGE_BYTES_MAX = 128 * 1024
_RETRY_S_MAX = 2.0


class Fenced(Exception):
    """Another transcriber owns the session now: this one must let it go."""


class Gone(Exception):
    """Somebody has deleted the whole log, of all sessions, and it has begun anew without what was in it."""


def streams(audio_bytes_max: int, transcript_bytes_max: int, age_s_max: float) -> tuple[bus.Stream, bus.Stream]:
    """Return the declarations of both logs, bounded by size (appends fail when full) and age."""
    return (
        bus.Stream("AUDIO", ("audio.*",), max_bytes=audio_bytes_max, max_age_s=age_s_max),
        bus.Stream("TRANSCRIPT", ("transcript.*",), max_bytes=transcript_bytes_max, max_age_s=age_s_max),
    )


class TranscriptLog:
    """Appends entries so that of two writers exactly one wins, and reads them back."""

    def __init__(self, broker: bus.Bus) -> None:
        self._bus = broker

    async def append(self, entry: pb.TranscriptEntry, last_sequence: int) -> int:
        """Append after the message `last_sequence` of the session's subject (0: none); return the new one's sequence.

        Raises Fenced if the log has moved on, Gone if there is another in its place that knows nothing of the session,
        AppError(UNAVAILABLE) if the broker does not answer. To try the same
        entry again after UNAVAILABLE is safe: if the first try did arrive, its sequence is returned.
        """
        subject = f"transcript.{entry.session_id}"
        payload = entry.SerializeToString()
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(last_sequence),
            "x-request-id": telemetry.request_id(),
            **tracing.carried(),
        }
        if not self._bus.client.is_connected:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log="not connected")
        try:
            with tracing.step("append", kind=tracing.SpanKind.PRODUCER, destination="transcript"):
                ack = await self._bus.js.publish(subject, payload, timeout=_PUBLISH_S, headers=headers)
        except nats.js.errors.APIError as fault:
            if fault.err_code != _WRONG_LAST_SEQUENCE:
                raise AppError(Kind.UNAVAILABLE, "The broker refuses.", log=repr(fault)) from fault
            newest = await self._last(subject)
            if newest is not None and newest[1] == payload:
                return newest[0]
            if newest is None and last_sequence and await self._begun_after(last_sequence):
                raise Gone(entry.session_id) from fault
            metrics.FENCED.inc()
            raise Fenced(entry.session_id) from fault
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return ack.seq

    async def read(self, session_id: str) -> list[tuple[int, pb.TranscriptEntry]]:
        """Return (sequence, entry) of the whole log of a session; empty if there is none."""
        subject = f"transcript.{session_id}"
        newest = await self._last(subject)
        if newest is None:
            return []
        messages = await _read(self._bus, "TRANSCRIPT", subject, 0, newest[0])
        return [(sequence, pb.TranscriptEntry.FromString(data)) for sequence, data in messages]

    async def _begun_after(self, sequence: int) -> bool:
        """Tell whether the stream is another than the one that had a message of this sequence: then the session was not
        taken out of it on purpose, with its meeting (`bus.Bus.declare`: a stream's first sequence is its own)."""
        try:
            info = await self._bus.js.stream_info("TRANSCRIPT")
        except nats.js.errors.NotFoundError:
            return True
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return (info.config.first_seq or 0) > sequence or info.state.last_seq < sequence

    async def _last(self, subject: str) -> tuple[int, bytes] | None:
        return await _last(self._bus, "TRANSCRIPT", subject)


async def _last(broker: bus.Bus, stream: str, subject: str) -> tuple[int, bytes] | None:
    # Not the direct variant: only the stream's leader is sure to know the newest message.
    try:
        message = await broker.js.get_last_msg(stream, subject)
    except nats.js.errors.NotFoundError:
        return None
    except bus.FAULTS as fault:
        raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
    return message.seq or 0, message.data or b""


async def _read(broker: bus.Bus, stream: str, subject: str, first: int, last: int) -> list[tuple[int, bytes]]:
    """Return (sequence, data) of a subject's messages with `first` <= sequence <= `last`, which must exist."""
    try:
        async with asyncio.timeout(_READ_S), aclosing(_batches(broker, stream, subject, first, last)) as batches:
            return [row async for batch in batches for row in batch]
    except TimeoutError as fault:
        raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=f"{subject}: {fault!r}") from fault


async def _batches(
    broker: bus.Bus, stream: str, subject: str, first: int, last: int, size: int = _READ_BATCH
) -> AsyncGenerator[list[tuple[int, bytes]], None]:
    """Yield what `_read` returns, as it comes."""
    config = ConsumerConfig(
        filter_subject=subject,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE if first else DeliverPolicy.ALL,
        opt_start_seq=first or None,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=30,
        mem_storage=True,
    )
    try:
        subscription = await broker.js.pull_subscribe(subject, stream=stream, config=config)
        try:
            newest = 0
            while newest < last:
                messages: list[Msg] = await subscription.fetch(size, timeout=2)
                rows = [(message.metadata.sequence.stream, message.data) for message in messages]
                newest = rows[-1][0]
                yield [row for row in rows if row[0] <= last]
        finally:
            await bus.quietly(subscription.unsubscribe())
    except bus.FAULTS as fault:
        raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=f"{subject}: {fault!r}") from fault


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
        deadline = asyncio.get_running_loop().call_later(_PUBLISH_S, future.cancel)

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
        newest = await _last(self._bus, "AUDIO", subject)
        if newest is None:
            return b"", 0
        rows = await _read(self._bus, "AUDIO", subject, min(sequence, newest[0]), newest[0])
        messages = [audio.unpack(data) for _, data in rows]
        return audio.assemble(messages, start_offset), rows[0][0]

    async def follow(self, session_id: str, start_offset: int, sequence: int) -> AsyncGenerator[bytes, None]:
        """Yield the unbroken bytes from `start_offset` piece by piece, to the end of what is in the log.

        `sequence` as for `read`. Ends early where bytes are missing. The caller closes it (`contextlib.aclosing`).
        Raises AppError(UNAVAILABLE).
        """
        subject = f"audio.{session_id}"
        newest = await _last(self._bus, "AUDIO", subject)
        if newest is None:
            return
        offset, ahead, fruitless = start_offset, list[tuple[int, bytes]](), 0
        first = min(sequence, newest[0])
        async with aclosing(_batches(self._bus, "AUDIO", subject, first, newest[0], _FOLLOW_BATCH)) as batches:
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
