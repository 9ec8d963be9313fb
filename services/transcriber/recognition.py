"""From audio to text with the engines there are: the first that can, and its filters."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Literal

from chassis import telemetry
from services.transcriber import metrics
from services.transcriber.speech import SpeechEngine, SpeechError
from services.transcriber.transcription import Transcription

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Recognition:
    """A text with the engine that heard it and the seconds that it took."""

    transcription: Transcription
    engine: str
    quality: Literal["final", "draft"]
    engine_s: float


class Recogniser:
    """Bounded access to the engines, best one first. The last one is the embedded engine, which is always there."""

    def __init__(
        self, engines: list[SpeechEngine], *, concurrency: int, deadline_s_max: float, again_after_s: float = 5.0
    ) -> None:
        self.engines = engines
        self._slots = asyncio.Semaphore(concurrency)
        self._concurrency = concurrency
        self._running = 0
        self._deadline_s_max = deadline_s_max
        self._again_after_s = again_after_s
        self._usable_at = 0.0

    @property
    def primary(self) -> SpeechEngine:
        return self.engines[0]

    @property
    def heals(self) -> bool:
        """Whether drafts can be heard again: the best engine is better than the one that writes them."""
        return self.primary.quality == "final"

    @property
    def degraded(self) -> bool:
        """Whether the best engine has just failed."""
        return time.monotonic() < self._usable_at

    async def until_recovered(self) -> None:
        """Wait until it is time to try the best engine again."""
        await asyncio.sleep(max(0.0, self._usable_at - time.monotonic()))

    async def again(self, pcm: bytes, *, session_id: str, language: str | None, prompt: str) -> Recognition:
        """Recognise what only a lesser engine has heard, with the best one. Raises SpeechError."""
        del session_id
        async with self._slots:
            self._running += 1
            try:
                return await self._attempt(self.primary, pcm, language, prompt, "heal")
            finally:
                self._running -= 1

    @property
    def has_spare(self) -> bool:
        """Whether a partial text can be had without delaying a final one."""
        return self._running < max(1, int(self._concurrency * 0.8))

    async def final(self, pcm: bytes, *, language: str | None, prompt: str) -> Recognition:
        """Recognise an utterance with the first engine that can. Raises SpeechError when none could."""
        async with self._slots:
            self._running += 1
            try:
                for engine in self.engines[:-1]:
                    try:
                        return await self._attempt(engine, pcm, language, prompt, "final")
                    except SpeechError as fault:
                        log.warning("speech engine failed", engine=engine.name, reason=fault.reason)
                return await self._attempt(self.engines[-1], pcm, language, prompt, "final")
            finally:
                self._running -= 1

    async def partial(self, pcm: bytes, *, language: str | None, prompt: str) -> Recognition | None:
        """Recognise speech that goes on, with the best engine only; None if it fails or nothing is to spare."""
        if not self.has_spare:
            return None
        self._running += 1
        try:
            return await self._attempt(self.primary, pcm, language, prompt, "partial")
        except SpeechError:
            return None
        finally:
            self._running -= 1

    async def _attempt(
        self, engine: SpeechEngine, pcm: bytes, language: str | None, prompt: str, purpose: str
    ) -> Recognition:
        deadline_s = min(self._deadline_s_max, 2.0 + 2.0 * len(pcm) / 32_000)
        started = time.monotonic()
        result = "failed"
        try:
            transcription = await engine.transcribe(pcm, language=language, prompt=prompt, deadline_s=deadline_s)
            result = "ok"
            if engine is self.primary:
                self._usable_at = 0.0
        except SpeechError:
            if engine is self.primary:
                self._usable_at = time.monotonic() + self._again_after_s
            raise
        finally:
            took = time.monotonic() - started
            metrics.ENGINE_SECONDS.labels(engine.name, purpose, result).observe(took)
        return Recognition(transcription, engine.name, engine.quality, took)
