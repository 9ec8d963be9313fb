"""`/api/meetings/{id}/segments` and `/export`: what was said."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from verbatim.meetings.v1 import meetings_pb2 as pb
from verbatim.meetings.v1.meetings_pb2_grpc import MeetingsServiceStub

from chassis.rpc import Peer
from services.gateway.auth import Who
from services.gateway.errors import READ, documented
from services.gateway.resources import Id, Page, Paging


class Format(StrEnum):
    """How a transcript is written down."""

    TXT = "txt"
    MD = "md"
    SRT = "srt"
    VTT = "vtt"
    JSON = "json"


_FORMATS = {
    Format.TXT: (pb.EXPORT_FORMAT_TXT, "text/plain; charset=utf-8"),
    Format.MD: (pb.EXPORT_FORMAT_MD, "text/markdown; charset=utf-8"),
    Format.SRT: (pb.EXPORT_FORMAT_SRT, "application/x-subrip; charset=utf-8"),
    Format.VTT: (pb.EXPORT_FORMAT_VTT, "text/vtt; charset=utf-8"),
    Format.JSON: (pb.EXPORT_FORMAT_JSON, "application/json"),
}


class SegmentQuery(Paging):
    """Which segments."""

    after: int | None = Field(
        None,
        ge=0,
        le=2**31 - 1,
        description="Only segments with a greater `index`, in every session of the meeting: send the greatest one that "
        "you have, and you get what was added since.",
    )


class Heard(BaseModel):
    """What was heard, where something else is shown; null where it is shown itself, or had no name."""

    text: str | None
    speaker: str | None


class Segment(BaseModel):
    """A stretch of speech as text."""

    id: str
    session_id: str
    index: int = Field(description="Grows by one within the session.")
    revision: int = Field(description="Grows when a better text is heard, and when a person changes it.")
    version: int = Field(description="The same number: what a change names in If-Match.")
    speaker: str | None
    start: float = Field(description="Seconds from the start of the meeting.")
    end: float
    text: str
    confidence: float | None = Field(description="0 to 1, where the engine tells.")
    engine: str
    quality: Literal["final", "draft"] = Field(description="Of what was heard.")
    edited: list[Literal["text", "speaker"]] = Field(
        description="Fields that hold a person's words, and are left alone when it is heard again."
    )
    heard: Heard

    @classmethod
    def of(cls, segment: pb.TranscriptSegment) -> Segment:
        return cls(
            id=segment.id,
            session_id=segment.session_id,
            index=segment.index,
            revision=segment.revision,
            version=segment.revision,
            speaker=segment.speaker or None,
            start=segment.start_s,
            end=segment.end_s,
            text=segment.text,
            confidence=segment.confidence if segment.HasField("confidence") else None,
            engine=segment.engine,
            quality=segment.quality,
            edited=list(segment.edited),
            heard=Heard(
                text=segment.heard_text if segment.HasField("heard_text") else None,
                speaker=segment.heard_speaker or None,
            ),
        )


def routes(meetings: Peer, *, timeout_s: float, export_timeout_s: float) -> APIRouter:
    """Return the routes below a meeting that read its transcript."""
    router = APIRouter(prefix="/api/meetings/{meeting_id}", tags=["transcripts"])
    stub = MeetingsServiceStub(meetings.channel)

    @router.get("/segments", responses=documented(*READ))
    async def list_segments(meeting_id: Id, query: Annotated[SegmentQuery, Query()], who: Who) -> Page[Segment]:
        """List the segments in the order in which they were spoken, the newest revision of each."""
        request = pb.ListSegmentsRequest(
            owner_id=who.account_id,
            meeting_id=meeting_id,
            limit=query.limit,
            cursor=query.cursor or "",
            after_index=query.after,
        )
        answer = await meetings.call(stub.ListSegments, request, timeout_s=timeout_s)
        return Page(items=[Segment.of(one) for one in answer.segments], next_cursor=answer.next_cursor or None)

    @router.get(
        "/export",
        response_class=StreamingResponse,
        responses={
            **documented(*READ),
            200: {
                "description": "The transcript as a file.",
                "content": {
                    media.partition(";")[0]: {"schema": {"type": "object" if form is Format.JSON else "string"}}
                    for form, (_, media) in _FORMATS.items()
                },
                "headers": {"Content-Disposition": {"schema": {"type": "string"}}},
            },
        },
    )
    async def export_meeting(meeting_id: Id, who: Who, format: Format = Format.TXT) -> StreamingResponse:  # noqa: A002
        """Read the whole transcript as a file."""
        wanted, media_type = _FORMATS[format]
        known = await meetings.call(
            stub.GetMeeting, pb.GetMeetingRequest(owner_id=who.account_id, meeting_id=meeting_id), timeout_s=timeout_s
        )
        request = pb.ExportMeetingRequest(owner_id=who.account_id, meeting_id=meeting_id, format=wanted)
        pieces = meetings.stream(stub.ExportMeeting, request, timeout_s=export_timeout_s)
        # A failure to begin is still an answer of its own; later ones can only cut the file short.
        first = await anext(pieces, pb.ExportMeetingResponse())
        headers = {"Content-Disposition": disposition(known.meeting.title, format.value)}
        return StreamingResponse(_contents(first, pieces), media_type=media_type, headers=headers)

    return router


async def _contents(
    first: pb.ExportMeetingResponse, rest: AsyncIterator[pb.ExportMeetingResponse]
) -> AsyncIterator[bytes]:
    yield first.piece
    async for answer in rest:
        yield answer.piece


def disposition(title: str, extension: str) -> str:
    """Return the Content-Disposition for a file named after a title (RFC 6266): whatever the title, one safe line."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", title)[:60].strip("-") or "meeting"
    full = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]+', " ", title)[:80].strip(" .") or "meeting"
    return f"attachment; filename=\"{plain}.{extension}\"; filename*=UTF-8''{quote(full, safe='')}.{extension}"
