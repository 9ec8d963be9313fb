"""Drafts are heard again: the better engine listens to their stored audio, the oldest first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import telemetry
from chassis.errors import AppError
from services.transcriber import filters, metrics
from services.transcriber.audio_log import AudioLog
from services.transcriber.drafts import Draft
from services.transcriber.filters import FilterSettings
from services.transcriber.recall import AudioGone, recall
from services.transcriber.recognition import Recognition
from services.transcriber.segments import revision
from services.transcriber.speech import SpeechError
from services.transcriber.transcript import Ledger, seconds

log = telemetry.logger(__name__)

# What an engine says of this very audio; anything else it may say of the next one too.
_REFUSALS = frozenset({"rejected", "too_large"})


class SecondHearing(Protocol):
    """The engines, as healing needs them."""

    @property
    def heals(self) -> bool:
        """Whether there is an engine that is better than the one that writes drafts."""

    @property
    def available(self) -> bool:
        """Whether that engine may be called now."""

    async def until_recovered(self) -> None:
        """Wait until it may be."""

    async def again(self, pcm: bytes, *, session_id: str, language: str | None, prompt: str) -> Recognition:
        """Recognise with that engine only, after all that is live. Raises SpeechError."""


@dataclass(frozen=True, slots=True)
class HealingSettings:
    """How eagerly the drafts of one session are heard again. After a failure it waits, twice as long each time."""

    parallel: int = 2
    pause_s: float = 2.0
    pause_s_max: float = 30.0


@dataclass(frozen=True, slots=True)
class _Heard:
    pcm: bytes
    recognition: Recognition


_Outcome = _Heard | AudioGone | SpeechError | AppError


@dataclass(slots=True)
class _Attempt:
    draft: Draft
    task: asyncio.Task[_Outcome]
    late: bool = False


class Healing:
    """The drafts of one session on their way to their final text.

    It appends nothing: whoever owns the log calls `listens`, waits for `news`, and appends what `revised` gives, which
    comes in the order of the transcript, however many are heard at one time.
    """

    def __init__(
        self,
        ledger: Ledger,
        engines: SecondHearing,
        audio: AudioLog,
        settings: HealingSettings,
        filter_settings: FilterSettings,
        *,
        clock: Callable[[], float],
        news: asyncio.Event,
    ) -> None:
        self.refused: set[int] = set()
        """Drafts that the engine does not take, though it may take others."""
        self.gone: set[int] = set()
        """Drafts whose audio the log does not hold any more."""
        self.failure: SpeechError | AppError | None = None
        """Why nothing is heard for a while, after a failure."""
        self._ledger = ledger
        self._engines = engines
        self._audio = audio
        self._settings = settings
        self._filters = filter_settings
        self._clock = clock
        self._news = news
        self._attempts: list[_Attempt] = []
        self._pause_s = 0.0
        self._resumes_at = 0.0

    def due(self) -> bool:
        """Tell whether `listens` would begin anything."""
        return self._next() is not None

    def listens(self, tasks: asyncio.TaskGroup) -> bool:
        """Keep a few drafts under way; False if there are none."""
        while (draft := self._next()) is not None:
            task = tasks.create_task(self._hear(draft))
            task.add_done_callback(lambda _: self._news.set())
            self._add(_Attempt(draft, task))
        return bool(self._attempts)

    def expect(self, index: int, pcm: bytes, late: asyncio.Task[Recognition], tasks: asyncio.TaskGroup) -> None:
        """Take note of a draft behind which the better engine still listens: it need not be asked again."""
        task = tasks.create_task(_until_heard(pcm, late))
        task.add_done_callback(lambda _: self._news.set())
        self._add(_Attempt(self._ledger.drafts[index], task, late=True))

    def cancel(self) -> None:
        """Leave off."""
        for attempt in self._attempts:
            attempt.task.cancel()
        self._attempts.clear()

    def revised(self) -> pb.Segment | None:
        """Return the revision of the oldest draft under way, if it is heard; None if there is nothing to append yet."""
        while self._attempts and self._attempts[0].task.done():
            attempt = self._attempts.pop(0)
            draft, outcome = attempt.draft, attempt.task.result()
            if draft.index not in self._ledger.drafts:
                continue
            match outcome:
                case _Heard():
                    self._pause_s, self.failure = 0.0, None
                    metrics.HEAL_LAG.observe(max(0.0, time.time() - draft.told_at))
                    return revision(draft, outcome.recognition, pcm=outcome.pcm, settings=self._filters)
                case AudioGone():
                    log.warning("draft cannot be healed: its audio is gone", index=draft.index)
                    self.gone.add(draft.index)
                case SpeechError() if outcome.reason in _REFUSALS:
                    log.warning("draft cannot be healed: refused", index=draft.index, reason=outcome.reason)
                    self.refused.add(draft.index)
                case SpeechError() | AppError():
                    self._give_way(outcome)
                    return None
        return None

    def _add(self, attempt: _Attempt) -> None:
        self._attempts.append(attempt)
        self._attempts.sort(key=lambda attempt: attempt.draft.index)

    def _next(self) -> Draft | None:
        settings = self._settings
        if (
            sum(not attempt.late for attempt in self._attempts) >= settings.parallel
            or not self._ledger.drafts
            or not self._engines.heals
        ):
            return None
        if not self._engines.available or self._clock() < self._resumes_at:
            return None
        taken = {attempt.draft.index for attempt in self._attempts} | self.refused | self.gone
        return self._ledger.drafts.oldest_but(taken)

    async def _hear(self, draft: Draft) -> _Outcome:
        opened = self._ledger.opened
        segment = draft.segment
        try:
            pcm = await recall(
                self._audio, self._ledger.session_id, opened.encoding, draft.place,
                draft.context_offset, segment.end_offset,
            )  # fmt: skip
            prompt = filters.next_prompt(
                [*opened.vocabulary, opened.prompt],
                draft.before if draft.trusted else "",
                silence_s=seconds(max(0, segment.start_offset - draft.before_offset)),
                suppressed=False,
            )
            recognition = await self._engines.again(
                pcm, session_id=self._ledger.session_id, language=opened.language or None, prompt=prompt
            )
        except (AudioGone, SpeechError, AppError) as fault:
            return fault
        return _Heard(pcm, recognition)

    def _give_way(self, failure: SpeechError | AppError) -> None:
        """Leave off for a while: what has failed for one would fail for the next."""
        for attempt in self._attempts:
            if not attempt.late:
                attempt.task.cancel()
        self._attempts = [attempt for attempt in self._attempts if attempt.late]
        self.failure = failure
        settings = self._settings
        # A breaker that has just opened, or tries with care, says when it is time: `available`.
        growing = not (isinstance(failure, SpeechError) and failure.reason == "breaker_open")
        pause_s = self._pause_s * 2 if growing else settings.pause_s
        self._pause_s = min(max(settings.pause_s, pause_s), settings.pause_s_max)
        self._resumes_at = self._clock() + self._pause_s
        log.info("healing waits", pause_s=self._pause_s, fault=str(failure))


async def _until_heard(pcm: bytes, late: asyncio.Task[Recognition]) -> _Outcome:
    try:
        # It ends by itself: who goes away in between leaves it alone.
        return _Heard(pcm, await asyncio.shield(late))
    except SpeechError as fault:
        return fault
    except asyncio.CancelledError:
        if late.cancelled():
            return SpeechError("the call was ended", retryable=True, reason="closed")
        raise
