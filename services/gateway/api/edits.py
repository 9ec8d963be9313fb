"""`/api/meetings/{id}/segments/{id}` and `/speakers`: what people write into transcripts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import AfterValidator, Field, StringConstraints
from verbatim.meetings.v1 import transcripts_pb2 as pb
from verbatim.meetings.v1.transcripts_pb2_grpc import TranscriptsServiceStub

from chassis.rpc import Peer
from services.gateway.api.meetings import Meeting
from services.gateway.api.transcripts import Segment
from services.gateway.auth import Who
from services.gateway.errors import BODY, CHANGE, READ, documented
from services.gateway.resources import ETAG, ExpectedVersion, Id, Name, Sent, fields_sent, tag
from services.gateway.text import plain_or_invalid, whole

Text = Annotated[str, StringConstraints(min_length=1, max_length=10_000), AfterValidator(plain_or_invalid)]


class SegmentChange(Sent):
    """What a person writes in the place of what was heard. Healing never overwrites it; null gives a field back."""

    text: Text | None = Field(None, examples=["We ship on Friday."])
    speaker: Name | None = Field(None, examples=["Ada"], description="Of this segment alone.")


class Renaming(Sent):
    """Another name for a speaker, in all that was said and in what is yet to be said."""

    # What was heard may hold what nobody would write: it is compared, never kept.
    speaker: Annotated[str, StringConstraints(max_length=1000), AfterValidator(whole)] | None = Field(
        examples=["Speaker 1"], description="As it is shown; null: whoever has no name."
    )
    name: Name = Field(examples=["Ada"])


def routes(meetings: Peer, *, timeout_s: float) -> APIRouter:
    """Return the routes below a meeting that change its transcript."""
    router = APIRouter(prefix="/api/meetings/{meeting_id}", tags=["transcripts"])
    stub = TranscriptsServiceStub(meetings.channel)

    @router.get("/segments/{segment_id}", responses={**documented(*READ), 200: {"headers": ETAG}})
    async def get_segment(meeting_id: Id, segment_id: Id, who: Who, response: Response) -> Segment:
        """Read one segment."""
        request = pb.GetSegmentRequest(owner_id=who.account_id, meeting_id=meeting_id, segment_id=segment_id)
        answer = await meetings.call(stub.GetSegment, request, timeout_s=timeout_s)
        tag(response, answer.segment.revision)
        return Segment.of(answer.segment)

    @router.patch("/segments/{segment_id}", responses={**documented(*BODY, *CHANGE), 200: {"headers": ETAG}})
    async def change_segment(
        meeting_id: Id, segment_id: Id, body: SegmentChange, version: ExpectedVersion, who: Who, response: Response
    ) -> Segment:
        """Correct the text or the speaker of a segment that has not changed since you read it."""
        sent = fields_sent(body)
        request = pb.UpdateSegmentRequest(
            owner_id=who.account_id,
            meeting_id=meeting_id,
            segment_id=segment_id,
            expected_version=version,
            text=body.text,
            speaker=body.speaker,
            given_back=sorted(name for name in sent if getattr(body, name) is None),
        )
        answer = await meetings.call(stub.UpdateSegment, request, timeout_s=timeout_s)
        tag(response, answer.segment.revision)
        return Segment.of(answer.segment)

    @router.patch("/speakers", responses={**documented(*BODY, *CHANGE), 200: {"headers": ETAG}})
    async def rename_speaker(
        meeting_id: Id, body: Renaming, version: ExpectedVersion, who: Who, response: Response
    ) -> Meeting:
        """Rename a speaker in the whole meeting, of which `If-Match` names the version."""
        request = pb.RenameSpeakerRequest(
            owner_id=who.account_id,
            meeting_id=meeting_id,
            expected_version=version,
            speaker=body.speaker or "",
            name=body.name,
        )
        answer = await meetings.call(stub.RenameSpeaker, request, timeout_s=timeout_s)
        tag(response, answer.meeting.version)
        return Meeting.of(answer.meeting)

    return router
