"""The speech API behind all that keeps us and it from harm: one retry layer, breaker, bulkhead, pacing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from chassis.breaker import Breaker, BreakerSettings, OpenError, State
from chassis.retry import Retrier, RetrySettings
from services.transcriber import metrics
from services.transcriber.speech import SpeechEngine, SpeechError
from services.transcriber.transcription import Transcription
from services.transcriber.turnstile import AdaptiveLimit, Lane, Turnstile

DEPENDENCY = "openai"
# The server works and says no: to this request, or to all for now. Its health is not in question.
_SAYS_NOTHING = frozenset({"rate_limited", "rejected", "too_large", "closed"})
_PACED_S_MAX = 60.0
_BYTES_PER_SECOND = 32_000


@dataclass(frozen=True, slots=True)
class VendorSettings:
    """Limits of the speech API. A call and its retries may take `deadline_base_s + deadline_per_audio_s * audio`."""

    concurrency_max: int = 8
    deadline_s_max: float = 30.0
    deadline_base_s: float = 2.0
    deadline_per_audio_s: float = 2.0
    attempt_share: float = 0.6  # of a call's time, for its first attempt: the rest is for another
    attempt_s_min: float = 2.0
    retry: RetrySettings = field(default_factory=RetrySettings)
    breaker: BreakerSettings = field(default_factory=BreakerSettings)

    def deadline_s(self, pcm_bytes: int) -> float:
        """Return the time for a call about so much audio."""
        audio_s = pcm_bytes / _BYTES_PER_SECOND
        return min(self.deadline_s_max, self.deadline_base_s + self.deadline_per_audio_s * audio_s)


class Vendor:
    """A speech engine that may fail, guarded. Shared by all sessions of the process."""

    def __init__(
        self,
        engine: SpeechEngine,
        settings: VendorSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float],
    ) -> None:
        self.engine = engine
        self._settings = settings
        self._clock = clock
        self.breaker = Breaker(DEPENDENCY, settings.breaker, clock=clock, chance=chance)
        self._limit = AdaptiveLimit(settings.concurrency_max, clock=clock)
        self.turnstile = Turnstile(self._limit, share=lambda: self.breaker.share, clock=clock)
        self._retrier = Retrier(
            DEPENDENCY,
            settings.retry,
            retryable=lambda fault: isinstance(fault, SpeechError) and fault.retryable,
            asked_pause_s=lambda fault: fault.retry_after_s if isinstance(fault, SpeechError) else None,
            chance=chance,
            clock=clock,
        )
        self._changed = asyncio.Event()
        self.breaker.watch(lambda _: self._changed.set())

    async def transcribe(
        self, pcm: bytes, *, session_id: str, language: str | None, prompt: str, lane: Lane
    ) -> Transcription:
        """Return the text of `pcm`, trying again where that may help. Raises SpeechError."""

        deadline_s = self._settings.deadline_s(len(pcm))

        async def attempt(left_s: float) -> Transcription:
            for_s = max(self._settings.attempt_s_min, self._settings.attempt_share * deadline_s)
            return await self._attempt(pcm, session_id, language, prompt, lane, min(left_s, for_s))

        return await self._retrier.call(attempt, deadline_s=deadline_s)

    async def once(self, pcm: bytes, *, language: str | None, prompt: str) -> Transcription | None:
        """Return the text of speech that goes on; None if nothing is to spare for it, or it fails."""
        if not self.turnstile.has_spare or self.breaker.state is not State.CLOSED:
            return None
        with suppress(SpeechError):
            deadline_s = self._settings.deadline_s(len(pcm))
            return await self._attempt(pcm, "", language, prompt, Lane.LIVE, deadline_s, purpose="partial")
        return None

    async def until_available(self) -> None:
        """Wait until a call may be let through."""
        while not self.breaker.admits:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.breaker.retry_after_s() or 5.0):
                    await self._changed.wait()

    async def _attempt(
        self,
        pcm: bytes,
        session_id: str,
        language: str | None,
        prompt: str,
        lane: Lane,
        for_s: float,
        purpose: str = "final",
    ) -> Transcription:
        result = "failed"
        began = self._clock()
        try:
            # Somebody waits for a live caption, so its time runs while it waits for its turn; others have time.
            async with asyncio.timeout(for_s if lane is Lane.LIVE else None):
                async with self.turnstile.passage(lane, session_id):
                    began = self._clock()
                    heard = await self._guarded(pcm, language, prompt, for_s)
                    result = "ok"
                    return heard
        except TimeoutError as fault:
            raise SpeechError("no turn within the deadline", retryable=False, reason="overloaded") from fault
        finally:
            metrics.ENGINE_SECONDS.labels(self.engine.name, purpose, result).observe(self._clock() - began)

    async def _guarded(self, pcm: bytes, language: str | None, prompt: str, for_s: float) -> Transcription:
        try:
            permit = self.breaker.acquire()
        except OpenError as fault:
            raise SpeechError("the breaker is open", retryable=False, reason="breaker_open") from fault
        with permit:
            try:
                heard = await self.engine.transcribe(pcm, language=language, prompt=prompt, deadline_s=for_s)
            except SpeechError as fault:
                if fault.reason not in _SAYS_NOTHING:
                    permit.failure()
                if fault.reason in {"quota", "unauthorized"}:
                    # The next call will be refused as well, and so will every other until somebody pays or logs in.
                    self.breaker.trip(fault.reason)
                if fault.retryable:
                    self._limit.worse()
                if fault.reason == "rate_limited":
                    metrics.SPEECH_RATE_LIMITED.inc()
                    self.turnstile.pause(min(fault.retry_after_s or 1.0, _PACED_S_MAX))
                raise
            permit.success()
            self._limit.better()
            return heard
