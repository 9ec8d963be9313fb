"""One live session: audio in, acknowledgements and segments out, every step of it in the logs.

Everything that appends to the transcript log happens in one task (`run`), so entries are numbered without locks. The
receiving side (`receive`, `finish`, …) only notes what came and wakes that task: it never waits.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import ids, telemetry
from chassis.errors import AppError, Kind
from services.transcriber import filters, metrics
from services.transcriber.audio import Window
from services.transcriber.captions import Captions
from services.transcriber.cutting import Cutter, CuttingSettings, Utterance
from services.transcriber.decoding import Decoder, Heard, Missing, Refused, Stretch
from services.transcriber.filters import FilterSettings
from services.transcriber.line import Channel, ClientLine
from services.transcriber.logs import AudioLog, Fenced, TranscriptLog
from services.transcriber.opus_decoding import decoder_of
from services.transcriber.pace import Pace
from services.transcriber.partials import Partials
from services.transcriber.recognition import Recogniser, Recognition
from services.transcriber.segments import entry_kind, gap_entry
from services.transcriber.speech import SpeechError
from services.transcriber.transcript import BYTES_PER_SECOND, Ledger, newest, seconds, token_hash

log = telemetry.logger(__name__)

TAKEN_OVER = 4409
_INTERNAL = 1011
_ENCODED_SHARE = 2


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Limits of one session; seconds and bytes."""

    window_bytes: int = 60 * BYTES_PER_SECOND
    buffer_bytes_max: int = 600 * BYTES_PER_SECOND
    backlog_hold_s: float = 60.0
    partial_every_s: float = 1.5
    partial_min_s: float = 0.8
    checkpoint_every_s: float = 30.0
    parallel_utterances: int = 2
    engine_attempts: int = 5
    idle_s: float = 1800.0
    sign_of_life_s: float = 600.0
    gap_bytes_max: int = 24 * 3600 * BYTES_PER_SECOND
    stored_wait_s: float = 3.0
    faults_max: int = 100
    decoding_share: float = 0.1
    decoding_burst_s: float = 2.0
    cutting: CuttingSettings = field(default_factory=CuttingSettings)
    filters: FilterSettings = field(default_factory=FilterSettings)


@dataclass(frozen=True, slots=True)
class Ports:
    """What a session works with; shared by all sessions of the process."""

    transcripts: TranscriptLog
    audio: AudioLog
    recogniser: Recogniser
    announce: Callable[[str, bytes], Awaitable[None]]
    captions: Captions
    replica: str
    clock: Callable[[], float]


@dataclass(slots=True)
class _Work:
    """An utterance on its way to becoming a segment."""

    utterance: Utterance
    pcm: bytes
    segment_id: str
    cut_at: float
    position_byte: int
    task: asyncio.Task[Recognition | None] | None = None
    started_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Hole:
    """Audio that is not there, in its place among the utterances."""

    start_byte: int
    missing: Missing

    @property
    def end_byte(self) -> int:
        return self.start_byte + self.missing.pcm_bytes


@dataclass(slots=True)
class Attach:
    """A client that comes back."""

    channel: Channel
    presented_token: str
    last_event: int
    adopted: bool
    attempt: int = 1


