"""The door to the meetings service: whose a meeting is, and what was said in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Protocol

from verbatim.meetings.v1 import meetings_pb2, meetings_pb2_grpc

from chassis.errors import AppError, Kind
from chassis.rpc import Peer
from services.insights.minutes import Transcript
from services.insights.sentences import Segment

_PAGE = 200
_CALL_S = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """For which meeting minutes are wanted. What is empty here is taken from the meeting."""

    meeting_id: str
    owner_id: str
    language: str = ""
    day: date | None = None


class Transcripts(Protocol):
    """Where transcripts come from. Another's meeting is NOT_FOUND."""

    async def check(self, owner_id: str, meeting_id: str) -> None:
        """Raise AppError(NOT_FOUND) unless the meeting is there and the owner's."""
        ...

    async def read(self, request: Request) -> Transcript:
        """Return the whole transcript as it stands now. Raises AppError."""
        ...


class MeetingsTranscripts:
    """Transcripts as the meetings service has them."""

    def __init__(self, peer: Peer, *, segments_max: int) -> None:
        self._peer = peer
        self._stub: Any = meetings_pb2_grpc.MeetingsServiceStub(peer.channel)
        self._segments_max = segments_max

    async def check(self, owner_id: str, meeting_id: str) -> None:
        await self._meeting(owner_id, meeting_id)

    async def read(self, request: Request) -> Transcript:
        meeting = await self._meeting(request.owner_id, request.meeting_id)
        return Transcript(
            language=request.language or meeting.language,
            day=request.day or _day(meeting),
            participants=tuple(meeting.participants),
            segments=tuple(await self._segments(request)),
            # Asked before the segments were: what heals in between is told by an event.
            healing=meeting.healing_segments > 0,
        )

    async def _meeting(self, owner_id: str, meeting_id: str) -> Any:
        asked = meetings_pb2.GetMeetingRequest(owner_id=owner_id, meeting_id=meeting_id)
        answer: Any = await self._peer.call(self._stub.GetMeeting, asked, timeout_s=_CALL_S)
        return answer.meeting

    async def _segments(self, request: Request) -> list[Segment]:
        segments: list[Segment] = []
        cursor = ""
        while True:
            asked = meetings_pb2.ListSegmentsRequest(
                owner_id=request.owner_id, meeting_id=request.meeting_id, limit=_PAGE, cursor=cursor
            )
            page: Any = await self._peer.call(self._stub.ListSegments, asked, timeout_s=_CALL_S)
            segments += [Segment(s.id, s.speaker, s.start_s, s.end_s, s.text) for s in page.segments]
            if len(segments) > self._segments_max:
                raise AppError(Kind.PAYLOAD_TOO_LARGE, "The meeting is too long for minutes.")
            if not page.next_cursor:
                return segments
            if not page.segments or page.next_cursor == cursor:
                raise AppError(Kind.INTERNAL, "A call inside failed.", log="ListSegments does not advance")
            cursor = page.next_cursor


def _day(meeting: Any) -> date:
    began: datetime = (meeting.started_at if meeting.HasField("started_at") else meeting.created_at).ToDatetime(UTC)
    return began.date()
