"""`/api/meetings`: meetings and what is known of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query, Response
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, Field
from verbatim.meetings.v1 import meetings_pb2 as pb
from verbatim.meetings.v1.meetings_pb2_grpc import MeetingsServiceStub

from chassis import ids
from chassis.errors import AppError, Kind, Problem
from chassis.rpc import Peer
from services.gateway.auth import Who
from services.gateway.errors import BODY, CHANGE, READ, documented
from services.gateway.resources import (
    ETAG,
    REPLAYED,
    Claimed,
    ExpectedVersion,
    Id,
    Language,
    Name,
    Page,
    Paging,
    Sent,
    Since,
    Title,
    Until,
    Words,
    fields_sent,
    moment,
    tag,
    tag_replayed,
)

Participants = Annotated[list[Name], Field(max_length=100, examples=[["Ada", "Grace"]])]


MeetingStatus = Literal["created", "live", "processing", "completed", "failed"]


class NewMeeting(Sent):
    """A meeting to come."""

    title: Title = Field(examples=["Planning"])
    language: Language | None = None
    participants: Participants = Field(default_factory=list)


class MeetingChange(Sent):
    """What to change; fields that are not sent stay."""

    title: Title = Field("", examples=["Planning, second round"])
    language: Language | None = Field(None, description="Null: recognised by itself.")
    participants: Participants = Field(default_factory=list)


class MeetingQuery(Paging):
    """Which meetings: newest first, or best first if words are looked for; all conditions together."""

    q: Words = Field(
        "", description='Words in title, transcript or minutes: all of them, "a phrase", -without, one or another.'
    )
    since: Since | None = Field(None, alias="from", description="Created then or later.")
    until: Until | None = Field(None, alias="to", description="Created before; a day counts as a whole.")
    status: MeetingStatus | None = Field(None, description="Only those of which this is true now.")


class Meeting(BaseModel):
    """A meeting."""

    id: str
    title: str
    language: str | None
    participants: list[str]
    status: MeetingStatus
    version: int
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    segments: int
    draft_segments: int = Field(description="Segments that the embedded engine wrote.")
    healing_segments: int = Field(description="Of these, those that will be heard again by the speech API.")
    given_up_segments: int = Field(description="Of these, those that stay as they are: their audio is gone.")
    audio_seconds: float
    gap_seconds: float
    coverage: float | None = Field(description="(transcribed + silence) / received, once a session is over.")

    @classmethod
    def of(cls, meeting: pb.Meeting) -> Self:
        return cls(
            id=meeting.id,
            title=meeting.title,
            language=meeting.language or None,
            participants=list(meeting.participants),
            status=meeting.status,
            version=meeting.version,
            created_at=moment(meeting.created_at),
            updated_at=moment(meeting.updated_at),
            started_at=moment(meeting.started_at) if meeting.HasField("started_at") else None,
            ended_at=moment(meeting.ended_at) if meeting.HasField("ended_at") else None,
            segments=meeting.segments,
            draft_segments=meeting.draft_segments,
            healing_segments=meeting.healing_segments,
            given_up_segments=meeting.given_up_segments,
            audio_seconds=meeting.audio_s,
            gap_seconds=meeting.gap_s,
            coverage=meeting.coverage if meeting.HasField("coverage") else None,
        )


class SnippetPart(BaseModel):
    """A piece of the text around what was found; plain text, in which markup means nothing."""

    text: str
    match: bool = Field(description="It is one of the words.")


class Hit(BaseModel):
    """A place where words were found."""

    kind: Literal["title", "minutes", "segment"]
    snippet: list[SnippetPart]
    segment_id: str | None = Field(description="Of a segment, as all that follows.")
    session_id: str | None
    index: int | None
    speaker: str | None
    start: float | None = Field(description="Seconds from the start of the meeting.")
    end: float | None

    @classmethod
    def of_message(cls, hit: pb.Hit) -> Hit:
        said = hit.kind == "segment"
        return cls(
            kind=hit.kind,
            snippet=[SnippetPart(text=part.text, match=part.match) for part in hit.snippet],
            segment_id=hit.segment_id if said else None,
            session_id=hit.session_id if said else None,
            index=hit.index if said else None,
            speaker=hit.speaker if said else None,
            start=hit.start_s if said else None,
            end=hit.end_s if said else None,
        )


class ListedMeeting(Meeting):
    """A meeting in a list."""

    hits: list[Hit] = Field([], description="Where the words were found; with `q` only.")


def routes(meetings: Peer, *, timeout_s: float) -> APIRouter:
    """Return the routes of `/api/meetings`."""
    router = APIRouter(prefix="/api/meetings", tags=["meetings"])
    stub = MeetingsServiceStub(meetings.channel)

    @router.post(
        "",
        status_code=201,
        responses={**documented(*BODY, Kind.UNAUTHORIZED, Kind.CONFLICT), 201: {"headers": ETAG | REPLAYED}},
    )
    async def create_meeting(body: NewMeeting, who: Who, claim: Claimed, response: Response) -> Meeting:
        """Make a meeting, which a live session or an upload then fills."""
        request = pb.CreateMeetingRequest(
            owner_id=who.account_id,
            meeting_id=ids.new_id(),
            title=body.title,
            language=body.language or "",
            participants=body.participants,
            claim=claim,
        )
        answer = await meetings.call(stub.CreateMeeting, request, timeout_s=timeout_s)
        response.headers["Location"] = f"/api/meetings/{answer.meeting.id}"
        tag(response, answer.meeting.version)
        tag_replayed(response, answer.replayed)
        return Meeting.of(answer.meeting)

    @router.get("", responses=documented(Kind.UNAUTHORIZED, Kind.VALIDATION_FAILED))
    async def list_meetings(query: Annotated[MeetingQuery, Query()], who: Who) -> Page[ListedMeeting]:
        """List your meetings, newest first; those that hold the words of `q`, best first."""
        if query.since and query.until and query.since >= query.until:
            problem = Problem("to", "Should be later than from")
            raise AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=(problem,))
        request = pb.ListMeetingsRequest(
            owner_id=who.account_id,
            query=query.q,
            limit=query.limit,
            cursor=query.cursor or "",
            to=_timestamp(query.until),
            status=query.status or "",
        )
        if query.since:
            # The field's name is a word of Python.
            getattr(request, "from").FromDatetime(query.since)
        answer = await meetings.call(stub.ListMeetings, request, timeout_s=timeout_s)
        items = [ListedMeeting.of(one) for one in answer.meetings]
        for item, found in zip(items, answer.hits, strict=False):
            item.hits = [Hit.of_message(hit) for hit in found.hits]
        return Page(items=items, next_cursor=answer.next_cursor or None)

    @router.get("/{meeting_id}", responses={**documented(*READ), 200: {"headers": ETAG}})
    async def get_meeting(meeting_id: Id, who: Who, response: Response) -> Meeting:
        """Read one meeting."""
        request = pb.GetMeetingRequest(owner_id=who.account_id, meeting_id=meeting_id)
        answer = await meetings.call(stub.GetMeeting, request, timeout_s=timeout_s)
        tag(response, answer.meeting.version)
        return Meeting.of(answer.meeting)

    @router.patch("/{meeting_id}", responses={**documented(*BODY, *CHANGE), 200: {"headers": ETAG}})
    async def change_meeting(
        meeting_id: Id, body: MeetingChange, version: ExpectedVersion, who: Who, response: Response
    ) -> Meeting:
        """Change a meeting that nobody has changed since you read it."""
        sent = fields_sent(body)
        request = pb.UpdateMeetingRequest(
            owner_id=who.account_id,
            meeting_id=meeting_id,
            expected_version=version,
            title=body.title if "title" in sent else None,
            language=(body.language or "") if "language" in sent else None,
            participants=pb.Participants(names=body.participants) if "participants" in sent else None,
        )
        answer = await meetings.call(stub.UpdateMeeting, request, timeout_s=timeout_s)
        tag(response, answer.meeting.version)
        return Meeting.of(answer.meeting)

    @router.delete("/{meeting_id}", status_code=204, responses=documented(*CHANGE))
    async def delete_meeting(meeting_id: Id, version: ExpectedVersion, who: Who) -> None:
        """Delete a meeting with everything that belongs to it."""
        request = pb.DeleteMeetingRequest(owner_id=who.account_id, meeting_id=meeting_id, expected_version=version)
        await meetings.call(stub.DeleteMeeting, request, timeout_s=timeout_s)

    return router


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
