"""The receiving side of a session: the client's bytes into the audio log and to be heard, and what is acknowledged."""

from __future__ import annotations

import asyncio
from typing import Any

from verbatim.transcriber.v1 import transcriber_pb2 as relay

from chassis.errors import Kind
from services.transcriber import metrics
from services.transcriber.audio_log import AudioLog
from services.transcriber.backlog import Backlog
from services.transcriber.hearing import Hearing
from services.transcriber.limits import SessionSettings
from services.transcriber.line import ClientLine
from services.transcriber.transcript import Ledger

_ENCODED_SHARE = 2


class Intake:
    """Takes audio at byte offsets: trims what is held, refuses a hole, has a client hold that is too far ahead.

    Taking never waits. Two watermarks lead back to the client: `durable_offset` (on the broker's disk) and what the
    database has stored. `progress` is set when the first moves.
    """

    def __init__(
        self,
        ledger: Ledger,
        audio: AudioLog,
        hearing: Hearing,
        backlog: Backlog,
        line: ClientLine,
        settings: SessionSettings,
        *,
        news: asyncio.Event,
        progress: asyncio.Event,
    ) -> None:
        self.ended = False
        self.stored_offset = 0
        self._stored_pcm_offset = 0
        self._stored_event = 0
        self._stored = asyncio.Event()
        self._ledger = ledger
        self._audio = audio
        self._hearing = hearing
        self._backlog = backlog
        self._line = line
        self._settings = settings
        self._news = news
        self._progress = progress
        self._writer = audio.writer(ledger.session_id, ledger.source_offset, self._on_durable, self._on_stall)

    # -- what the client says ------------------------------------------------------------------------------------

    def receive(self, offset: int, data: bytes) -> bool:
        """Take audio at a byte offset; False if nothing of it is new or it was refused."""
        held, unit = self._writer.held_offset, self._hearing.decoder.unit_bytes
        if self.ended:
            self._line.complain(Kind.CONFLICT, "The session is finishing.")
        elif len(data) % unit or offset % unit:
            self._line.complain(Kind.VALIDATION_FAILED, "PCM audio must come in whole samples of two bytes.")
        elif offset > held:
            message = "Audio is missing before this frame."
            self._line.complain(Kind.CONFLICT, message, code="offset_gap", expected=held)
        elif offset + len(data) <= held:
            metrics.AUDIO_REPEATED.inc(len(data))
            return False
        elif self._accept(data[held - offset :] if offset < held else data):
            if offset < held:
                metrics.AUDIO_REPEATED.inc(held - offset)
            return True
        metrics.AUDIO_REFUSED.inc(len(data))
        return False

    def _accept(self, data: bytes) -> bool:
        unacknowledged = self._writer.held_offset + len(data) - self._writer.durable_offset
        behind = max(unacknowledged, self._hearing.decoder.waiting_bytes)
        if behind > 2 * self.window_bytes or self._hearing.buffered_bytes > self._settings.buffer_bytes_max:
            self._line.complain(Kind.RATE_LIMIT_EXCEEDED, "Audio comes faster than it can be taken.", fatal=True)
            return False
        self._audio.append(self._writer, data)
        self._hearing.feed(data)
        if behind > self.window_bytes:
            self._line.hold("window")
        return True

    def declare_gap(self, start: int, end: int) -> bool:
        """Take note that the client dropped bytes [start, end); False if that is nothing new or was refused."""
        held, unit = self._writer.held_offset, self._hearing.decoder.unit_bytes
        if self.ended:
            self._line.complain(Kind.CONFLICT, "The session is finishing.")
        elif start % unit or end % unit or not start < end < held + self._settings.gap_bytes_max:
            self._line.complain(Kind.VALIDATION_FAILED, "A gap is from one whole sample to a later one.")
        elif start > held:
            message = "Audio is missing before the gap."
            self._line.complain(Kind.CONFLICT, message, code="offset_gap", expected=held)
        elif end > held:
            self._audio.skip(self._writer, end)
            self._hearing.skip(end - held)
            return True
        return False

    def ends_at(self, offset: int) -> bool:
        """Tell whether the client is right that its stream ends here; it is told if not."""
        held = self._writer.held_offset
        if offset > held:
            message = "Audio is missing before the end."
            self._line.complain(Kind.CONFLICT, message, code="offset_gap", expected=held)
        elif offset < held:
            self._line.complain(Kind.VALIDATION_FAILED, "The session holds more audio than that.", expected=held)
        return offset == held

    def end(self) -> None:
        """Take no more audio; make durable and hear all that came."""
        self.ended = True
        self.hasten()
        self._hearing.end()

    # -- what the session asks -----------------------------------------------------------------------------------

    @property
    def held_offset(self) -> int:
        """Where the client goes on."""
        return self._writer.held_offset

    @property
    def durable_offset(self) -> int:
        return self._writer.durable_offset

    @property
    def settled(self) -> bool:
        """Whether every byte that came is durable."""
        return self._writer.settled

    @property
    def heard_durably(self) -> int:
        """The PCM offset below which everything comes from durable bytes."""
        return self._hearing.decoder.heard_below(self._writer.durable_offset)

    @property
    def window_bytes(self) -> int:
        """What the client may send beyond the last ack: encoded audio is smaller for its time."""
        return self._settings.window_bytes // (1 if self._hearing.decoder.instant else _ENCODED_SHARE)

    def resumption(self, pcm_offset: int) -> dict[str, Any]:
        """Return what an entry says of where to read and decode again to hear what comes from `pcm_offset` on."""
        entry_point = self._hearing.decoder.entry_point(pcm_offset)
        source_offset = pcm_offset if entry_point is None else entry_point.encoded_offset
        return {"audio_sequence": self._writer.sequence_of(source_offset), "entry_point": entry_point}

    def bridge(self, end_offset: int) -> None:
        """The hole that ends at `end_offset` is in the transcript log: what comes after it may be durable."""
        self._audio.bridge(self._writer, end_offset)

    def replay(self, data: bytes, sequence: int) -> None:
        """Take the audio that the log holds behind the checkpoint, read from message `sequence` on."""
        self._writer.held_offset += len(data)
        self._writer.durable_offset = self._writer.held_offset
        self._writer.mark(self._ledger.source_offset, sequence)
        self._hearing.feed(data)
        self._hearing.go_on()

    def hasten(self) -> None:
        """Make durable at once what was received."""
        self._audio.append(self._writer, b"", urgent=True)

    def close(self) -> None:
        """Write nothing any more."""
        self._writer.closed = True

    # -- the two watermarks --------------------------------------------------------------------------------------

    def note_stored(self, pcm_offset: int, event: int) -> None:
        """The database holds the segments below `pcm_offset` and the events up to `event`."""
        if event > self._stored_event or pcm_offset > self._stored_pcm_offset:
            self._stored_event = max(event, self._stored_event)
            self._stored_pcm_offset = max(pcm_offset, self._stored_pcm_offset)
            self.stored_offset = max(self._hearing.decoder.source_below(self._stored_pcm_offset), self.stored_offset)
            self._stored.set()
            self.acknowledge()

    async def until_stored(self, event: int) -> None:
        """Wait until the database holds the events up to `event`."""
        while self._stored_event < event:
            self._stored.clear()
            await self._stored.wait()

    def acknowledge(self) -> None:
        """Tell the client both watermarks."""
        self._line.say(ack=relay.Ack(offset=self._writer.durable_offset, stored_offset=self.stored_offset))

    def relax(self) -> None:
        """Let the client go on when it is not far ahead any more."""
        behind = max(self._writer.held_offset - self._writer.durable_offset, self._hearing.decoder.waiting_bytes)
        if behind < self.window_bytes // 2:
            self._line.release("window")

    def _on_durable(self) -> None:
        self.acknowledge()
        self._progress.set()
        self.relax()
        if self.ended or self._backlog:
            self._news.set()

    def _on_stall(self, stalled: bool) -> None:
        if stalled:
            self._line.hold("broker")
        else:
            self._line.release("broker")
