"""One live session: audio in, acknowledgements and segments out, every step of it in the logs.

```
client ─▶ Intake ─▶ audio log          ClientLine ─▶ client
            └─▶ Hearing ─▶ Backlog ─▶ run() ─▶ Journal ─▶ transcript log
```

Everything that appends to the transcript log happens in one task (`run`), so entries are numbered without locks. All
other methods only note what came and wake that task: they never wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import ids, telemetry
from chassis.errors import AppError, Kind
from services.transcriber import metrics
from services.transcriber.audio_log import AudioLog
from services.transcriber.backlog import Backlog, Hole, Work
from services.transcriber.captions import Captions
from services.transcriber.ears import Ears
from services.transcriber.healing import Healing
from services.transcriber.hearing import Hearing
from services.transcriber.intake import Intake
from services.transcriber.journal import Journal
from services.transcriber.limits import SessionSettings
from services.transcriber.line import Channel, ClientLine
from services.transcriber.partials import Partials
from services.transcriber.reception import Attach, Reception
from services.transcriber.recognition import Recogniser, Recognition
from services.transcriber.segments import entry_kind, gap_entry
from services.transcriber.transcript import BYTES_PER_SECOND, Ledger, seconds
from services.transcriber.transcript_log import Fenced, TranscriptLog

__all__ = ["Attach", "LiveSession", "Ports", "SessionSettings"]

log = telemetry.logger(__name__)

_INTERNAL = 1011
_PAUSED_LONGER = 4


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
    ears: Ears
    ask_to_heal: Callable[[str], Awaitable[object]]


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
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        drafts_only = ports.recogniser.primary.quality == "draft"
        self._line = line = ClientLine(ledger, settings.faults_max, self._tell_viewers, drafts_only=drafts_only)
        self._backlog = Backlog(ledger, ports.recogniser, line, settings, clock=ports.clock, news=self._wake)
        self._hearing = Hearing(
            ledger, self._backlog, line, settings, ports.ears,
            clock=ports.clock, on_decoded=self._relax_window, on_refused=self.abandon,
        )  # fmt: skip
        self._intake = Intake(
            ledger, ports.audio, self._hearing, self._backlog, line, settings, news=self._wake, progress=self._progress
        )
        self._journal = Journal(
            ledger, last_sequence, ports.transcripts, line, writer=ports.replica, clock=ports.clock
        )  # fmt: skip
        self._reception = Reception(
            ledger, self._journal, self._intake, self._hearing, line, window_s=settings.idle_s
        )  # fmt: skip
        self._partials = Partials(
            ledger, self._hearing, self._backlog, line, ports.recogniser, ports.captions, settings, clock=ports.clock
        )
        self._healing = Healing(
            ledger, ports.recogniser, ports.audio, settings.healing, settings.filters,
            clock=ports.clock, news=self._wake,
        )  # fmt: skip
        self._attaches: deque[Attach] = deque()
        self._finish_reason: pb.CloseReason.ValueType | None = None
        self._paused = False
        self._leaving = False
        self._left_at: float | None = None
        self._viewers_told_at = ports.clock()
        self._tasks: asyncio.TaskGroup | None = None

    # -- what the client says ------------------------------------------------------------------------------------

    def receive(self, offset: int, data: bytes) -> None:
        """Take audio at a byte offset. Trims what is held, refuses a hole, never waits."""
        if self._leaving:
            # Nothing of it is acknowledged: the client sends it again where it resumes.
            metrics.AUDIO_REFUSED.inc(len(data))
        elif self._intake.receive(offset, data):
            self.last_activity_at = self._ports.clock()

    def declare_gap(self, start: int, end: int) -> None:
        """Take note that the client dropped bytes [start, end): recorded in the transcript, never silent."""
        if self._intake.declare_gap(start, end):
            self.last_activity_at = self._ports.clock()

    def finalize(self) -> None:
        """End the utterance that is being spoken."""
        self.last_activity_at = self._ports.clock()
        self._hearing.flush()

    def pause(self, paused: bool) -> None:
        """Hold the idle timer: silence on purpose."""
        self._paused = paused
        self.last_activity_at = self._ports.clock()

    def finish(self, offset: int | None) -> None:
        """Take no more audio; close when all of it is transcribed."""
        if offset is None or self._intake.ends_at(offset):
            self._begin_finish(pb.CLOSE_REASON_FINISHED)

    def abandon(self) -> None:
        """Close the session as idle: its client will not come back."""
        self._note_return()
        self._begin_finish(pb.CLOSE_REASON_IDLE)

    def _begin_finish(self, reason: pb.CloseReason.ValueType) -> None:
        if self._finish_reason is None:
            self._finish_reason = reason
            self._intake.end()

    def attach(self, guest: Attach) -> None:
        """Give the session to a client that came back. The one before, if any, is told that it was taken over."""
        self._attaches.append(guest)
        self.last_activity_at = self._ports.clock()
        self._note_return()
        self._wake.set()

    def detach(self, channel: Channel) -> None:
        """The client's socket is gone; the session goes on."""
        if self._line.channel is channel:
            self._line.channel = None
            if not self.over and self._finish_reason is None:
                self._left_at = self._ports.clock()

    def _note_return(self) -> None:
        if self._left_at is not None:
            metrics.RESUMED_AFTER.observe(self._ports.clock() - self._left_at)
            self._left_at = None

    def strand(self) -> list[Attach]:
        """Return the clients that came back but could not be welcomed before the session was over here."""
        late = list(self._attaches)
        self._attaches.clear()
        return late

    @property
    def buffered_bytes(self) -> int:
        """See `Hearing`."""
        return self._hearing.buffered_bytes

    @property
    def pending_bytes(self) -> int:
        """See `Hearing`."""
        return self._hearing.pending_bytes

    def discard(self) -> None:
        """Forget a session that was read from the logs and will not run here."""
        self._hearing.close()

    @property
    def attached(self) -> bool:
        return self._line.channel is not None

    def serves(self, channel: Channel) -> bool:
        """Whether it is this client's session now. What one that lost it still has on its way is not for the log."""
        return self._line.channel is channel

    def may_resume(self, owner_id: str, token: str) -> bool:
        """Tell whether the account and the token are those of this session."""
        return self._reception.may_resume(owner_id, token)

    # -- what others say -----------------------------------------------------------------------------------------

    def note_stored(self, end_offset: int, event: int) -> None:
        """The database holds the segments below `end_offset` and the events up to `event`."""
        self._intake.note_stored(end_offset, event)

    def replay(self, data: bytes, sequence: int) -> None:
        """Take the audio that the log holds behind the checkpoint, read from message `sequence` on: an adoption."""
        self._intake.replay(data, sequence)

    def step_down(self) -> None:
        """Another transcriber owns the session: tell the client, touch nothing any more."""
        self._reception.say_taken_over()
        self._end()

    def let_go(self, close_code: int, message: str) -> None:
        """End the client's connection; the session stays in the logs for any transcriber to adopt."""
        self._line.problem(Kind.UNAVAILABLE, message, close_code=close_code)
        self._end()

    async def until_quiet(self) -> None:
        """Wait until every utterance that was cut is committed and every byte durable."""
        while not self.over and (self._backlog or not self._intake.settled or self._finish_reason is not None):
            self._progress.clear()
            await self._progress.wait()

    def hasten(self) -> None:
        """Take no more audio; hear what was received, and make it durable."""
        self._leaving = True
        self._hearing.go_on()
        self._intake.hasten()

    def tick(self, now: float) -> None:
        """Do what time asks for: a partial text, the end of an idle session."""
        idle_s = self._settings.idle_s * (_PAUSED_LONGER if self._paused else 1)
        if self._finish_reason is None and now - self.last_activity_at > idle_s:
            self.abandon()
        if self.attached and now - self._journal.appended_at > self._settings.sign_of_life_s:
            self._wake.set()
        self._line.served(self._ports.recogniser.degraded)
        if self.attached and now - self._viewers_told_at >= self._settings.viewers_reminded_s:
            self._tell_viewers(self._line.status())
        if self._finish_reason is None and self._healing.due():
            self._wake.set()
        if self._tasks is not None and self.attached:
            self._partials.tick(now, self._tasks)

    # -- the one task that appends -------------------------------------------------------------------------------

    async def open(self, opened: pb.Opened, channel: Channel) -> None:
        """Write the first entry and greet the client. Raises AppError, Fenced if the session exists."""
        await self._reception.begin(opened, channel, engine=self._ports.recogniser.primary.name)

    async def run(self) -> None:
        """Own the session until it is over. An `open` or `attach` comes before."""
        with telemetry.bound(ids.new_request_id(), session=self.id):
            try:
                async with asyncio.TaskGroup() as self._tasks:
                    decoding = None if self._hearing.decoder.instant else self._tasks.create_task(self._hearing.run())
                    while not self.over:
                        await self._step(self._tasks)
                        if not self.over:
                            await self._wake.wait()
                            self._wake.clear()
                    self._backlog.cancel()
                    self._healing.cancel()
                    self._partials.cancel()
                    if decoding is not None:
                        decoding.cancel()
            except* Fenced:
                log.info("fenced")
                self.step_down()
            except* Exception:
                # Before the line is cut: a client that nobody tells would go on talking to nobody.
                self.let_go(_INTERNAL, "Something went wrong on our side.")
                raise
            finally:
                self._end()
                self._hearing.close()

    async def _step(self, tasks: asyncio.TaskGroup) -> None:
        if self._hearing.fault is not None:
            raise self._hearing.fault
        while self._attaches and not self.over:
            # Taken off only when welcomed: if the append is fenced, the client must be served from the logs.
            await self._reception.welcome(self._attaches[0])
            self._attaches.popleft()
            if self.ledger.closed is not None:
                self._end()
        self._backlog.recognise(tasks)
        while not self.over and (work := self._backlog.head) is not None and self._committable(work):
            await self._commit(work, tasks)
            self._backlog.pop()
            self._progress.set()
            self._backlog.recognise(tasks)
        self._backlog.relax()
        await self._heal(tasks)
        if not self._backlog:
            if self._finish_reason is None:
                await self._checkpoint()
            elif not self._hearing.flush_due:
                await self._close(self._finish_reason)

    def _committable(self, work: Work | Hole) -> bool:
        if isinstance(work, Hole):
            return work.missing.durable_with <= self._intake.durable_offset
        return work.recognised and work.utterance.end_byte <= self._intake.heard_durably

    async def _commit(self, work: Work | Hole, tasks: asyncio.TaskGroup) -> None:
        if isinstance(work, Hole):
            entry_point = self._hearing.decoder.entry_point(work.end_byte)
            await self._journal.append(gap=gap_entry(work.start_byte, work.end_byte, work.missing.reason, entry_point))
            self._intake.bridge(work.missing.source_end)
            return
        recognition = work.recognition
        stage = "unrecognised" if recognition is None else "transcribed"
        kind = entry_kind(
            self.ledger,
            work.utterance,
            work.segment_id,
            recognition,
            pcm=work.own_pcm,
            resumption=self._intake.resumption(work.utterance.end_byte),
            settings=self._settings.filters,
            heals=self._ports.recogniser.heals,
        )
        with work.trace.inside():
            entry = await self._journal.append(**kind)
        metrics.AUDIO_BYTES.labels(stage).inc(work.utterance.end_byte - work.utterance.start_byte)
        self._backlog.last_suppressed = not entry.segment.text
        if recognition is not None:
            self._observe(work, recognition, entry)
            if recognition.late is not None and entry.segment.index in self.ledger.drafts:
                self._healing.expect(entry.segment.index, work.pcm, recognition.late, tasks)
        engine, quality = (recognition.engine, recognition.quality) if recognition is not None else ("", "")
        work.trace.end(index=entry.segment.index, engine=engine, quality=quality)

    def _observe(self, work: Work, recognition: Recognition, entry: pb.TranscriptEntry) -> None:
        now = self._ports.clock()
        if not entry.segment.text:
            suppressed = entry.suppressed if entry.HasField("suppressed") else entry.segment.suppressed
            metrics.SUPPRESSED.labels(suppressed.reason).inc()
            return
        metrics.SEGMENTS.labels(recognition.engine, recognition.quality).inc()
        endpoint_s = seconds(work.position_byte - work.utterance.end_byte)
        metrics.SEGMENT_LATENCY.observe(now - work.cut_at + endpoint_s, work.trace.exemplar)
        waited_s = work.started_at - work.cut_at
        metrics.SEGMENT_OVERHEAD.observe(max(0.0, now - work.cut_at - recognition.engine_s - waited_s))

    async def _heal(self, tasks: asyncio.TaskGroup) -> None:
        """Have drafts heard again; what is left of them when the session is closed becomes a job."""
        if self._finish_reason is None:
            self._healing.listens(tasks)
        if not self.over and self.ledger.closed is None and (segment := self._healing.revised()) is not None:
            await self._journal.append(segment=segment)
            metrics.HEALED.labels("live").inc()
            self._wake.set()  # there may be more, but what is said now comes first

    async def _checkpoint(self) -> None:
        """Account for long silence, so that a restart does not replay it; show that the session has an owner."""
        accounted = self.ledger.accounted_offset
        silent_until = max(min(self._hearing.cutter.silent_until_byte, self._intake.heard_durably), accounted)
        quiet_s = self._ports.clock() - self._journal.appended_at
        if silent_until - accounted > self._settings.checkpoint_every_s * BYTES_PER_SECOND or (
            self.attached and quiet_s > self._settings.sign_of_life_s
        ):
            resumption = self._intake.resumption(silent_until)
            await self._journal.append(checkpoint=pb.Checkpoint(end_offset=silent_until, **resumption))
            self._hearing.note_silence(silent_until)

    async def _close(self, reason: pb.CloseReason.ValueType) -> None:
        """Write the accounts when every byte is durable, and tell them when they are stored."""
        if not self._intake.settled:
            return
        if self.ledger.closed is None:
            heard = self._hearing.cutter.position_byte
            heals = self._ports.recogniser.heals
            accounts = self.ledger.accounts(reason, self._intake.held_offset, heard, heals=heals)
            await self._journal.append(closed=accounts)
            self._hearing.note_silence(heard)
            await self._leave_drafts()
        try:
            async with asyncio.timeout(self._settings.stored_wait_s):
                await self._intake.until_stored(self.ledger.event)
        except TimeoutError:
            log.info("finished before it was stored")
        self._reception.say_finished()
        self._end()

    async def _leave_drafts(self) -> None:
        """Have the drafts that are left healed by whoever has time: nobody owns a closed session."""
        if not self.ledger.drafts:
            return
        try:
            await self._ports.ask_to_heal(self.id)
        except AppError as fault:
            log.warning("healing not asked for; the janitor will", fault=str(fault))

    # -- what others are told -------------------------------------------------------------------------------------

    def _tell_viewers(self, status: relay.Status) -> None:
        self._viewers_told_at = self._ports.clock()
        self._ports.captions.say(self.id, self.ledger.opened, status)

    def _relax_window(self) -> None:
        self._intake.relax()

    def _end(self) -> None:
        self.over = True
        self._intake.close()
        self._line.channel = None
        self._progress.set()
        self._wake.set()
