"""How OpenAI's API tells what was heard. Pure. https://platform.openai.com/docs/api-reference/audio"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from verbatim.transcript.v1 import transcript_pb2

Segment = transcript_pb2.Segment


@dataclass(slots=True)
class Transcript:
    """What was heard in a file."""

    segments: list[Segment] = field(default_factory=list)
    duration_s: float = 0.0
    language: str = ""

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    @property
    def is_draft(self) -> bool:
        """Whether any of it was heard by the embedded engine only."""
        return any(segment.quality == transcript_pb2.QUALITY_DRAFT for segment in self.segments)


def json_answer(transcript: Transcript, _: Sequence[str]) -> str:
    """Return `json`."""
    return _dumped({"text": transcript.text, "usage": _usage(transcript)})


def verbose_answer(transcript: Transcript, granularities: Sequence[str]) -> str:
    """Return `verbose_json`, with segments, words or both."""
    answer: dict[str, Any] = {
        "task": "transcribe",
        "language": transcript.language or "unknown",
        "duration": transcript.duration_s,
        "text": transcript.text,
    }
    if "segment" in granularities:
        answer["segments"] = [_segment(number, one) for number, one in enumerate(transcript.segments)]
    if "word" in granularities:
        answer["words"] = [
            {"word": word.text, "start": word.start_s, "end": word.end_s}
            for segment in transcript.segments
            for word in segment.words
        ]
    return _dumped(answer | {"usage": _usage(transcript)})


def text_answer(transcript: Transcript, _: Sequence[str]) -> str:
    """Return `text`."""
    return f"{transcript.text}\n"


def srt_answer(transcript: Transcript, _: Sequence[str]) -> str:
    """Return `srt` (SubRip)."""
    cues = (
        f"{number}\n{_clock(segment.start_s, ',')} --> {_clock(segment.end_s, ',')}\n{segment.text}\n\n"
        for number, segment in enumerate(transcript.segments, start=1)
    )
    return "".join(cues)


def vtt_answer(transcript: Transcript, _: Sequence[str]) -> str:
    """Return `vtt` (WebVTT)."""
    cues = (
        f"{_clock(segment.start_s, '.')} --> {_clock(segment.end_s, '.')}\n{_escaped(segment.text)}\n\n"
        for segment in transcript.segments
    )
    return "WEBVTT\n\n" + "".join(cues)


Answer = Callable[[Transcript, Sequence[str]], str]
ANSWERS: dict[str, tuple[str, Answer]] = {
    "json": ("application/json", json_answer),
    "verbose_json": ("application/json", verbose_answer),
    "text": ("text/plain; charset=utf-8", text_answer),
    "srt": ("text/plain; charset=utf-8", srt_answer),
    "vtt": ("text/plain; charset=utf-8", vtt_answer),
}


def delta_event(segment: Segment, *, first: bool) -> bytes:
    """Return the server-sent event that tells the next piece of text."""
    return _event({"type": "transcript.text.delta", "delta": segment.text if first else f" {segment.text}"})


def done_event(transcript: Transcript) -> bytes:
    """Return the server-sent event that ends a stream well."""
    return _event({"type": "transcript.text.done", "text": transcript.text, "usage": _usage(transcript)})


def error_event(error: dict[str, object]) -> bytes:
    """Return the server-sent event that ends a stream that cannot go on."""
    return _event(error)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration_s)}


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    text = segment.text.encode()
    confidence = segment.confidence if segment.HasField("confidence") else 1.0
    return {
        "id": number,
        "seek": 0,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": f" {segment.text}",
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": math.log(max(confidence, 1e-6)),
        "compression_ratio": len(text) / len(zlib.compress(text)) if text else 0.0,
        # What was no speech is not here.
        "no_speech_prob": 0.0,
    }


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    return (
        f"{milliseconds // 3_600_000:02}:{milliseconds // 60_000 % 60:02}:{milliseconds // 1000 % 60:02}"
        f"{point}{milliseconds % 1000:03}"
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _dumped(body: dict[str, Any]) -> str:
    return orjson.dumps(body).decode()
