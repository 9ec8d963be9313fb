"""The speech API behind all that keeps us and it from harm: one retry layer, breaker, bulkhead, pacing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from chassis import tracing
from chassis.breaker import Breaker, BreakerSettings, OpenError, Permit, State
from chassis.retry import Deadline, Retrier, RetrySettings
from services.transcriber import metrics
from services.transcriber.slow_start import SlowStart, SlowStartSettings
from services.transcriber.speech import SpeechEngine, SpeechError
from services.transcriber.transcription import Transcription
from services.transcriber.turnstile import AdaptiveLimit, Lane, Turnstile

DEPENDENCY = "openai"
# The server works and says no: to this request, or to all for now. Its health is not in question.
_SAYS_NOTHING = frozenset({"rate_limited", "rejected", "too_large", "closed"})
# The next call will be refused as well, and so will every other until somebody pays or gives another key.
_NOBODY_IS_SERVED = frozenset({"quota", "unauthorized"})
_LOOK_AGAIN_S = 5.0
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
    ramp_turn_s: float = (
        0.5  # how long live speech waits for its turn while concurrency grows: what waits comes at once
    )
    partial_s_max: float = 5.0  # a text of speech that goes on is of no use later
    paced_s_min: float = 1.0  # how long nobody calls after the API asked for patience without saying how much
    paced_s_max: float = 60.0
    paced_jitter: float = 0.1
    retry: RetrySettings = field(default_factory=RetrySettings)
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    slow_start: SlowStartSettings = field(default_factory=SlowStartSettings)

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
        self._chance = chance
        self.breaker = Breaker(DEPENDENCY, settings.breaker, clock=clock, chance=chance)
        self._limit = AdaptiveLimit(engine.name, settings.concurrency_max, clock=clock)
        self._healing = SlowStart(settings.slow_start, clock=clock)
        self.turnstile = Turnstile(
            engine.name, self._limit, share=lambda: self.breaker.share, clock=clock, healing=self._healing
        )
        self._retrier = Retrier(
            DEPENDENCY,
            settings.retry,
            retryable=lambda fault: isinstance(fault, SpeechError) and fault.retryable,
            asked_pause_s=lambda fault: fault.retry_after_s if isinstance(fault, SpeechError) else None,
            chance=chance,
            clock=clock,
        )
        self._changed = asyncio.Event()
        self._was = self.breaker.state
        self.breaker.watch(self._moved)

    async def transcribe(
        self, pcm: bytes, *, session_id: str, language: str | None, prompt: str, lane: Lane
    ) -> Transcription:
        """Return the text of `pcm`, trying again where that may help. Raises SpeechError.

        The time of a live utterance runs while it waits for its turn, because somebody waits for it; that of others
        does not.
        """
        call = _Call(pcm, session_id, language, prompt, lane, "final")
        deadline_s = self._settings.deadline_s(len(pcm))
        attempt_s = max(self._settings.attempt_s_min, self._settings.attempt_share * deadline_s)
        return await self._retrier.call(
            lambda deadline: self._attempt(call, deadline, attempt_s), deadline_s=deadline_s
        )  # fmt: skip

    async def once(self, pcm: bytes, *, language: str | None, prompt: str) -> Transcription | None:
        """Return the text of speech that goes on; None if nothing is to spare for it, or it fails."""
        if not self.turnstile.has_spare or self.breaker.state is not State.CLOSED:
            return None
        call = _Call(pcm, "", language, prompt, Lane.LIVE, "partial")
        deadline_s = min(self._settings.partial_s_max, self._settings.deadline_s(len(pcm)))
        with suppress(SpeechError):
            return await self._attempt(call, Deadline(deadline_s, self._clock), deadline_s)
        return None

    async def until_available(self) -> None:
        """Wait until a call may be let through."""
        while not self.breaker.admits:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.breaker.retry_after_s() or _LOOK_AGAIN_S):
                    await self._changed.wait()

    def _moved(self, state: State) -> None:
        if state is State.CLOSED and self._was is not State.CLOSED:
            self._healing.begin()
        self._was = state
        self._changed.set()

    async def _attempt(self, call: _Call, deadline: Deadline, attempt_s: float) -> Transcription:
        live = call.lane is Lane.LIVE
        came = self._clock()
        turn_s = min(attempt_s, deadline.left_s, attempt_s if self.breaker.share >= 1.0 else self._settings.ramp_turn_s)
        try:
            async with (
                asyncio.timeout(turn_s if live else None) as patience,
                self.turnstile.passage(call.lane, call.session_id),
            ):
                patience.reschedule(None)  # from here on the engine keeps the time, and its failure to do so counts
                waited_s = self._clock() - came
                if not live:
                    deadline.extend(waited_s)
                left_s = min(attempt_s - waited_s if live else attempt_s, deadline.left_s)
                return await self._guarded(call, left_s)
        except TimeoutError as fault:
            raise SpeechError("no turn within the deadline", retryable=False, reason="overloaded") from fault

    async def _guarded(self, call: _Call, for_s: float) -> Transcription:
        try:
            permit = self.breaker.acquire()
        except OpenError as fault:
            raise SpeechError("the breaker is open", retryable=False, reason="breaker_open") from fault
        began, result = self._clock(), "failed"
        with permit:
            try:
                with tracing.step(f"transcribe {self.engine.name}", model_operation="transcribe", purpose=call.purpose):
                    heard = await self.engine.transcribe(
                        call.pcm, language=call.language, prompt=call.prompt, deadline_s=for_s
                    )
                result = "ok"
            except SpeechError as fault:
                self._failed(fault, permit)
                raise
            finally:
                took_s = self._clock() - began
                metrics.ENGINE_SECONDS.labels(self.engine.name, call.purpose, result).observe(took_s)
            permit.success()
            self._limit.better()
            return heard

    def _failed(self, fault: SpeechError, permit: Permit) -> None:
        """Draw the conclusions: for the breaker, for how much may run, and for when."""
        metrics.SPEECH_FAILURES.labels(fault.reason).inc()
        if fault.reason in _NOBODY_IS_SERVED:
            self.breaker.trip(fault.reason)
        if fault.reason in _SAYS_NOTHING:
            permit.ignored()
        else:
            permit.failure()
        if fault.retryable:
            self._limit.worse()
        if fault.reason == "rate_limited":
            metrics.SPEECH_RATE_LIMITED.inc()
            asked_s = min(fault.retry_after_s or self._settings.paced_s_min, self._settings.paced_s_max)
            self.turnstile.pause(asked_s * (1.0 + self._settings.paced_jitter * self._chance()))


@dataclass(frozen=True, slots=True)
class _Call:
    pcm: bytes
    session_id: str
    language: str | None
    prompt: str
    lane: Lane
    purpose: str
