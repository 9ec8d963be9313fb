"""A speech engine and a client for tests of sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from verbatim.transcriber.v1 import transcriber_pb2 as relay

from services.transcriber.recognition import Recognition
from services.transcriber.session import LiveSession
from services.transcriber.speech import SpeechError
from services.transcriber.transcription import Transcription


class CountingSpeech:
    """An engine whose text tells how much audio it heard. `failures` are raised first, `gate` holds answers back."""

    def __init__(self, name: str = "counting", quality: Literal["final", "draft"] = "final") -> None:
        self.name = name
        self.quality: Literal["final", "draft"] = quality
        self.failures: list[SpeechError] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.heard_bytes: list[int] = []
        self.asked = 0

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to close."""

    async def transcribe(self, pcm: bytes, *, language: str | None, prompt: str, deadline_s: float) -> Transcription:
        """Return the number of bytes as text."""
        del language, prompt
        self.asked += 1
        async with asyncio.timeout(deadline_s):
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.heard_bytes.append(len(pcm))
        return Transcription(text=f"heard {len(pcm)} bytes", confidence=0.9)


class OneEngine:
    """Engines as healing needs them: one, and a switch that says whether it can be used."""

    def __init__(self, engine: CountingSpeech) -> None:
        self.engine = engine
        self.usable = asyncio.Event()
        self.usable.set()
        self.prompts: list[str] = []

    @property
    def heals(self) -> bool:
        return self.engine.quality == "final"

    @property
    def available(self) -> bool:
        return self.usable.is_set()

    async def until_recovered(self) -> None:
        """Wait for the switch."""
        await self.usable.wait()

    async def again(self, pcm: bytes, *, session_id: str, language: str | None, prompt: str) -> Recognition:
        """Ask the engine."""
        del session_id
        self.prompts.append(prompt)
        heard = await self.engine.transcribe(pcm, language=language, prompt=prompt, deadline_s=30.0)
        return Recognition(heard, self.engine.name, self.engine.quality, 0.0)


class Client:
    """The end of a channel: keeps what it is told and waits for what it wants."""

    def __init__(self) -> None:
        self.events: list[relay.ServerEvent] = []
        self._news = asyncio.Event()
        self.session: LiveSession | None = None

    def send(self, event: relay.ServerEvent) -> None:
        """Take an event."""
        self.events.append(event)
        self._news.set()

    def moved(self, session: LiveSession) -> None:
        """Note where the session lives now."""
        self.session = session

    def of(self, kind: str) -> list[relay.ServerEvent]:
        """Return the events of one kind."""
        return [event for event in self.events if event.WhichOneof("kind") == kind]

    @property
    def acked_offset(self) -> int:
        return max((event.ack.offset for event in self.of("ack")), default=0)

    @property
    def indexes(self) -> list[int]:
        return [event.entry.segment.index for event in self.of("entry") if event.entry.HasField("segment")]

    async def until(self, holds: Callable[[Client], object], within_s: float = 10.0) -> None:
        """Wait until a condition holds. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not holds(self):
                self._news.clear()
                await self._news.wait()
