"""Interim captions: the text of speech that goes on, made when there is capacity to spare."""

from __future__ import annotations

from verbatim.transcriber.v1 import transcriber_pb2 as relay

from services.transcriber.filters import stable_prefix
from services.transcriber.recognition import Recogniser
from services.transcriber.transcript import BYTES_PER_SECOND, seconds


class Partials:
    """Decides when a session's next partial text is due, and what of it is stable. One at a time."""

    def __init__(self, recogniser: Recogniser, *, every_s: float, min_s: float) -> None:
        self._recogniser = recogniser
        self._every_s = every_s
        self._min_bytes = int(min_s * BYTES_PER_SECOND)
        self._last_at = 0.0
        self._busy = False
        self._segment_id = ""
        self._text = ""

    def due(self, now: float, spoken_bytes: int) -> bool:
        """Tell whether a text of `spoken_bytes` of speech should be made now."""
        return (
            not self._busy
            and now - self._last_at >= self._every_s
            and spoken_bytes >= self._min_bytes
            and self._recogniser.has_spare
        )

    async def make(
        self, pcm: bytes, start_byte: int, segment_id: str, index: int, *, now: float, language: str | None, prompt: str
    ) -> relay.Partial | None:
        """Recognise speech from `start_byte`; None if there is no text."""
        self._busy, self._last_at = True, now
        try:
            recognition = await self._recogniser.partial(pcm, language=language, prompt=prompt)
        finally:
            self._busy = False
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
