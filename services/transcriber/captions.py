"""What viewers of a meeting are told at once: partial texts and states. Lossy, so that it costs a session nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from verbatim.captions.v1.captions_pb2 import Caption
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import bus, telemetry
from services.transcriber import metrics

log = telemetry.logger(__name__)

_WAITING_MAX = 1000
_PUBLISH_S = 1.0


class Captions:
    """Publishes to `captions.<meeting>`. Saying never waits; what the broker does not take is dropped, oldest first."""

    def __init__(self, publish: Callable[[str, bytes], Awaitable[None]], *, waiting_max: int = _WAITING_MAX) -> None:
        self._publish = publish
        self._waiting: deque[tuple[str, Caption]] = deque()
        self._waiting_max = waiting_max
        self._ready = asyncio.Event()

    def say(
        self, session_id: str, opened: pb.Opened, status: relay.Status, partial: relay.Partial | None = None
    ) -> None:
        """Tell how well a session is served, and the text of speech that goes on in it."""
        caption = Caption(session_id=session_id, speaker=opened.speaker, status=status, partial=partial)
        if len(self._waiting) >= self._waiting_max:
            self._waiting.popleft()
            metrics.CAPTIONS_DROPPED.inc()
        self._waiting.append((f"captions.{opened.meeting_id}", caption))
        self._ready.set()

    async def run(self) -> None:
        """Publish, for ever."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._waiting:
                subject, caption = self._waiting.popleft()
                try:
                    async with asyncio.timeout(_PUBLISH_S):
                        await self._publish(subject, caption.SerializeToString())
                except bus.FAULTS as fault:
                    metrics.CAPTIONS_DROPPED.inc()
                    log.debug("caption dropped", fault=repr(fault))
