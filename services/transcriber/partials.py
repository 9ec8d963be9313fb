"""Interim captions: the text of speech that goes on, made when there is capacity to spare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from verbatim.transcriber.v1 import transcriber_pb2 as relay

from chassis import ids
from services.transcriber import metrics
from services.transcriber.backlog import Backlog
from services.transcriber.captions import Captions
from services.transcriber.filters import stable_prefix
from services.transcriber.hearing import Hearing
from services.transcriber.limits import SessionSettings
from services.transcriber.line import ClientLine
from services.transcriber.recognition import Recogniser
from services.transcriber.transcript import BYTES_PER_SECOND, Ledger, seconds


class Partials:
    """Decides when a session's next partial text is due, and what of it is stable. One at a time."""

    def __init__(
        self,
        ledger: Ledger,
        hearing: Hearing,
        backlog: Backlog,
        line: ClientLine,
        recogniser: Recogniser,
        captions: Captions,
        settings: SessionSettings,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._hearing = hearing
        self._backlog = backlog
        self._line = line
        self._recogniser = recogniser
        self._captions = captions
        self._every_s = settings.partial_every_s
        self._growth = settings.partial_growth
        self._min_bytes = int(settings.partial_min_s * BYTES_PER_SECOND)
        self._clock = clock
        self._last_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._segment_id = ""
        self._text = ""

    def tick(self, now: float, tasks: asyncio.TaskGroup) -> None:
        """Begin the next partial text if it is due."""
        start_byte = self._hearing.cutter.open_start_byte
        if start_byte is None or self._backlog or not self._ledger.opened.interim:
            return
        busy = self._task is not None and not self._task.done()
        spoken_bytes = self._hearing.cutter.position_byte - start_byte
        # All of the utterance is sent each time: the longer it is, the more a text costs and the less of it is new.
        pause_s = max(self._every_s, self._growth * seconds(spoken_bytes))
        due = now - self._last_at >= pause_s and spoken_bytes >= self._min_bytes
        if due and not busy and self._recogniser.has_spare:
            self._task = tasks.create_task(self._tell(start_byte))

    def cancel(self) -> None:
        """Stop what is under way."""
        if self._task is not None:
            self._task.cancel()

    async def _tell(self, start_byte: int) -> None:
        partial = await self._make(start_byte)
        # If the utterance has ended meanwhile, its segment is on the way.
        if partial is not None and self._hearing.cutter.open_start_byte == start_byte:
            metrics.PARTIALS.inc()
            self._line.say(partial=partial)
            self._captions.say(self._ledger.session_id, self._ledger.opened, self._line.status(), partial)

    async def _make(self, start_byte: int) -> relay.Partial | None:
        """Recognise speech from `start_byte`; None if there is no text."""
        opened = self._ledger.opened
        pcm = self._hearing.spoken_since(start_byte)
        segment_id = ids.derived_id(self._ledger.session_id, "segment", start_byte)
        index = self._ledger.next_index + len(self._backlog)
        self._last_at = self._clock()
        recognition = await self._recogniser.partial(pcm, language=opened.language or None, prompt=opened.prompt)
        if recognition is None or not recognition.transcription.text:
            return None
        text = recognition.transcription.text
        before = self._text if self._segment_id == segment_id else ""
        self._segment_id, self._text = segment_id, text
        return relay.Partial(
            segment_id=segment_id,
            index=index,
            start_s=seconds(start_byte),
            end_s=seconds(start_byte + len(pcm)),
            text=text,
            stable_chars=stable_prefix(before, text),
        )
