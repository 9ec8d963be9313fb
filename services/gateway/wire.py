"""The live protocol as JSON: what clients may say, and how what they are told is written. Pure."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import parse_qs

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis.errors import AppError, Kind, Problem

OFFSET_BYTES = 8
AUDIO_BYTES_MAX = 64 * 1024
TEXT_BYTES_MAX = 16 * 1024
SAMPLE_RATE = 16_000

ENCODINGS: dict[str, pb.Encoding.ValueType] = {
    "pcm_s16le": pb.ENCODING_PCM_S16LE,
    "webm_opus": pb.ENCODING_WEBM_OPUS,
    "ogg_opus": pb.ENCODING_OGG_OPUS,
}
_ENCODING_NAMES = {number: name for name, number in ENCODINGS.items()}
# An encoded stream says itself what it holds: what `start` says of it is accepted where it may be so.
_RATES = {"pcm_s16le": (SAMPLE_RATE,), "webm_opus": (SAMPLE_RATE, 48_000), "ogg_opus": (SAMPLE_RATE, 48_000)}
_CHANNELS = {"pcm_s16le": (1,), "webm_opus": (1, 2), "ogg_opus": (1, 2)}
_STATES = {
    relay.STATE_OK: "ok",
    relay.STATE_DEGRADED: "degraded",
    relay.STATE_HOLD: "hold",
    relay.STATE_CATCHING_UP: "catching_up",
    relay.STATE_DRAINING: "draining",
}
_GAP_REASONS = {pb.GAP_REASON_CLIENT_MISSING: "client_missing", pb.GAP_REASON_UNDECODABLE: "undecodable"}


class ResumeRequest(BaseModel):
    """What a client shows to come back to a session."""

    session_id: str = Field(max_length=64)
    resume_token: str = Field(max_length=256)
    last_event: int = Field(0, ge=0)


class StartMessage(BaseModel):
    """The first message of a connection. Unknown fields are ignored: newer clients may talk to older servers."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["start"]
    token: str | None = Field(None, max_length=8192)
    meeting_id: str | None = Field(None, max_length=64)
    title: str | None = Field(None, max_length=200)
    encoding: str = "pcm_s16le"
    sample_rate: int = SAMPLE_RATE
    channels: int = 1
    language: str | None = Field(None, pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?$")
    prompt: str | None = Field(None, max_length=1000)
    vocabulary: list[str] = Field(default_factory=list, max_length=100)
    speaker: str | None = Field(None, max_length=80)
    interim: bool = True
    resume: ResumeRequest | None = None


def ticket_of(query: bytes) -> str:
    """Return the one-time ticket of a handshake's query; empty if there is none. Given twice, it is none."""
    given = parse_qs(query.decode("latin-1")).get("ticket", [])
    return given[0] if len(given) == 1 else ""


def parse_json(text: str) -> dict[str, Any]:
    """Return a client's message. Raises AppError(BAD_REQUEST) if it is not a JSON object with a `type`."""
    if len(text) > TEXT_BYTES_MAX:
        raise AppError(Kind.PAYLOAD_TOO_LARGE, "A message may have 16 KiB.")
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise AppError(Kind.BAD_REQUEST, "The message is not JSON.") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise AppError(Kind.BAD_REQUEST, "The message is not an object with a type.")
    return message


def parse_start(message: dict[str, Any]) -> StartMessage:
    """Return the first message, checked. Raises AppError that names the field."""
    try:
        start = StartMessage.model_validate(message)
    except ValidationError as fault:
        details = tuple(
            Problem(".".join(str(part) for part in error["loc"]), error["msg"])
            for error in fault.errors(include_input=False, include_url=False, include_context=False)
        )
        raise AppError(Kind.VALIDATION_FAILED, "The start message is not valid.", details=details) from None
    if start.encoding not in ENCODINGS:
        raise AppError(Kind.UNSUPPORTED_MEDIA_TYPE, f"Supported encodings: {', '.join(ENCODINGS)}.")
    allowed = (("sample_rate", start.sample_rate, _RATES), ("channels", start.channels, _CHANNELS))
    for name, given, table in allowed:
        if given not in table[start.encoding]:
            problem = Problem(name, f"must be {' or '.join(map(str, table[start.encoding]))}")
            raise AppError(Kind.VALIDATION_FAILED, "The start message is not valid.", details=(problem,))
    if any(len(word) > 80 for word in start.vocabulary):
        problem = Problem("vocabulary", "a word may have 80 characters")
        raise AppError(Kind.VALIDATION_FAILED, "The start message is not valid.", details=(problem,))
    return start


def parse_audio(frame: bytes) -> tuple[int, bytes]:
    """Return (offset, audio) of a binary frame. Raises AppError: PAYLOAD_TOO_LARGE or, too short, BAD_REQUEST."""
    if len(frame) > OFFSET_BYTES + AUDIO_BYTES_MAX:
        raise AppError(Kind.PAYLOAD_TOO_LARGE, "A frame may carry 64 KiB of audio.")
    if len(frame) <= OFFSET_BYTES:
        raise AppError(Kind.BAD_REQUEST, "A frame is 8 bytes of offset and at least one byte of audio.")
    offset = int.from_bytes(frame[:OFFSET_BYTES], "big")
    if offset >= 1 << 62:
        raise AppError(Kind.BAD_REQUEST, "The offset is out of range.")
    return offset, frame[OFFSET_BYTES:]


def parse_control(message: dict[str, Any], channel: int) -> relay.ClientEvent:
    """Return what a text message asks of the transcriber. Raises AppError if it is none of the protocol's."""
    event = relay.ClientEvent(channel=channel)
    match message["type"]:
        case "finalize":
            event.finalize.SetInParent()
        case "pause":
            event.pause.paused = True
        case "unpause":
            event.pause.SetInParent()
        case "gap":
            event.gap.from_offset, event.gap.to_offset = (_offset(message, name) for name in ("from", "to"))
        case "finish":
            event.finish.SetInParent()
            if message.get("offset") is not None:
                event.finish.offset = _offset(message, "offset")
        case "start":
            raise AppError(Kind.CONFLICT, "The session has started already.")
        case _:
            raise AppError(Kind.BAD_REQUEST, "The message's type is not known.")
    return event


def _offset(message: dict[str, Any], name: str) -> int:
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        problem = Problem(name, "must be a number of bytes")
        raise AppError(Kind.VALIDATION_FAILED, "The message is not valid.", details=(problem,))
    return value


def dumps(message: dict[str, Any]) -> str:
    """Return the text frame of a message."""
    return orjson.dumps(message).decode()


def render(event: relay.ServerEvent, session_id: str) -> dict[str, Any]:
    """Return a transcriber's event as the client's message. Errors are not rendered here: they need the request id."""
    match event.WhichOneof("kind"):
        case "ack":
            return {"type": "ack", "offset": event.ack.offset, "stored_offset": event.ack.stored_offset}
        case "partial":
            return render_partial(event.partial)
        case "entry":
            return render_entry(event.entry)
        case "status":
            return render_status(event.status)
        case "started":
            return _started(event.started)
        case "restored":
            return _restored(event.restored)
        case "finished":
            return _finished(event.finished)
        case kind:
            raise ValueError(f"{kind} cannot be rendered for {session_id}")


def render_partial(partial: relay.Partial) -> dict[str, Any]:
    """Return the text of speech that goes on."""
    return {
        "type": "partial",
        "segment_id": partial.segment_id,
        "index": partial.index,
        "start": partial.start_s,
        "end": partial.end_s,
        "text": partial.text,
        "stable_chars": partial.stable_chars,
    }


def render_status(status: relay.Status) -> dict[str, Any]:
    """Return how well a session is served."""
    message = {"type": "status", "state": _STATES[status.state], "lag_s": round(status.lag_s, 3)}
    return message | ({"reason": status.reason} if status.reason else {})


def render_entry(entry: pb.TranscriptEntry) -> dict[str, Any]:
    """Return a segment, revision or gap of the transcript log."""
    if entry.WhichOneof("kind") == "gap":
        gap = entry.gap
        return {
            "type": "gap",
            "event": entry.event,
            "start": gap.start_s,
            "end": gap.end_s,
            "reason": _GAP_REASONS[gap.reason],
            "start_offset": gap.start_offset,
            "end_offset": gap.end_offset,
        }
    segment = entry.segment
    return {
        "type": "segment" if segment.revision == 1 else "revised",
        "event": entry.event,
        "id": segment.segment_id,
        "segment_id": segment.segment_id,
        "session_id": entry.session_id,
        "index": segment.index,
        "revision": segment.revision,
        "speaker": segment.speaker or None,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "confidence": segment.confidence if segment.HasField("confidence") else None,
        "engine": segment.engine,
        "quality": "draft" if segment.quality == pb.QUALITY_DRAFT else "final",
        "start_offset": segment.start_offset,
        "end_offset": segment.end_offset,
        "words": [
            {
                "text": word.text,
                "start": round(word.start_s, 3),
                "end": round(word.end_s, 3),
                "probability": word.probability if word.HasField("probability") else None,
            }
            for word in segment.words
        ],
    }


def _settings(opened: pb.Opened) -> dict[str, Any]:
    return {
        "encoding": _ENCODING_NAMES[opened.encoding],
        "sample_rate": opened.sample_rate,
        "channels": opened.channels,
        "language": opened.language or None,
        "speaker": opened.speaker or None,
        "interim": opened.interim,
    }


def _started(started: relay.Started) -> dict[str, Any]:
    return {
        "type": "started",
        "event": started.event,
        "session_id": started.session_id,
        "meeting_id": started.meeting_id,
        "resume_token": started.resume_token,
        "offset": 0,
        "window_bytes": started.window_bytes,
        "resume_window_s": started.resume_window_s,
        "engine": started.engine,
        "settings": _settings(started.settings),
    }


def _restored(restored: relay.Restored) -> dict[str, Any]:
    entries = [render_entry(entry) for entry in restored.entries]
    return {
        "type": "session_restored",
        "event": restored.event,
        "session_id": restored.session_id,
        "meeting_id": restored.meeting_id,
        "status": "resumed",
        "offset": restored.offset,
        "stored_offset": restored.stored_offset,
        "segments": [entry for entry in entries if entry["type"] != "gap"],
        "gaps": [entry for entry in entries if entry["type"] == "gap"],
        "resume_token": restored.resume_token,
        "window_bytes": restored.window_bytes,
        "resume_window_s": restored.resume_window_s,
        "settings": _settings(restored.settings),
    }


def _finished(finished: relay.Finished) -> dict[str, Any]:
    accounts = finished.accounts
    return {
        "type": "finished",
        "event": finished.event,
        "meeting_id": finished.meeting_id,
        "segments": accounts.segments,
        "audio_seconds": accounts.audio_s,
        "gap_seconds": accounts.gap_s,
        "transcribed_seconds": accounts.transcribed_s,
        "silence_seconds": accounts.silence_s,
        "draft_segments": accounts.draft_segments,
        "coverage": accounts.coverage,
    }
