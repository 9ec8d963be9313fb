"""From a recording to its transcript: utterances heard side by side, told in order.

A recording is there as a whole, so nothing is waited for but the engines; and it is never in a hurry, so live meetings
come first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from chassis import telemetry
from chassis.errors import AppError, Kind
from services.transcriber import filters
from services.transcriber.cutting import Utterance
from services.transcriber.filters import FilterSettings
from services.transcriber.media import Recording
from services.transcriber.recognition import Lane, Recogniser, Recognition
from services.transcriber.speech import SpeechError
from services.transcriber.transcript import Ledger, seconds

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class RecordingSettings:
    """How recordings are heard: `parallel` utterances of all of them at one time."""

    parallel: int = 4
    filters: FilterSettings = field(default_factory=FilterSettings)


@dataclass(frozen=True, slots=True)
class Told:
    """An utterance and what was heard in it; None if nobody could hear it. `pcm` begins with its context."""

    utterance: Utterance
    pcm: bytes
    recognition: Recognition | None


class Journal(Protocol):
    """Where a transcript is written down."""

    @property
    def ledger(self) -> Ledger:
        """What is written so far."""

    async def tell(self, told: Told) -> None:
        """Write down the next utterance."""


class Recordings:
    """Transcribes recordings; one for the process, so that all of them together keep to the limit."""

    def __init__(self, recogniser: Recogniser, settings: RecordingSettings) -> None:
        self._recogniser = recogniser
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.parallel)

    async def transcribe(self, recording: Recording, journal: Journal, *, gaps: bool) -> None:
        """Hear what the journal does not tell yet, to the end of the recording.

        An utterance that no engine can hear becomes a gap, if `gaps` allows; else raises AppError(UNAVAILABLE).
        """
        begun_at = journal.ledger.accounted_offset
        waiting = deque(u for u in recording.utterances if u.end_byte > begun_at)
        under_way: deque[tuple[Utterance, bytes, asyncio.Task[Recognition | None]]] = deque()
        try:
            while waiting or under_way:
                while waiting and len(under_way) < self._settings.parallel:
                    utterance = _behind(waiting.popleft(), begun_at)
                    pcm = recording.pcm(utterance.context_start_byte, utterance.end_byte)
                    heard = asyncio.create_task(self._recognise(utterance, pcm, journal.ledger, gaps=gaps))
                    under_way.append((utterance, pcm, heard))
                utterance, pcm, heard = under_way[0]
                recognition = await heard
                under_way.popleft()
                await journal.tell(Told(utterance, pcm, recognition))
        finally:
            await _cancelled([heard for _, _, heard in under_way])

    async def _recognise(self, utterance: Utterance, pcm: bytes, ledger: Ledger, *, gaps: bool) -> Recognition | None:
        opened = ledger.opened
        async with self._slots:
            prompt = filters.next_prompt(
                [*opened.vocabulary, opened.prompt],
                ledger.tail,
                silence_s=seconds(max(0, utterance.start_byte - ledger.tail_end_offset)),
                suppressed=False,
            )
            try:
                return await self._recogniser.final(
                    pcm,
                    session_id=ledger.session_id,
                    language=opened.language or None,
                    prompt=prompt,
                    lane=Lane.UPLOAD,
                )
            except SpeechError as fault:
                log.warning("utterance failed", reason=fault.reason)
                if fault.reason != "closed" and (gaps or not fault.retryable):
                    return None
        raise AppError(Kind.UNAVAILABLE, "The speech engine does not answer.", retry_after_s=5.0)


def _behind(utterance: Utterance, byte: int) -> Utterance:
    """Return what of the utterance is not told: another version of this code may have cut elsewhere."""
    start = max(utterance.start_byte, byte)
    return replace(utterance, start_byte=start, context_start_byte=min(utterance.context_start_byte, start))


async def _cancelled(tasks: Sequence[asyncio.Task[Recognition | None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
