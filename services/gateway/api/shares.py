"""`/api/meetings/{id}/share`: a link for those who may read along."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field
from verbatim.meetings.v1 import meetings_pb2 as pb
from verbatim.meetings.v1.meetings_pb2_grpc import MeetingsServiceStub

from chassis.errors import Kind
from chassis.rpc import Peer
from services.gateway.auth import Who
from services.gateway.errors import documented
from services.gateway.resources import Id
from services.gateway.shares import Shares


class Share(BaseModel):
    """What lets somebody read one meeting."""

    token: str = Field(description="Sent as `Authorization: Bearer`, it reads this meeting and nothing else.")
    path: str = Field(
        description="Of the page that shows it. The token lies behind the `#`, which browsers send to nobody.",
        examples=["/#/shared/01934f8e-7c1a-7d3e-9f00-2b4c6d8e0f12/share_eyJ…"],
    )
    expires_at: datetime


def routes(meetings: Peer, shares: Shares, *, timeout_s: float) -> APIRouter:
    """Return the route that shares a meeting."""
    router = APIRouter(prefix="/api/meetings/{meeting_id}", tags=["meetings"])
    stub = MeetingsServiceStub(meetings.channel)

    @router.post(
        "/share",
        status_code=201,
        responses=documented(Kind.UNAUTHORIZED, Kind.FORBIDDEN, Kind.NOT_FOUND, Kind.VALIDATION_FAILED),
    )
    async def share_meeting(meeting_id: Id, who: Who) -> Share:
        """Make a link that shows a meeting for a day to whoever has it: transcript, minutes, exports, and live.

        It changes nothing and leads nowhere else. Logging out everywhere, a new password, and deleting the API key that
        made it or the meeting end it before.
        """
        request = pb.GetMeetingRequest(owner_id=who.account_id, meeting_id=meeting_id)
        await meetings.call(stub.GetMeeting, request, timeout_s=timeout_s)
        token, expires_at = shares.issue(who, meeting_id)
        return Share(
            token=token, path=f"/#/shared/{meeting_id}/{token}", expires_at=datetime.fromtimestamp(expires_at, UTC)
        )

    return router
