"""Server-sent events as text, and what viewers are told in them. Pure.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from typing import Any

import orjson
from verbatim.captions.v1.captions_pb2 import Caption
from verbatim.insights.v1 import insights_pb2
from verbatim.meetings.v1 import meetings_pb2 as pb

from chassis.errors import AppError
from services.gateway import wire
from services.gateway.api.insights import Insights
from services.gateway.api.transcripts import Segment

PING = b": ping\n\n"
# One event, for the document.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "required": ["data"],
}

# The number of an entry; `-end` behind it says that the end of the meeting was told too.
_ID = re.compile(r"(0|[1-9][0-9]{0,17})(-end)?")


def parse_id(text: str) -> tuple[int, bool] | None:
    """Return (number, whether the end was told) of a Last-Event-ID; None if we never wrote such a one."""
    match = _ID.fullmatch(text)
    return (int(match[1]), match[2] is not None) if match else None


def end_id(number: int) -> str:
    """Return the id of the end of a meeting of which `number` is the newest entry."""
    return f"{number}-end"


def retry(milliseconds: int) -> bytes:
    """Return how long the browser waits before it connects again."""
    return b"retry: %d\n\n" % milliseconds


def event(data: dict[str, Any], event_id: str = "") -> bytes:
    """Return a message as an event of its type. Only durable ones have an id."""
    head = f"id: {event_id}\n" if event_id else ""
    # JSON as it is written here holds no line end.
    return f"{head}event: {data['type']}\ndata: ".encode() + orjson.dumps(data) + b"\n\n"


def entry(found: pb.MeetingEntry, minutes: insights_pb2.Insights | None) -> bytes:
    """Return what was stored as an event. `minutes` are those of an entry that says that there are some."""
    data: dict[str, Any]
    match found.WhichOneof("kind"):
        case "segment":
            kind = "segment" if found.segment.revision == 1 else "revised"
            data = {"type": kind, **Segment.of(found.segment).model_dump()}
        case "gap":
            gap = found.gap
            data = {"type": "gap", "session_id": gap.session_id, "start": gap.start_s, "end": gap.end_s}
            data["reason"] = gap.reason
        case _:
            assert minutes is not None
            data = {"type": "insights", **Insights.of(minutes).model_dump(mode="json")}
    return event(data, str(found.number))


def partial(caption: Caption, shift_s: float) -> bytes:
    """Return a partial text; its times count from the start of the meeting, as those of a segment do."""
    data = wire.render_partial(caption.partial)
    times = {"start": round(data["start"] + shift_s, 3), "end": round(data["end"] + shift_s, 3)}
    return event({**data, **times, "session_id": caption.session_id, "speaker": caption.speaker or None})


def status(caption: Caption) -> bytes:
    """Return how well a session is served."""
    return event({**wire.render_status(caption.status), "session_id": caption.session_id})


def finished(meeting: pb.Meeting, newest: int) -> bytes:
    """Return the end of a meeting with its accounts."""
    data = {
        "type": "finished",
        "meeting_id": meeting.id,
        "segments": meeting.segments,
        "audio_seconds": meeting.audio_s,
        "gap_seconds": meeting.gap_s,
        "draft_segments": meeting.draft_segments,
        "coverage": meeting.coverage if meeting.HasField("coverage") else None,
    }
    return event(data, end_id(newest))


def error(fault: AppError, request_id: str) -> bytes:
    """Return why the stream ends before the meeting does."""
    return event({"type": "error", **fault.body(request_id), "fatal": True, "retryable": fault.codes.retryable})
