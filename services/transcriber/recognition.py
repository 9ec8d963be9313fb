"""From audio to text: the speech API where there is one, drafts of the embedded engine where it fails or dawdles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from chassis import telemetry, tracing
from chassis.breaker import State
from services.transcriber import metrics
from services.transcriber.speech import SpeechEngine, SpeechError
from services.transcriber.transcription import Transcription
from services.transcriber.turnstile import AdaptiveLimit, Lane, Turnstile
from services.transcriber.vendor import Vendor

__all__ = ["Lane", "Recogniser", "Recognition", "RecognitionSettings"]

log = telemetry.logger(__name__)

NO_ENGINE = "none"
_BYTES_PER_SECOND = 32_000
_REMEMBERED = 0.2
# An answer is late when it takes half as long again as usual, and half a second more at the least: beside a server that
# answers in milliseconds, every little delay would be a draft that nobody reads.
_LATE_SHARE = 0.5
_LATE_BY_S = 0.5
_LATE_MAX = 256


@dataclass(frozen=True, slots=True)
class RecognitionSettings:
    """`draft_within_s` counts from the end of speech; the end is noticed `endpoint_s` later."""

    draft_within_s: float = 3.0
    endpoint_s: float = 0.5
    draft_margin_s: float = 0.4
    usual_s: float = 1.0
    draft_s_max: float = 10.0  # a caption that comes later helps nobody: what is said now comes first
    embedded_workers: int = 2
    embedded_s_max: float = 30.0
    embedded_attempts: int = 5
    embedded_pause_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Recognition:
    """A text with the engine that heard it and the seconds that it took.

    `late` is the call to the speech API that goes on behind a draft: what it returns is the better text. It ends by
    itself, with an engine's text or SpeechError.
    """

    transcription: Transcription
    engine: str
    quality: Literal["final", "draft"]
    engine_s: float
    late: asyncio.Task[Recognition] | None = None


class Recogniser:
    """The engines of a process. Without `vendor` the embedded engine is all there is."""

    def __init__(
        self,
        embedded: SpeechEngine,
        vendor: Vendor | None = None,
        settings: RecognitionSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embedded = embedded
        self._vendor = vendor
        self._settings = settings or RecognitionSettings()
        self._clock = clock
        workers = AdaptiveLimit(embedded.name, self._settings.embedded_workers, clock=clock)
        self._workers = Turnstile(embedded.name, workers, share=lambda: 1.0, clock=clock)
        self._speed = 0.3  # seconds of work per second of audio, as last seen
        self._usual_s = self._settings.usual_s  # of the speech API, from being asked to the text, as last seen
        self._failing = False
        self._partials = True
        self._late: set[asyncio.Task[Recognition]] = set()
        self._aside: set[asyncio.Task[Recognition]] = set()

    @property
    def primary(self) -> SpeechEngine:
        """The engine that writes finals where there is one that can."""
        return self._vendor.engine if self._vendor is not None else self._embedded

    @property
    def heals(self) -> bool:
        """Whether drafts can become better: there is an engine above the embedded one."""
        return self._vendor is not None

    @property
    def available(self) -> bool:
        """Whether the speech API may be called now."""
        return self._vendor is not None and self._vendor.breaker.admits

    @property
    def degraded(self) -> str:
        """Why live captions are drafts now; empty if they are not, or if nothing better is to be had."""
        if self._vendor is None:
            return ""
        if self._vendor.breaker.state is State.CLOSED:
            return "speech_api" if self._failing else ""
        return "quota" if self._vendor.breaker.reason == "quota" else "speech_api"

    @property
    def has_spare(self) -> bool:
        """Whether a partial text can be had without delaying a final one, and may be."""
        if not self._partials:
            return False
        if self._vendor is not None:
            return self._vendor.turnstile.has_spare and self._vendor.breaker.state is State.CLOSED
        return self._workers.has_spare

    def obey(self, control: str, value: str | None) -> None:
        """Follow the control `feature.partials`: `off` keeps partial texts, which cost most, away from every engine."""
        if control == "feature.partials":
            self._partials = value != "off"

    async def final(
        self, pcm: bytes, *, session_id: str = "", language: str | None, prompt: str, lane: Lane = Lane.LIVE
    ) -> Recognition:
        """Recognise an utterance: by the speech API, else as a draft, which for live speech does not wait for it.

        Raises SpeechError if the embedded engine is all there is and cannot. With a speech API the worst is a draft
        without text, to be healed.
        """
        if self._vendor is None:
            return await self._by_embedded(pcm, session_id, lane)
        asked = asyncio.create_task(self.again(pcm, session_id=session_id, language=language, prompt=prompt, lane=lane))
        try:
            if lane is not Lane.LIVE:
                await asyncio.wait([asked])
                return await self._in_time(asked, None, pcm, session_id, lane)
            begin_s, due_s = self._draft_times(len(pcm))
            await asyncio.wait([asked], timeout=begin_s)
            if asked.done():
                return await self._in_time(asked, None, pcm, session_id, lane)
            drafting = asyncio.create_task(self._draft(pcm, session_id, lane))
            try:
                await asyncio.wait([asked], timeout=due_s - begin_s)
                await asyncio.wait([asked, drafting], return_when=asyncio.FIRST_COMPLETED)
                return await self._in_time(asked, drafting, pcm, session_id, lane)
            finally:
                await self._set_aside(drafting)
        except asyncio.CancelledError:
            asked.cancel()
            await asyncio.wait([asked])
            raise

    async def again(
        self, pcm: bytes, *, session_id: str, language: str | None, prompt: str, lane: Lane = Lane.HEAL
    ) -> Recognition:
        """Recognise an utterance by the speech API alone. Raises SpeechError when it cannot."""
        if self._vendor is None:
            raise SpeechError("there is no engine above the embedded one", retryable=False, reason="closed")
        began = self._clock()
        heard = await self._vendor.transcribe(pcm, session_id=session_id, language=language, prompt=prompt, lane=lane)
        self._set_failing(False)
        took_s = self._clock() - began
        self._usual_s += _REMEMBERED * (took_s - self._usual_s)
        return Recognition(heard, self._vendor.engine.name, "final", took_s)

    async def partial(self, pcm: bytes, *, language: str | None, prompt: str) -> Recognition | None:
        """Recognise speech that goes on, with the best engine only; None if it fails or nothing is to spare."""
        if not self.has_spare:
            return None
        began = self._clock()
        if self._vendor is not None:
            heard = await self._vendor.once(pcm, language=language, prompt=prompt)
            if heard is None:
                return None
            return Recognition(heard, self._vendor.engine.name, "final", self._clock() - began)
        with suppress(SpeechError):
            return await self._by_embedded_once(pcm, "", Lane.LIVE, "partial")
        return None

    async def until_recovered(self) -> None:
        """Wait until the speech API may be called."""
        if self._vendor is not None:
            await self._vendor.until_available()

    async def close(self) -> None:
        """End the calls that go on behind drafts."""
        running = [*self._late, *self._aside]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    # -- the speech API and the draft -----------------------------------------------------------------------------

    async def _in_time(
        self,
        asked: asyncio.Task[Recognition],
        drafting: asyncio.Task[Recognition] | None,
        pcm: bytes,
        session_id: str,
        lane: Lane,
    ) -> Recognition:
        """Return the final text if it is there, else the draft; the call that still runs goes on behind it."""
        reason = "slow"
        if asked.done():
            try:
                recognition = asked.result()
            except SpeechError as fault:
                log.warning("speech api failed", reason=fault.reason)
                reason = fault.reason
            else:
                return recognition
        if lane is Lane.LIVE:
            self._set_failing(True)
        metrics.DRAFTS.labels(reason).inc()
        draft = await (drafting if drafting is not None else self._draft(pcm, session_id, lane))
        if asked.done() or len(self._late) >= _LATE_MAX:
            asked.cancel()
            return draft
        self._late.add(asked)
        asked.add_done_callback(self._forget_late)
        return Recognition(draft.transcription, draft.engine, "draft", draft.engine_s, late=asked)

    def _forget_late(self, task: asyncio.Task[Recognition]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it is told; nobody has to

    async def _set_aside(self, drafting: asyncio.Task[Recognition]) -> None:
        """Let a draft that nobody needs any more come to its end: to break it off costs the engine a process.

        Unless others wait for its place.
        """
        if drafting.done():
            return
        if any(self._workers.waiting(lane) for lane in Lane):
            drafting.cancel()
            await asyncio.wait([drafting])
            return
        self._aside.add(drafting)
        drafting.add_done_callback(self._aside.discard)

    def _set_failing(self, failing: bool) -> None:
        self._failing = failing
        metrics.DEGRADED.set(failing)

    def _draft_times(self, pcm_bytes: int) -> tuple[float, float]:
        """Return when to begin a draft and when to show it, in seconds from the cut.

        It is begun so that it is there in time, and sooner when the API takes longer than it usually does; it is held
        back until it is due, because the final text is better. While the API fails it is begun at once, and shown when
        the API would usually have answered.
        """
        settings = self._settings
        due_s = max(0.0, settings.draft_within_s - settings.endpoint_s - settings.draft_margin_s)
        late_s = self._usual_s + max(_LATE_SHARE * self._usual_s, _LATE_BY_S)
        if self._failing:
            return 0.0, min(due_s, late_s)
        return max(0.0, min(due_s - self._speed * pcm_bytes / _BYTES_PER_SECOND, late_s)), due_s

    async def _draft(self, pcm: bytes, session_id: str, lane: Lane) -> Recognition:
        """Return what the embedded engine hears, or a draft without text if it cannot in time: it will be healed."""
        reason = "timeout"
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.draft_s_max):
                try:
                    return await self._by_embedded_once(pcm, session_id, lane, "draft")
                except SpeechError as fault:
                    reason = fault.reason
        log.warning("draft failed", reason=reason)
        metrics.DRAFTS_EMPTY.inc()
        return Recognition(Transcription(""), NO_ENGINE, "draft", 0.0)

    # -- the embedded engine --------------------------------------------------------------------------------------

    async def _by_embedded(self, pcm: bytes, session_id: str, lane: Lane) -> Recognition:
        """Ask the embedded engine until it answers: its processes are replaced when they die. Raises SpeechError."""
        pause_s = self._settings.embedded_pause_s
        for attempt in range(1, self._settings.embedded_attempts + 1):
            try:
                return await self._by_embedded_once(pcm, session_id, lane, "final")
            except SpeechError as fault:
                log.warning("embedded engine failed", reason=fault.reason)
                if not fault.retryable or attempt == self._settings.embedded_attempts:
                    raise
            await asyncio.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("unreachable")

    async def _by_embedded_once(self, pcm: bytes, session_id: str, lane: Lane, purpose: str) -> Recognition:
        result = "failed"
        async with self._workers.passage(lane, session_id):
            began = self._clock()
            try:
                kind, name = tracing.SpanKind.INTERNAL, f"transcribe {self._embedded.name}"
                with tracing.step(name, kind=kind, model_operation="transcribe", purpose=purpose):
                    heard = await self._embedded.transcribe(
                        pcm, language=None, prompt="", deadline_s=self._settings.embedded_s_max
                    )
                result = "ok"
            finally:
                took = self._clock() - began
                metrics.ENGINE_SECONDS.labels(self._embedded.name, purpose, result).observe(took)
        if pcm:
            seen = took * _BYTES_PER_SECOND / len(pcm)
            self._speed += _REMEMBERED * (seen - self._speed)
        return Recognition(heard, self._embedded.name, self._embedded.quality, took)