class LiveSession:
    """The owner of one session. It is *live* (takes audio), *finishing* (no more audio, utterances still under way),
    or *over* (closed, fenced off or given up; nothing may be asked of it any more)."""

    def __init__(self, ledger: Ledger, last_sequence: int, ports: Ports, settings: SessionSettings) -> None:
        self.id = ledger.session_id
        self.ledger = ledger
        self.over = False
        self.last_activity_at = ports.clock()
        self._ports = ports
        self._settings = settings
        self._last_sequence = last_sequence
        self._drafts_only = ports.recogniser.primary.quality == "draft"
        self._line = ClientLine(settings.faults_max, self._tell_viewers, drafts_only=self._drafts_only)
        self._window = Window(ledger.accounted_offset, bytearray())
        self._cutter = Cutter(settings.cutting, ledger.accounted_offset)
        self._decoder: Decoder = decoder_of(ledger)
        self._undecoded = asyncio.Event()
        self._decoding: asyncio.Task[None] | None = None
        self._flush_due = False
        self._writer = ports.audio.writer(self.id, ledger.source_offset, self._on_durable, self._on_stall)
        self._work: deque[_Work | _Hole] = deque()
        self._queued_bytes = 0
        self._attaches: deque[Attach] = deque()
        self._wake = asyncio.Event()
        self._stored = asyncio.Event()
        self._progress = asyncio.Event()
        self._stored_offset = 0
        self._stored_pcm_offset = 0
        self._stored_event = 0
        self._finish_reason: pb.CloseReason.ValueType | None = None
        self._finish_offset: int | None = None
        self._paused = False
        self._tasks: asyncio.TaskGroup | None = None
        self._partials = Partials(ports.recogniser, every_s=settings.partial_every_s, min_s=settings.partial_min_s)
        self._partial: asyncio.Task[None] | None = None
        self._last_suppressed = False
        self._leaving = False
        self._appended_at = ports.clock()

    # -- what the client says ------------------------------------------------------------------------------------

    def receive(self, offset: int, data: bytes) -> None:
        """Take audio at a byte offset. Trims what is held, refuses a hole, never waits."""
        held = self._writer.held_offset
        if self._leaving:
            return  # never acknowledged: the client sends it again where it resumes
        if self._finish_reason is not None:
            self._complain(Kind.CONFLICT, "The session is finishing.")
        elif len(data) % self._decoder.unit_bytes or offset % self._decoder.unit_bytes:
            self._complain(Kind.VALIDATION_FAILED, "PCM audio must come in whole samples of two bytes.")
        elif offset > held:
            self._complain(Kind.CONFLICT, "Audio is missing before this frame.", code="offset_gap", expected=held)
        elif offset + len(data) > held:
            self._accept(data[held - offset :] if offset < held else data)

    def _accept(self, data: bytes) -> None:
        unacknowledged = self._writer.held_offset + len(data) - self._writer.durable_offset
        behind = max(unacknowledged, self._decoder.waiting_bytes)
        if behind > 2 * self._window_bytes or self.buffered_bytes > self._settings.buffer_bytes_max:
            self._complain(Kind.RATE_LIMIT_EXCEEDED, "Audio comes faster than it can be taken.", fatal=True)
            return
        self.last_activity_at = self._ports.clock()
        metrics.AUDIO_BYTES.labels("received").inc(len(data))
        self._ports.audio.append(self._writer, data)
        self._hear(data)
        if behind > self._window_bytes:
            self._line.hold("window")

    @property
    def _window_bytes(self) -> int:
        """What the client may send beyond the last ack: encoded audio is smaller for its time."""
        return self._settings.window_bytes // (1 if self._decoder.instant else _ENCODED_SHARE)

    def _hear(self, data: bytes) -> None:
        """Take the next bytes of the stream to be decoded."""
        self._decoder.feed(data)
        self._go_on_decoding()

    def _go_on_decoding(self) -> None:
        if self._decoder.instant:
            self._take(self._decoder.decode())
            self._flush_when_due()
        else:
            self._undecoded.set()

    async def _decode(self) -> None:
        """Decode what came, a slice at a time, so that no session keeps the others waiting."""
        settings, clock = self._settings, self._ports.clock
        pace = Pace(share=settings.decoding_share, burst_s=settings.decoding_burst_s, clock=clock)
        while True:
            await self._undecoded.wait()
            self._undecoded.clear()
            while self._decoder.pending:
                with pace.work():
                    self._take(self._decoder.decode())
                await asyncio.sleep(pace.rest_s())
                while self._work and self.buffered_bytes > settings.buffer_bytes_max // 2:
                    self._progress.clear()
                    await self._progress.wait()
            self._flush_when_due()
            self._relax_window()

    def _take(self, stretches: list[Stretch]) -> None:
        """Let the cutter find utterances in what is heard."""
        for stretch in stretches:
            match stretch:
                case Heard():
                    self._listen(stretch.pcm)
                case Missing():
                    self._pass_over(stretch)
                case Refused():
                    self._complain(Kind.UNSUPPORTED_MEDIA_TYPE, stretch.reason, fatal=True)
                    self.abandon()

    def _listen(self, pcm: bytes) -> None:
        metrics.AUDIO_BYTES.labels("heard").inc(len(pcm))
        self._window.append(pcm)
        if cut := self._cutter.feed(pcm):
            self._enqueue(cut)
        elif not self._work and self._cutter.silent_until_byte - self.ledger.accounted_offset > (
            self._settings.checkpoint_every_s * BYTES_PER_SECOND
        ):
            self._wake.set()
        self._forget()

    def _forget(self) -> None:
        """Free the audio that no later utterance can want."""
        context_bytes = self._settings.cutting.context_ms * BYTES_PER_SECOND // 1000
        self._window.forget_below(self._cutter.silent_until_byte - context_bytes)

    def _pass_over(self, missing: Missing) -> None:
        """Go on behind audio that is not there."""
        self._enqueue(self._cutter.flush())
        hole = _Hole(self._cutter.position_byte, missing)
        self._work.append(hole)
        self._window = Window(hole.end_byte, bytearray())
        self._cutter = Cutter(self._settings.cutting, hole.end_byte)
        metrics.AUDIO_BYTES.labels("gap").inc(missing.pcm_bytes)
        if missing.reason == pb.GAP_REASON_UNDECODABLE:
            self._complain(Kind.UNSUPPORTED_MEDIA_TYPE, "A part of the audio could not be decoded: see the gap.")
        self._wake.set()

    def _flush(self) -> None:
        """End the utterance that is being spoken, once all that came is decoded."""
        self._flush_due = True
        self._go_on_decoding()

    def _flush_when_due(self) -> None:
        if self._flush_due:
            self._flush_due = False
            self._enqueue(self._cutter.flush())

    def _enqueue(self, cut: list[Utterance]) -> None:
        now = self._ports.clock()
        for utterance in cut:
            segment_id = ids.derived_id(self.id, "segment", utterance.start_byte)
            pcm = self._window.slice(utterance.context_start_byte, utterance.end_byte)
            self._work.append(_Work(utterance, pcm, segment_id, now, self._cutter.position_byte))
            self._queued_bytes += len(pcm)
        self._forget()
        if self._backlog_s() > self._settings.backlog_hold_s:
            self._line.hold("backlog")
        self._wake.set()

    def _backlog_s(self) -> float:
        return seconds(self._queued_bytes)

    def declare_gap(self, start: int, end: int) -> None:
        """Take note that the client dropped bytes [start, end): recorded in the transcript, never silent."""
        held, unit = self._writer.held_offset, self._decoder.unit_bytes
        if self._finish_reason is not None:
            self._complain(Kind.CONFLICT, "The session is finishing.")
        elif start % unit or end % unit or not start < end < held + self._settings.gap_bytes_max:
            self._complain(Kind.VALIDATION_FAILED, "A gap is from one whole sample to a later one.")
        elif start > held:
            self._complain(Kind.CONFLICT, "Audio is missing before the gap.", code="offset_gap", expected=held)
        elif end > held:
            self.last_activity_at = self._ports.clock()
            self._ports.audio.skip(self._writer, end)
            self._decoder.skip(end - held)
            self._go_on_decoding()

    def finalize(self) -> None:
        """End the utterance that is being spoken."""
        self.last_activity_at = self._ports.clock()
        self._flush()

    def pause(self, paused: bool) -> None:
        """Hold the idle timer: silence on purpose."""
        self._paused = paused
        self.last_activity_at = self._ports.clock()

    def finish(self, offset: int | None) -> None:
        """Take no more audio; close when all of it is transcribed."""
        held = self._writer.held_offset
        if offset is not None and offset > held:
            self._complain(Kind.CONFLICT, "Audio is missing before the end.", code="offset_gap", expected=held)
            return
        if offset is not None and offset < held:
            self._complain(Kind.VALIDATION_FAILED, "The session holds more audio than that.", expected=held)
            return
        self._begin_finish(pb.CLOSE_REASON_FINISHED)

    def abandon(self) -> None:
        """Close the session as idle: its client will not come back."""
        self._begin_finish(pb.CLOSE_REASON_IDLE)

    def _begin_finish(self, reason: pb.CloseReason.ValueType) -> None:
        if self._finish_reason is None:
            self._finish_reason = reason
            self._finish_offset = self._writer.held_offset
            self._ports.audio.append(self._writer, b"", urgent=True)
            self._decoder.end()
            self._flush()

    def attach(self, guest: Attach) -> None:
        """Give the session to a client that came back. The one before, if any, is told that it was taken over."""
        self._attaches.append(guest)
        self.last_activity_at = self._ports.clock()
        self._wake.set()

    def detach(self, channel: Channel) -> None:
        """The client's socket is gone; the session goes on."""
        if self._line.channel is channel:
            self._line.channel = None

    def strand(self) -> list[Attach]:
        """Return the clients that came back but could not be welcomed before the session was over here."""
        late = list(self._attaches)
        self._attaches.clear()
        return late

    @property
    def buffered_bytes(self) -> int:
        """PCM that waits to be cut or recognised; what waits to be decoded is bounded by the window."""
        return len(self._window.data) + self._queued_bytes

    @property
    def attached(self) -> bool:
        return self._line.channel is not None

    def may_resume(self, owner_id: str, token: str) -> bool:
        """Tell whether the account and the token are those of this session."""
        offered = token_hash(token)
        known = any(secrets.compare_digest(offered, kept) for kept in self.ledger.resume_hashes)
        return known and secrets.compare_digest(owner_id, self.ledger.opened.owner_id)

    # -- what others say -----------------------------------------------------------------------------------------

    def note_stored(self, end_offset: int, event: int) -> None:
        """The database holds the segments below `end_offset` and the events up to `event`."""
        if event > self._stored_event or end_offset > self._stored_pcm_offset:
            self._stored_event = max(event, self._stored_event)
            self._stored_pcm_offset = max(end_offset, self._stored_pcm_offset)
            self._stored_offset = max(self._decoder.source_below(self._stored_pcm_offset), self._stored_offset)
            self._stored.set()
            self._acknowledge()

    def replay(self, data: bytes, sequence: int) -> None:
        """Take the audio that the log holds behind the checkpoint, read from message `sequence` on: an adoption."""
        self._writer.held_offset += len(data)
        self._writer.durable_offset = self._writer.held_offset
        self._writer.mark(self.ledger.source_offset, sequence)
        self._hear(data)

    def step_down(self) -> None:
        """Another transcriber owns the session: tell the client, touch nothing any more."""
        self._leave_client(Kind.CONFLICT, "Another connection has taken the session over.", TAKEN_OVER)
        self._end()

    def let_go(self, close_code: int, message: str) -> None:
        """End the client's connection; the session stays in the logs for any transcriber to adopt."""
        self._leave_client(Kind.UNAVAILABLE, message, close_code)
        self._end()

    async def until_quiet(self) -> None:
        """Wait until every utterance that was cut is committed and every byte durable."""
        while not self.over and (self._work or not self._writer.settled or self._finish_reason is not None):
            self._progress.clear()
            await self._progress.wait()

    def hasten(self) -> None:
        """Take no more audio, and make durable what was received."""
        self._leaving = True
        self._ports.audio.append(self._writer, b"", urgent=True)

    def tick(self, now: float) -> None:
        """Do what time asks for: a partial text, the end of an idle session."""
        idle_s = self._settings.idle_s * (4 if self._paused else 1)
        if self._finish_reason is None and now - self.last_activity_at > idle_s:
            self.abandon()
        if self.attached and now - self._appended_at > self._settings.sign_of_life_s:
            self._wake.set()
        start_byte = self._cutter.open_start_byte
        if start_byte is None or self._line.channel is None or self._work or not self.ledger.opened.interim:
            return
        if self._tasks is not None and self._partials.due(now, self._cutter.position_byte - start_byte):
            self._partial = self._tasks.create_task(self._make_partial(start_byte))

    # -- the one task that appends -------------------------------------------------------------------------------

    async def open(self, opened: pb.Opened, channel: Channel) -> None:
        """Write the first entry and greet the client. Raises AppError, Fenced if the session exists."""
        token = secrets.token_urlsafe(32)
        opened.resume_token_hash = token_hash(token)
        entry = self.ledger.draft(self._ports.replica, opened=opened)
        self._last_sequence = await self._ports.transcripts.append(entry, 0)
        self.ledger.apply(entry)
        self._decoder = decoder_of(self.ledger)
        self._line.channel = channel
        self._line.say(
            started=relay.Started(
                session_id=self.id,
                meeting_id=opened.meeting_id,
                resume_token=token,
                event=entry.event,
                window_bytes=self._window_bytes,
                resume_window_s=self._settings.idle_s,
                engine=self._ports.recogniser.primary.name,
                settings=opened,
            )
        )
        if self._drafts_only:
            self._line.tell_state()

    async def run(self) -> None:
        """Own the session until it is over. An `open` or `attach` comes before."""
        with telemetry.bound(ids.new_request_id(), session=self.id):
            try:
                async with asyncio.TaskGroup() as self._tasks:
                    if not self._decoder.instant:
                        self._decoding = self._tasks.create_task(self._decode())
                    while not self.over:
                        await self._step()
                        if not self.over:
                            await self._wake.wait()
                            self._wake.clear()
                    for work in self._work:
                        if isinstance(work, _Work) and work.task is not None:
                            work.task.cancel()
                    for task in (self._partial, self._decoding):
                        if task is not None:
                            task.cancel()
            except* Fenced:
                log.info("fenced")
                self.step_down()
            except* Exception:
                # Before the line is cut: a client that nobody tells would go on talking to nobody.
                self.let_go(_INTERNAL, "Something went wrong on our side.")
                raise
            finally:
                self._end()

    async def _step(self) -> None:
        while self._attaches and not self.over:
            # Taken off only when welcomed: if the append is fenced, the client must be served from the logs.
            await self._welcome(self._attaches[0])
            self._attaches.popleft()
        self._start_recognitions()
        while not self.over and self._work and self._committable(self._work[0]):
            await self._commit(self._work[0])
            done = self._work.popleft()
            self._queued_bytes -= len(done.pcm) if isinstance(done, _Work) else 0
            self._progress.set()
            self._start_recognitions()
        if self._line.holds("backlog") and self._backlog_s() < self._settings.backlog_hold_s / 2:
            self._line.release("backlog")
        if not self._work:
            if self._finish_reason is not None and not self._flush_due:
                await self._close()
            elif self._finish_reason is None:
                await self._checkpoint()

    def _committable(self, work: _Work | _Hole) -> bool:
        if isinstance(work, _Hole):
            return work.missing.durable_with <= self._writer.durable_offset
        done = work.task is not None and work.task.done()
        return done and work.utterance.end_byte <= self._decoder.heard_below(self._writer.durable_offset)

    def _start_recognitions(self) -> None:
        """Keep a few utterances under way; they are committed in order."""
        assert self._tasks is not None
        for work in list(self._work)[: self._settings.parallel_utterances]:
            if isinstance(work, _Work) and work.task is None:
                work.started_at = self._ports.clock()
                work.task = self._tasks.create_task(self._recognise(work.utterance, work.pcm))
                work.task.add_done_callback(lambda _: self._wake.set())

    async def _recognise(self, utterance: Utterance, pcm: bytes) -> Recognition | None:
        """Ask the engines until one answers; None when the audio cannot be recognised."""
        opened = self.ledger.opened
        prompt = filters.next_prompt(
            [*opened.vocabulary, opened.prompt],
            self.ledger.tail,
            silence_s=seconds(max(0, utterance.start_byte - self.ledger.tail_end_offset)),
            suppressed=self._last_suppressed,
        )
        pause_s = 0.5
        for _ in range(self._settings.engine_attempts):
            try:
                return await self._ports.recogniser.final(pcm, language=opened.language or None, prompt=prompt)
            except SpeechError as fault:
                log.warning("utterance failed", reason=fault.reason)
                if not fault.retryable:
                    break
                await asyncio.sleep(pause_s)
                pause_s *= 2
        return None

    async def _commit(self, work: _Work | _Hole) -> None:
        if isinstance(work, _Hole):
            entry_point = self._decoder.entry_point(work.end_byte)
            await self._append(gap=gap_entry(work.start_byte, work.end_byte, work.missing.reason, entry_point))
            self._ports.audio.bridge(self._writer, work.missing.source_end)
            return
        assert work.task is not None
        recognition = work.task.result()
        utterance = work.utterance
        kind = entry_kind(
            self.ledger,
            utterance,
            work.segment_id,
            recognition,
            pcm=work.pcm[utterance.start_byte - utterance.context_start_byte :],
            resumption=self._resumption(utterance.end_byte),
            settings=self._settings.filters,
        )
        entry = await self._append(**kind)
        self._last_suppressed = entry.WhichOneof("kind") == "suppressed"
        if recognition is not None:
            self._observe(work, recognition, entry)

    def _observe(self, work: _Work, recognition: Recognition, entry: pb.TranscriptEntry) -> None:
        now = self._ports.clock()
        metrics.AUDIO_BYTES.labels("transcribed").inc(work.utterance.end_byte - work.utterance.start_byte)
        if entry.WhichOneof("kind") == "suppressed":
            metrics.SUPPRESSED.labels(entry.suppressed.reason).inc()
            return
        metrics.SEGMENTS.labels(recognition.engine, recognition.quality).inc()
        endpoint_s = seconds(work.position_byte - work.utterance.end_byte)
        metrics.SEGMENT_LATENCY.observe(now - work.cut_at + endpoint_s)
        waited_s = work.started_at - work.cut_at
        metrics.SEGMENT_OVERHEAD.observe(max(0.0, now - work.cut_at - recognition.engine_s - waited_s))

    async def _append(self, **kind: object) -> pb.TranscriptEntry:
        """Append one entry, however long the broker is away, and show it to the client. Raises Fenced."""
        entry = self.ledger.draft(self._ports.replica, **kind)
        pause_s = 0.1
        while True:
            try:
                self._last_sequence = await self._ports.transcripts.append(entry, self._last_sequence)
                break
            except AppError as fault:
                log.warning("transcript append failed", fault=str(fault))
                self._line.hold("broker")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 2.0)
        self._line.release("broker")
        self._appended_at = self._ports.clock()
        self.ledger.apply(entry)
        if entry.WhichOneof("kind") in {"segment", "gap"}:
            self._line.say(entry=entry)
        return entry

    def _resumption(self, pcm_offset: int) -> dict[str, Any]:
        """Return what an entry says of where to read and decode again to hear what comes from `pcm_offset` on."""
        entry_point = self._decoder.entry_point(pcm_offset)
        source_offset = pcm_offset if entry_point is None else entry_point.encoded_offset
        return {"audio_sequence": self._writer.sequence_of(source_offset), "entry_point": entry_point}

    async def _checkpoint(self) -> None:
        """Account for long silence, so that a restart does not replay it; show that the session has an owner."""
        durable = self._decoder.heard_below(self._writer.durable_offset)
        silent_until = max(min(self._cutter.silent_until_byte, durable), self.ledger.accounted_offset)
        silent_bytes = silent_until - self.ledger.accounted_offset
        quiet_s = self._ports.clock() - self._appended_at
        if silent_bytes > self._settings.checkpoint_every_s * BYTES_PER_SECOND or (
            self.attached and quiet_s > self._settings.sign_of_life_s
        ):
            await self._append(checkpoint=pb.Checkpoint(end_offset=silent_until, **self._resumption(silent_until)))

    async def _close(self) -> None:
        """Write the accounts when every byte is durable, and tell them when they are stored."""
        assert self._finish_reason is not None and self._finish_offset is not None
        if self._writer.durable_offset < self._finish_offset:
            return
        if self.ledger.closed is None:
            heard = self._cutter.position_byte
            await self._append(closed=self.ledger.accounts(self._finish_reason, self._finish_offset, heard))
        try:
            async with asyncio.timeout(self._settings.stored_wait_s):
                while self._stored_event < self.ledger.event:
                    self._stored.clear()
                    await self._stored.wait()
        except TimeoutError:
            log.info("finished before it was stored")
        self._say_finished()
        self._end()

    def _say_finished(self) -> None:
        self._line.say(
            finished=relay.Finished(
                event=self.ledger.event, meeting_id=self.ledger.opened.meeting_id, accounts=self.ledger.closed
            )
        )

    async def _welcome(self, guest: Attach) -> None:
        """Record who owns the session now, end the connection before, and bring the client up to date."""
        missed = await self._missed(guest.last_event)
        token = secrets.token_urlsafe(32)
        if self.ledger.closed is None:
            await self._append(
                resumed=pb.Resumed(
                    resume_token_hash=token_hash(token),
                    presented_token_hash=token_hash(guest.presented_token),
                    adopted=guest.adopted,
                )
            )
        if self._line.channel is not None and self._line.channel is not guest.channel:
            self._leave_client(Kind.CONFLICT, "Another connection has taken the session over.", TAKEN_OVER)
        self._line.channel = guest.channel
        self._line.say(
            restored=relay.Restored(
                session_id=self.id,
                meeting_id=self.ledger.opened.meeting_id,
                resume_token=token if self.ledger.closed is None else guest.presented_token,
                event=self.ledger.event,
                offset=self._writer.held_offset,
                stored_offset=self._stored_offset,
                window_bytes=self._window_bytes,
                resume_window_s=self._settings.idle_s,
                entries=missed,
                settings=self.ledger.opened,
            )
        )
        if self.ledger.closed is not None:
            self._say_finished()
            self._end()
            return
        self._acknowledge()
        self._line.tell_state(seconds(self._cutter.position_byte - self.ledger.accounted_offset))

    async def _missed(self, last_event: int) -> list[pb.TranscriptEntry]:
        rows = self.ledger.since(last_event)
        if rows is not None:
            return newest(rows)
        history = await self._ports.transcripts.read(self.id)
        return newest(entry for _, entry in history if entry.event > last_event)

    async def _make_partial(self, start_byte: int) -> None:
        opened = self.ledger.opened
        partial = await self._partials.make(
            self._window.slice(start_byte, self._cutter.position_byte),
            start_byte,
            ids.derived_id(self.id, "segment", start_byte),
            self.ledger.next_index + len(self._work),
            now=self._ports.clock(),
            language=opened.language or None,
            prompt=opened.prompt,
        )
        # If the utterance has ended meanwhile, its segment is on the way.
        if partial is not None and self._cutter.open_start_byte == start_byte:
            metrics.PARTIALS.inc()
            self._line.say(partial=partial)
            self._ports.captions.say(self.id, opened, self._line.status(), partial)

    # -- what the client is told ---------------------------------------------------------------------------------

    def _tell_viewers(self, status: relay.Status) -> None:
        self._ports.captions.say(self.id, self.ledger.opened, status)

    def _acknowledge(self) -> None:
        self._line.say(ack=relay.Ack(offset=self._writer.durable_offset, stored_offset=self._stored_offset))

    def _on_durable(self) -> None:
        self._acknowledge()
        self._progress.set()
        self._relax_window()
        if self._finish_reason is not None or self._work:
            self._wake.set()

    def _relax_window(self) -> None:
        behind = max(self._writer.held_offset - self._writer.durable_offset, self._decoder.waiting_bytes)
        if behind < self._window_bytes // 2:
            self._line.release("window")

    def _on_stall(self, stalled: bool) -> None:
        if stalled:
            self._line.hold("broker")
        else:
            self._line.release("broker")

    def _complain(
        self, kind: Kind, message: str, *, code: str = "", expected: int | None = None, fatal: bool = False
    ) -> None:
        event = self.ledger.event
        self._line.complain(kind, message, event=event, code=code, expected=expected, fatal=fatal)

    def _leave_client(self, kind: Kind, message: str, close_code: int) -> None:
        self._line.problem(kind, message, event=self.ledger.event, close_code=close_code)

    def _end(self) -> None:
        self.over = True
        self._writer.closed = True
        self._line.channel = None
        self._progress.set()
        self._wake.set()
