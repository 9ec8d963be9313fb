"""From the bytes of a session to its utterances: decode, keep a window of audio, cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis.errors import Kind
from services.transcriber import metrics
from services.transcriber.audio import Window
from services.transcriber.backlog import Backlog, Hole
from services.transcriber.cutting import Cutter, Utterance
from services.transcriber.decoding import Decoder, Heard, Missing, Refused, Stretch
from services.transcriber.ears import Ears
from services.transcriber.limits import SessionSettings
from services.transcriber.line import ClientLine
from services.transcriber.opus_decoding import decoder_of
from services.transcriber.pace import Pace
from services.transcriber.transcript import BYTES_PER_SECOND, Ledger


class Hearing:
    """Finds the utterances in what comes in, and puts them into the backlog. Offsets are explained in `decoding.py`.

    PCM is heard a moment after it came, with that of other sessions; what costs time to decode waits for `run`.
    `on_decoded` is called when less waits, `on_refused` when the bytes are not what the client said. What goes wrong
    while hearing is kept in `fault`, for the session's own task to raise: it must not harm others.
    """

    def __init__(
        self,
        ledger: Ledger,
        backlog: Backlog,
        line: ClientLine,
        settings: SessionSettings,
        ears: Ears,
        *,
        clock: Callable[[], float],
        on_decoded: Callable[[], None],
        on_refused: Callable[[], None],
    ) -> None:
        self.decoder: Decoder = decoder_of(ledger)
        self.cutter = Cutter(settings.cutting, ledger.accounted_offset)
        self.flush_due = False
        self.fault: Exception | None = None
        self._ears = ears
        self._waiting = False
        self._closed = False
        self._known_byte = ledger.accounted_offset
        self._ledger = ledger
        self._backlog = backlog
        self._line = line
        self._settings = settings
        self._clock = clock
        self._on_decoded = on_decoded
        self._on_refused = on_refused
        self._window = Window(ledger.accounted_offset)
        self._undecoded = asyncio.Event()

    def begin(self) -> None:
        """Get ready for the encoding that the ledger names now."""
        self.decoder = decoder_of(self._ledger)

    @property
    def buffered_bytes(self) -> int:
        """PCM that waits to be cut or recognised; what waits to be decoded is bounded by the client's window."""
        return self._window.size + self._backlog.queued_bytes

    @property
    def pending_bytes(self) -> int:
        """PCM that was heard, of which is not known that it is silence and which is not in the transcript."""
        if self._closed:
            return 0
        return self.cutter.position_byte - self._known_byte + self._backlog.uncommitted_bytes

    def note_silence(self, until_byte: int) -> None:
        """Nothing was said between the last utterance and `until_byte`."""
        if until_byte > self._known_byte:
            metrics.AUDIO_SILENCE.inc(until_byte - self._known_byte)
            self._known_byte = until_byte

    def close(self) -> None:
        """Hear nothing any more. What is not in the transcript is for whoever takes the session from the logs."""
        metrics.AUDIO_HANDED_OVER.inc(self.pending_bytes)
        self._closed = True

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self.decoder.feed(data)
        if not self.decoder.instant:
            self._undecoded.set()
        elif not self._waiting:
            self._waiting = True
            self._ears.soon(self._hear)

    def skip(self, size: int) -> None:
        """Take note that the client dropped the next bytes."""
        self.decoder.skip(size)
        self.go_on()

    def flush(self) -> None:
        """End the utterance that is being spoken, once all that came is decoded."""
        self.flush_due = True
        self.go_on()

    def end(self) -> None:
        """Hear what is left: no more bytes come."""
        self.decoder.end()
        self.flush()

    def spoken_since(self, start_byte: int) -> bytes:
        """Return the audio from an offset in the utterance that is being spoken to the end of what was heard."""
        return self._window.slice(start_byte, self.cutter.position_byte)

    async def run(self) -> None:
        """Decode what came, a slice at a time, so that no session keeps the others waiting; for ever."""
        settings = self._settings
        pace = Pace(share=settings.decoding_share, burst_s=settings.decoding_burst_s, clock=self._clock)
        while True:
            await self._undecoded.wait()
            self._undecoded.clear()
            while self.decoder.pending:
                with pace.work():
                    self._take(self.decoder.decode())
                await asyncio.sleep(pace.rest_s())
                while self._backlog and self.buffered_bytes > settings.buffer_bytes_max // 2:
                    await self._backlog.until_shrunk()
            self._flush_when_due()
            self._on_decoded()

    def go_on(self) -> None:
        """Hear now what came, if hearing takes no time."""
        if self.decoder.instant:
            self._hear()
        else:
            self._undecoded.set()

    def _hear(self) -> None:
        self._waiting = False
        if self._closed:
            return
        try:
            self._take(self.decoder.decode())
            self._flush_when_due()
        except Exception as fault:  # noqa: BLE001 - raised again by the session's own task
            self.fault = fault
            self._backlog.nudge()

    def _take(self, stretches: list[Stretch]) -> None:
        """Let the cutter find utterances in what is heard."""
        for stretch in stretches:
            match stretch:
                case Heard():
                    self._listen(stretch.pcm)
                case Missing():
                    self._pass_over(stretch)
                case Refused():
                    self._line.complain(Kind.UNSUPPORTED_MEDIA_TYPE, stretch.reason, fatal=True)
                    self._on_refused()

    def _listen(self, pcm: bytes) -> None:
        metrics.AUDIO_HEARD.inc(len(pcm))
        self._window.append(pcm)
        if cut := self.cutter.feed(pcm):
            self._enqueue(cut)
        elif not self._backlog and self.cutter.silent_until_byte - self._ledger.accounted_offset > (
            self._settings.checkpoint_every_s * BYTES_PER_SECOND
        ):
            self._backlog.nudge()
        self._forget()

    def _forget(self) -> None:
        """Free the audio that no later utterance can want."""
        context_bytes = self._settings.cutting.context_ms * BYTES_PER_SECOND // 1000
        self._window.forget_below(self.cutter.silent_until_byte - context_bytes)

    def _pass_over(self, missing: Missing) -> None:
        """Go on behind audio that is not there."""
        self._enqueue(self.cutter.flush())
        self.note_silence(self.cutter.position_byte)
        hole = Hole(self.cutter.position_byte, missing)
        self._known_byte = hole.end_byte
        self._backlog.add_hole(hole)
        self._window = Window(hole.end_byte)
        self.cutter = Cutter(self._settings.cutting, hole.end_byte)
        metrics.AUDIO_BYTES.labels("gap").inc(missing.pcm_bytes)
        if missing.reason == pb.GAP_REASON_UNDECODABLE:
            message = "A part of the audio could not be decoded: see the gap."
            self._line.complain(Kind.UNSUPPORTED_MEDIA_TYPE, message)

    def _flush_when_due(self) -> None:
        if self.flush_due:
            self.flush_due = False
            self._enqueue(self.cutter.flush())

    def _enqueue(self, cut: list[Utterance]) -> None:
        for utterance in cut:
            pcm = self._window.slice(utterance.context_start_byte, utterance.end_byte)
            self.note_silence(utterance.start_byte)
            self._known_byte = utterance.end_byte
            self._backlog.add(utterance, pcm, self.cutter.position_byte)
        self._forget()
        self._backlog.nudge()
