"""What was heard and is not in the transcript yet: utterances and holes in their order, and their recognition."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from chassis import ids, telemetry, tracing
from services.transcriber import filters
from services.transcriber.cutting import Utterance
from services.transcriber.decoding import Missing
from services.transcriber.limits import SessionSettings
from services.transcriber.line import ClientLine
from services.transcriber.recognition import Recogniser, Recognition
from services.transcriber.speech import SpeechError
from services.transcriber.transcript import Ledger, seconds

log = telemetry.logger(__name__)


@dataclass(slots=True)
class Work:
    """An utterance on its way to becoming a segment. `position_byte` is how far the session was heard at its cut."""

    utterance: Utterance
    pcm: bytes
    segment_id: str
    cut_at: float
    position_byte: int
    trace: tracing.Work
    task: asyncio.Task[Recognition | None] | None = None
    started_at: float = 0.0

    @property
    def recognised(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def recognition(self) -> Recognition | None:
        """What was recognised, once it is; None when the audio cannot be."""
        assert self.task is not None
        found = self.task.result()
        late = found.late if found is not None else None
        if late is not None and late.done() and not late.cancelled() and late.exception() is None:
            return late.result()  # it was not so late after all
        return found

    @property
    def own_pcm(self) -> bytes:
        """The utterance's audio without the context before it."""
        return self.pcm[self.utterance.start_byte - self.utterance.context_start_byte :]


@dataclass(frozen=True, slots=True)
class Hole:
    """Audio that is not there, in its place among the utterances."""

    start_byte: int
    missing: Missing

    @property
    def end_byte(self) -> int:
        return self.start_byte + self.missing.pcm_bytes


class Backlog:
    """The queue between hearing, which adds, and the session's task, which commits from its head.

    It tells that task by `news` when there is something new to do, and has the client hold while it is too long.
    """

    def __init__(
        self,
        ledger: Ledger,
        recogniser: Recogniser,
        line: ClientLine,
        settings: SessionSettings,
        *,
        clock: Callable[[], float],
        news: asyncio.Event,
    ) -> None:
        self.queued_bytes = 0
        self.last_suppressed = False
        self._ledger = ledger
        self._recogniser = recogniser
        self._line = line
        self._settings = settings
        self._clock = clock
        self._news = news
        self._work: deque[Work | Hole] = deque()
        self._shrunk = asyncio.Event()
        self._beside = tracing.carried()  # that of whoever opened the session, or came back to it here

    def __len__(self) -> int:
        return len(self._work)

    @property
    def uncommitted_bytes(self) -> int:
        """The PCM of the utterances that wait, without the context that is sent along."""
        utterances = (work.utterance for work in self._work if isinstance(work, Work))
        return sum(one.end_byte - one.start_byte for one in utterances)

    @property
    def head(self) -> Work | Hole | None:
        return self._work[0] if self._work else None

    def add(self, utterance: Utterance, pcm: bytes, position_byte: int) -> None:
        """Queue an utterance with its audio, context included."""
        segment_id = ids.derived_id(self._ledger.session_id, "segment", utterance.start_byte)
        trace = tracing.begin(
            "utterance",
            self._beside,
            session_id=self._ledger.session_id,
            segment_id=segment_id,
            start_s=seconds(utterance.start_byte),
            end_s=seconds(utterance.end_byte),
        )
        self._work.append(Work(utterance, pcm, segment_id, self._clock(), position_byte, trace))
        self.queued_bytes += len(pcm)
        if seconds(self.queued_bytes) > self._settings.backlog_hold_s:
            self._line.hold("backlog")
        self._news.set()

    def add_hole(self, hole: Hole) -> None:
        """Queue audio that is not there."""
        self._work.append(hole)
        self._news.set()

    def pop(self) -> None:
        """Forget the head: it is in the transcript log."""
        done = self._work.popleft()
        self.queued_bytes -= len(done.pcm) if isinstance(done, Work) else 0
        self._shrunk.set()

    def relax(self) -> None:
        """Let the client go on when little is left."""
        if self._line.holds("backlog") and seconds(self.queued_bytes) < self._settings.backlog_hold_s / 2:
            self._line.release("backlog")

    def nudge(self) -> None:
        """Tell the session's task that hearing has news for it."""
        self._news.set()

    async def until_shrunk(self) -> None:
        """Wait until the next one is forgotten."""
        self._shrunk.clear()
        await self._shrunk.wait()

    def recognise(self, tasks: asyncio.TaskGroup) -> None:
        """Keep a few utterances under way; they are committed in order."""
        for work in list(self._work)[: self._settings.parallel_utterances]:
            if isinstance(work, Work) and work.task is None:
                work.started_at = self._clock()
                with work.trace.inside():  # the task takes the context of where it is made
                    work.task = tasks.create_task(self._recognise(work.utterance, work.pcm))
                work.task.add_done_callback(lambda _: self._news.set())

    def cancel(self) -> None:
        """Stop the recognitions under way."""
        for work in self._work:
            if isinstance(work, Work):
                work.trace.end(abandoned=True)
                if work.task is not None:
                    work.task.cancel()

    async def _recognise(self, utterance: Utterance, pcm: bytes) -> Recognition | None:
        """Have an utterance recognised; None when the audio cannot be."""
        opened, ledger = self._ledger.opened, self._ledger
        prompt = filters.next_prompt(
            [*opened.vocabulary, opened.prompt],
            ledger.trusted_tail,
            silence_s=seconds(max(0, utterance.start_byte - ledger.tail_end_offset)),
            suppressed=self.last_suppressed,
        )
        try:
            return await self._recogniser.final(
                pcm, session_id=ledger.session_id, language=opened.language or None, prompt=prompt
            )
        except SpeechError as fault:
            log.warning("utterance cannot be recognised", reason=fault.reason)
            return None
