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
from typing import Protocol

from chassis import ids, telemetry
from chassis.errors import TABLE, AppError, Kind
from services.transcriber import filters, metrics
from services.transcriber.audio import Window
from services.transcriber.cutting import Cutter, CuttingSettings, Utterance
from services.transcriber.logs import AudioLog, Fenced, TranscriptLog
from services.transcriber.recognition import Recogniser, Recognition
from services.transcriber.speech import SpeechError, Transcription
from services.transcriber.transcript import BYTES_PER_SECOND, Ledger, newest, seconds, token_hash
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

log = telemetry.logger(__name__)

SAMPLE_BYTES = 2
TAKEN_OVER = 4409


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
    stored_wait_s: float = 3.0
    faults_max: int = 100
    cutting: CuttingSettings = field(default_factory=CuttingSettings)


class Channel(Protocol):
    """Where a session's events go: the client, through a gateway. Sending never waits and never fails."""

    def send(self, event: relay.ServerEvent) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What a session works with; shared by all sessions of the process."""

    transcripts: TranscriptLog
    audio: AudioLog
    recogniser: Recogniser
    announce: Callable[[str, bytes], Awaitable[None]]
    replica: str
    clock: Callable[[], float]


@dataclass(slots=True)
class _Work:
    """An utterance on its way to becoming a segment."""

    utterance: Utterance
    segment_id: str
    cut_at: float
    position_byte: int
    task: asyncio.Task[Recognition] | None = None
    started_at: float = 0.0


@dataclass(slots=True)
class _Attach:
    """A client that comes back."""

    channel: Channel
    presented_token: str
    last_event: int
    adopted: bool


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
        self._channel: Channel | None = None
        self._window = Window(ledger.accounted_offset, bytearray())
        self._cutter = Cutter(settings.cutting, ledger.accounted_offset)
        self._writer = ports.audio.writer(self.id, ledger.accounted_offset, self._on_durable, self._on_stall)
        self._work: deque[_Work] = deque()
        self._attaches: deque[_Attach] = deque()
        self._wake = asyncio.Event()
        self._stored = asyncio.Event()
        self._progress = asyncio.Event()
        self._stored_offset = 0
        self._stored_event = 0
        self._finish_reason: pb.CloseReason | None = None
        self._finish_offset: int | None = None
        self._holds: set[str] = set()
        self._state: tuple[relay.State, str] = (relay.STATE_OK, "")
        self._paused = False
        self._faults = 0
        self._tasks: asyncio.TaskGroup | None = None
        self._partial: asyncio.Task[None] | None = None
        self._partial_at = 0.0
        self._partial_text = ("", "")
        self._previous_forced = False

    # -- what the client says ------------------------------------------------------------------------------------

    def receive(self, offset: int, data: bytes) -> None:
        """Take audio at a byte offset. Trims what is held, refuses a hole, never waits."""
        held = self._writer.held_offset
        if self._finish_reason is not None:
            self._complain(Kind.CONFLICT, "The session is finishing.")
        elif len(data) % SAMPLE_BYTES or offset % SAMPLE_BYTES:
            self._complain(Kind.VALIDATION_FAILED, "PCM audio must come in whole samples of two bytes.")
        elif offset > held:
            self._complain(Kind.CONFLICT, "Audio is missing before this frame.", code="offset_gap", expected=held)
        elif offset + len(data) > held:
            self._accept(data[held - offset :] if offset < held else data)

    def _accept(self, data: bytes) -> None:
        unacknowledged = self._writer.held_offset + len(data) - self._writer.durable_offset
        if unacknowledged > 2 * self._settings.window_bytes or len(self._window.data) > self._settings.buffer_bytes_max:
            self._complain(Kind.RATE_LIMIT_EXCEEDED, "Audio comes faster than it can be taken.", fatal=True)
            return
        self.last_activity_at = self._ports.clock()
        metrics.AUDIO_BYTES.labels("received").inc(len(data))
        self._ports.audio.append(self._writer, data)
        self._hear(data)
        if unacknowledged > self._settings.window_bytes:
            self._hold("window")

    def _hear(self, data: bytes) -> None:
        """Let the cutter find utterances in the next bytes."""
        self._window.append(data)
        if cut := self._cutter.feed(data):
            self._enqueue(cut)
        elif not self._work and self._cutter.silent_until_byte - self.ledger.accounted_offset > (
            self._settings.checkpoint_every_s * BYTES_PER_SECOND
        ):
            self._wake.set()

    def _enqueue(self, cut: list[Utterance]) -> None:
        now = self._ports.clock()
        for utterance in cut:
            segment_id = ids.derived_id(self.id, "segment", utterance.start_byte)
            self._work.append(_Work(utterance, segment_id, now, self._cutter.position_byte))
        if self._backlog_s() > self._settings.backlog_hold_s:
            self._hold("backlog")
        self._wake.set()

    def _backlog_s(self) -> float:
        return sum(seconds(work.utterance.end_byte - work.utterance.start_byte) for work in self._work)

    def finalize(self) -> None:
        """End the utterance that is being spoken."""
        self.last_activity_at = self._ports.clock()
        self._enqueue(self._cutter.flush())

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

    def _begin_finish(self, reason: pb.CloseReason) -> None:
        if self._finish_reason is None:
            self._finish_reason = reason
            self._finish_offset = self._writer.held_offset
            self._ports.audio.append(self._writer, b"", urgent=True)
            self._enqueue(self._cutter.flush())

    def attach(self, channel: Channel, presented_token: str, last_event: int, *, adopted: bool) -> None:
        """Give the session to a client that came back. The one before, if any, is told that it was taken over."""
        self._attaches.append(_Attach(channel, presented_token, last_event, adopted))
        self.last_activity_at = self._ports.clock()
        self._wake.set()

    def detach(self, channel: Channel) -> None:
        """The client's socket is gone; the session goes on."""
        if self._channel is channel:
            self._channel = None

    def strand(self) -> list[tuple[Channel, str, int]]:
        """Return the clients that came back too late to be welcomed: (channel, token, last event)."""
        late = [(guest.channel, guest.presented_token, guest.last_event) for guest in self._attaches]
        self._attaches.clear()
        return late

    @property
    def buffered_bytes(self) -> int:
        return len(self._window.data)

    @property
    def attached(self) -> bool:
        return self._channel is not None

    def may_resume(self, owner_id: str, token: str) -> bool:
        """Tell whether the account and the token are those of this session."""
        offered = token_hash(token)
        known = any(secrets.compare_digest(offered, kept) for kept in self.ledger.resume_hashes)
        return known and secrets.compare_digest(owner_id, self.ledger.opened.owner_id)

    # -- what others say -----------------------------------------------------------------------------------------

    def note_stored(self, end_offset: int, event: int) -> None:
        """The database holds the segments below `end_offset` and the events up to `event`."""
        if event > self._stored_event or end_offset > self._stored_offset:
            self._stored_event = max(event, self._stored_event)
            self._stored_offset = max(end_offset, self._stored_offset)
            self._stored.set()
            self._acknowledge()

    def replay(self, data: bytes, sequence: int) -> None:
        """Take the audio that the log holds behind the checkpoint, when the session was adopted."""
        self._writer.held_offset += len(data)
        self._writer.durable_offset = self._writer.held_offset
        self._writer.sequence = sequence
        self._hear(data)

    def step_down(self) -> None:
        """Another transcriber owns the session: tell the client, touch nothing any more."""
        self._problem(Kind.CONFLICT, "Another connection has taken the session over.", close_code=TAKEN_OVER)
        self._end()

    def let_go(self, close_code: int, message: str) -> None:
        """End the client's connection; the session stays in the logs for any transcriber to adopt."""
        self._problem(Kind.UNAVAILABLE, message, close_code=close_code)
        self._end()

    async def until_quiet(self) -> None:
        """Wait until every utterance that was cut is committed and every byte durable."""
        while not self.over and (self._work or not self._writer.settled or self._finish_reason is not None):
            self._progress.clear()
            await self._progress.wait()

    def hasten(self) -> None:
        """Make what was received durable now."""
        self._ports.audio.append(self._writer, b"", urgent=True)

    def tick(self, now: float) -> None:
        """Do what time asks for: a partial text, the end of an idle session."""
        idle_s = self._settings.idle_s * (4 if self._paused else 1)
        if self._finish_reason is None and now - self.last_activity_at > idle_s:
            self._begin_finish(pb.CLOSE_REASON_IDLE)
        start_byte = self._cutter.open_start_byte
        if (
            start_byte is not None
            and self._channel is not None
            and self.ledger.opened.interim
            and self._partial is None
            and now - self._partial_at >= self._settings.partial_every_s
            and self._cutter.position_byte - start_byte >= self._settings.partial_min_s * BYTES_PER_SECOND
            and not self._work
            and self._ports.recogniser.has_spare
            and self._tasks is not None
        ):
            self._partial_at = now
            self._partial = self._tasks.create_task(self._make_partial(start_byte))

    # -- the one task that appends -------------------------------------------------------------------------------

    async def open(self, opened: pb.Opened, channel: Channel) -> None:
        """Write the first entry and greet the client. Raises AppError, Fenced if the session exists."""
        token = secrets.token_urlsafe(32)
        opened.resume_token_hash = token_hash(token)
        entry = self.ledger.draft(self._ports.replica, opened=opened)
        self._last_sequence = await self._ports.transcripts.append(entry, 0)
        self.ledger.apply(entry)
        self._channel = channel
        self._send(
            started=relay.Started(
                session_id=self.id,
                meeting_id=opened.meeting_id,
                resume_token=token,
                event=entry.event,
                window_bytes=self._settings.window_bytes,
                resume_window_s=self._settings.idle_s,
                engine=self._ports.recogniser.primary.name,
                settings=opened,
            )
        )
        if self._ports.recogniser.primary.quality == "draft":
            self._set_state(relay.STATE_DEGRADED, "embedded_engine")

    async def run(self) -> None:
        """Own the session until it is over. An `open` or `attach` comes before."""
        with telemetry.bound(ids.new_request_id(), session=self.id):
            try:
                async with asyncio.TaskGroup() as self._tasks:
                    while not self.over:
                        await self._step()
                        if not self.over:
                            await self._wake.wait()
                            self._wake.clear()
                    for work in self._work:
                        if work.task is not None:
                            work.task.cancel()
                    if self._partial is not None:
                        self._partial.cancel()
            except* Fenced:
                log.info("fenced")
                self.step_down()
            finally:
                self._end()

    async def _step(self) -> None:
        while self._attaches and not self.over:
            await self._welcome(self._attaches.popleft())
        self._start_recognitions()
        while not self.over and self._work and self._committable(self._work[0]):
            await self._commit(self._work[0])
            self._work.popleft()
            self._progress.set()
            self._start_recognitions()
        if "backlog" in self._holds and self._backlog_s() < self._settings.backlog_hold_s / 2:
            self._release("backlog")
        if not self._work:
            if self._finish_reason is not None:
                await self._close()
            else:
                await self._checkpoint()

    def _committable(self, work: _Work) -> bool:
        done = work.task is not None and work.task.done()
        return done and work.utterance.end_byte <= self._writer.durable_offset

    def _start_recognitions(self) -> None:
        """Keep a few utterances under way; they are committed in order."""
        assert self._tasks is not None
        for work in list(self._work)[: self._settings.parallel_utterances]:
            if work.task is None:
                work.started_at = self._ports.clock()
                work.task = self._tasks.create_task(self._recognise(work.utterance))
                work.task.add_done_callback(lambda _: self._wake.set())

    async def _recognise(self, utterance: Utterance) -> Recognition:
        """Ask the engines until one answers. Raises SpeechError only when the audio itself cannot be recognised."""
        opened = self.ledger.opened
        pcm = self._window.slice(utterance.context_start_byte, utterance.end_byte)
        prompt = filters.next_prompt(list(opened.vocabulary), opened.prompt, self._prompt_tail(utterance))
        pause_s = 0.5
        for attempt in range(1, self._settings.engine_attempts + 1):
            try:
                return await self._ports.recogniser.final(pcm, language=opened.language or None, prompt=prompt)
            except SpeechError as fault:
                log.warning("utterance failed", attempt=attempt, reason=fault.reason)
                if attempt == self._settings.engine_attempts:
                    break
                await asyncio.sleep(pause_s)
                pause_s *= 2
        return _unheard()

    def _prompt_tail(self, utterance: Utterance) -> str:
        silent_bytes = utterance.start_byte - self.ledger.tail_end_offset
        return self.ledger.tail if silent_bytes < 3 * BYTES_PER_SECOND else ""

    async def _commit(self, work: _Work) -> None:
        assert work.task is not None
        recognition = work.task.result()
        utterance = work.utterance
        if recognition.engine == _UNHEARD:
            await self._append(gap=self._gap(utterance))
        else:
            entry = await self._append(**self._entry_for(work, recognition))
            if entry.WhichOneof("kind") == "segment":
                self._observe(work, recognition)
        self._previous_forced = utterance.forced
        metrics.AUDIO_BYTES.labels("transcribed").inc(utterance.end_byte - utterance.start_byte)
        self._window.forget_below(
            max(0, self.ledger.accounted_offset - self._settings.cutting.context_ms * BYTES_PER_SECOND // 1000)
        )

    def _entry_for(self, work: _Work, recognition: Recognition) -> dict[str, pb.Segment | pb.Suppressed]:
        utterance = work.utterance
        heard = recognition.transcription
        words = list(heard.words)
        text = heard.text
        if self._previous_forced and utterance.context_start_byte < utterance.start_byte:
            text, words = filters.trim_overlap(self.ledger.tail, text, words)
        pcm = self._window.slice(utterance.start_byte, utterance.end_byte)
        verdict = filters.judge(heard, text=text, pcm=pcm)
        start_s, end_s = seconds(utterance.start_byte), seconds(utterance.end_byte)
        if not verdict.keep:
            metrics.SUPPRESSED.labels(verdict.reason).inc()
            suppressed = pb.Suppressed(
                text=text, reason=verdict.reason, start_s=start_s, end_s=end_s, engine=recognition.engine,
                start_offset=utterance.start_byte, end_offset=utterance.end_byte, audio_sequence=self._writer.sequence,
            )  # fmt: skip
            return {"suppressed": suppressed}
        base_s = seconds(max(utterance.context_start_byte, 0))
        segment = pb.Segment(
            segment_id=work.segment_id,
            index=self.ledger.next_index,
            revision=1,
            speaker=self.ledger.opened.speaker,
            start_s=start_s,
            end_s=end_s,
            text=text,
            confidence=heard.confidence,
            engine=recognition.engine,
            quality=pb.QUALITY_DRAFT if recognition.quality == "draft" else pb.QUALITY_FINAL,
            words=[
                pb.Word(text=w.text, start_s=base_s + w.start_s, end_s=base_s + w.end_s, probability=w.probability)
                for w in words
            ],
            start_offset=utterance.start_byte,
            end_offset=utterance.end_byte,
            audio_sequence=self._writer.sequence,
        )
        return {"segment": segment}

    def _gap(self, utterance: Utterance) -> pb.Gap:
        return pb.Gap(
            start_s=seconds(utterance.start_byte), end_s=seconds(utterance.end_byte),
            start_offset=utterance.start_byte, end_offset=utterance.end_byte, reason=pb.GAP_REASON_UNDECODABLE,
        )  # fmt: skip

    def _observe(self, work: _Work, recognition: Recognition) -> None:
        now = self._ports.clock()
        metrics.SEGMENTS.labels(recognition.engine, recognition.quality).inc()
        endpoint_s = seconds(work.position_byte - work.utterance.end_byte)
        metrics.SEGMENT_LATENCY.observe(now - work.cut_at + endpoint_s)
        metrics.SEGMENT_OVERHEAD.observe(
            max(0.0, now - work.cut_at - recognition.engine_s - (work.started_at - work.cut_at))
        )

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
                self._hold("broker")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 2.0)
        self._release("broker")
        self.ledger.apply(entry)
        if entry.WhichOneof("kind") in {"segment", "gap"}:
            self._send(entry=entry)
        return entry

    async def _checkpoint(self) -> None:
        """Account for long silence, so that a restart does not replay it."""
        silent_until = min(self._cutter.silent_until_byte, self._writer.durable_offset)
        if silent_until - self.ledger.accounted_offset > self._settings.checkpoint_every_s * BYTES_PER_SECOND:
            await self._append(checkpoint=pb.Checkpoint(end_offset=silent_until, audio_sequence=self._writer.sequence))
            self._window.forget_below(silent_until)

    async def _close(self) -> None:
        """Write the accounts when every byte is durable, and tell them when they are stored."""
        assert self._finish_reason is not None and self._finish_offset is not None
        if self._writer.durable_offset < self._finish_offset:
            return
        if self.ledger.closed is None:
            await self._append(closed=self.ledger.accounts(self._finish_reason, self._finish_offset))
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
        self._send(
            finished=relay.Finished(
                event=self.ledger.event, meeting_id=self.ledger.opened.meeting_id, accounts=self.ledger.closed
            )
        )

    async def _welcome(self, guest: _Attach) -> None:
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
        if self._channel is not None and self._channel is not guest.channel:
            self._problem(Kind.CONFLICT, "Another connection has taken the session over.", close_code=TAKEN_OVER)
        self._channel = guest.channel
        self._send(
            restored=relay.Restored(
                session_id=self.id,
                meeting_id=self.ledger.opened.meeting_id,
                resume_token=token if self.ledger.closed is None else guest.presented_token,
                event=self.ledger.event,
                offset=self._writer.held_offset,
                stored_offset=self._stored_offset,
                window_bytes=self._settings.window_bytes,
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
        self._tell_state()

    async def _missed(self, last_event: int) -> list[pb.TranscriptEntry]:
        rows = self.ledger.since(last_event)
        if rows is not None:
            return newest(rows)
        history = await self._ports.transcripts.read(self.id)
        return newest(entry for _, entry in history if entry.event > last_event)

    # -- partial texts -------------------------------------------------------------------------------------------

    async def _make_partial(self, start_byte: int) -> None:
        end_byte = self._cutter.position_byte
        opened = self.ledger.opened
        try:
            recognition = await self._ports.recogniser.partial(
                self._window.slice(start_byte, end_byte), language=opened.language or None, prompt=opened.prompt
            )
        finally:
            self._partial = None
        if recognition is None or self._cutter.open_start_byte != start_byte:
            return  # the utterance has ended meanwhile: its segment is on the way
        text = recognition.transcription.text
        segment_id = ids.derived_id(self.id, "segment", start_byte)
        before = self._partial_text[1] if self._partial_text[0] == segment_id else ""
        self._partial_text = (segment_id, text)
        if not text:
            return
        metrics.PARTIALS.inc()
        self._send(
            partial=relay.Partial(
                segment_id=segment_id,
                index=self.ledger.next_index + len(self._work),
                start_s=seconds(start_byte),
                end_s=seconds(end_byte),
                text=text,
                stable_chars=filters.stable_prefix(before, text),
            )
        )

    # -- what the client is told ---------------------------------------------------------------------------------

    def _send(self, **kind: object) -> None:
        if self._channel is not None:
            self._channel.send(relay.ServerEvent(**kind))  # type: ignore[arg-type]  # the oneof's member, by its name

    def _acknowledge(self) -> None:
        self._send(ack=relay.Ack(offset=self._writer.durable_offset, stored_offset=self._stored_offset))

    def _on_durable(self) -> None:
        self._acknowledge()
        self._progress.set()
        if self._writer.held_offset - self._writer.durable_offset < self._settings.window_bytes // 2:
            self._release("window")
        if self._finish_reason is not None or self._work:
            self._wake.set()

    def _on_stall(self, stalled: bool) -> None:
        if stalled:
            self._hold("broker")
        else:
            self._release("broker")

    def _hold(self, reason: str) -> None:
        if reason not in self._holds:
            self._holds.add(reason)
            self._tell_state()

    def _release(self, reason: str) -> None:
        if reason in self._holds:
            self._holds.discard(reason)
            self._tell_state()

    def _set_state(self, state: relay.State, reason: str) -> None:
        self._state = (state, reason)
        self._tell_state()

    def _tell_state(self) -> None:
        """Say the worst that is the case: hold before degraded before ok."""
        state, reason = (relay.STATE_HOLD, min(self._holds)) if self._holds else self._state
        lag_s = seconds(self._writer.held_offset - self.ledger.accounted_offset)
        self._send(status=relay.Status(state=state, reason=reason, lag_s=lag_s))

    def _complain(
        self, kind: Kind, message: str, *, code: str = "", expected: int | None = None, fatal: bool = False
    ) -> None:
        """Tell the client what was wrong with what it sent; too many faults end the connection."""
        self._faults += 1
        fatal = fatal or self._faults >= self._settings.faults_max
        close_code = TABLE[kind].close if fatal else 0
        self._problem(kind, message, close_code=close_code, code=code, expected=expected)
        if fatal:
            self._channel = None

    def _problem(
        self, kind: Kind, message: str, *, close_code: int, code: str = "", expected: int | None = None
    ) -> None:
        self._send(
            problem=relay.Problem(
                code=code or kind.value,
                message=message,
                close_code=close_code,
                retryable=TABLE[kind].retryable,
                event=self.ledger.event,
                expected_offset=expected,
            )
        )

    def _end(self) -> None:
        self.over = True
        self._writer.closed = True
        self._channel = None
        self._progress.set()
        self._wake.set()


_UNHEARD = "none"


def _unheard() -> Recognition:
    return Recognition(Transcription(text="", words=()), _UNHEARD, "draft", 0.0)
