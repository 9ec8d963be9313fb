"""The door to what is stored of a meeting, entry by entry, as viewers are shown it."""

from __future__ import annotations

from dataclasses import dataclass

from verbatim.insights.v1 import insights_pb2
from verbatim.insights.v1.insights_pb2_grpc import InsightsServiceStub
from verbatim.meetings.v1 import meetings_pb2 as pb
from verbatim.meetings.v1.meetings_pb2_grpc import MeetingsServiceStub

from chassis import telemetry
from chassis.errors import AppError
from chassis.rpc import Peer
from services.gateway import sse

log = telemetry.logger(__name__)

PAGE = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """One durable event."""

    number: int
    piece: bytes
    session_id: str = ""
    index: int = -1


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the end of a meeting is held back for its minutes, and for better words (seconds)."""

    insights_s: float
    heal_s: float


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Some entries, and how the meeting stood when they were read.

    `reached` is the number up to which nothing is missing; below `newest`, there is more to read.
    """

    entries: list[Entry]
    reached: int
    newest: int
    completed: bool
    insights_made: bool
    unchanged_s: float
    shifts_s: dict[str, float]
    healing: bool = False

    def is_last(self, patience: Patience) -> bool:
        """Tell whether no more is to come: every session is closed, and both the minutes and the revisions of drafts
        are there or not waited for."""
        settled = self.insights_made or self.unchanged_s >= patience.insights_s
        healed = not self.healing or self.unchanged_s >= patience.heal_s
        return self.completed and self.reached >= self.newest and settled and healed


class StoredEntries:
    """Reads the entries of meetings."""

    def __init__(self, meetings: Peer, insights: Peer, *, timeout_s: float) -> None:
        self._meetings = meetings
        self._insights = insights
        self._meetings_stub = MeetingsServiceStub(meetings.channel)
        self._insights_stub = InsightsServiceStub(insights.channel)
        self._timeout_s = timeout_s

    async def after(self, owner_id: str, meeting_id: str, number: int) -> EntryPage:
        """Return the next entries after a number. Raises AppError, NOT_FOUND for another's meeting."""
        request = pb.ListEntriesRequest(owner_id=owner_id, meeting_id=meeting_id, after=number, limit=PAGE)
        answer = await self._meetings.call(self._meetings_stub.ListEntries, request, timeout_s=self._timeout_s)
        minutes = None
        if any(one.HasField("insights") for one in answer.entries):
            minutes = await self._minutes(owner_id, meeting_id)
        return EntryPage(
            entries=[_entry(one, minutes) for one in answer.entries],
            reached=answer.entries[-1].number if len(answer.entries) >= PAGE else answer.newest,
            newest=answer.newest,
            completed=answer.completed,
            insights_made=answer.insights_made,
            unchanged_s=answer.unchanged_s,
            healing=answer.healing_segments > 0,
            shifts_s={session.session_id: session.shift_s for session in answer.sessions},
        )

    async def end(self, owner_id: str, meeting_id: str, newest: int) -> bytes:
        """Return the event that ends a meeting. Raises AppError."""
        request = pb.GetMeetingRequest(owner_id=owner_id, meeting_id=meeting_id)
        answer = await self._meetings.call(self._meetings_stub.GetMeeting, request, timeout_s=self._timeout_s)
        return sse.finished(answer.meeting, newest)

    async def _minutes(self, owner_id: str, meeting_id: str) -> insights_pb2.Insights:
        """Return the minutes; as pending if they cannot be had now: captions do not stop for them."""
        request = insights_pb2.GetInsightsRequest(owner_id=owner_id, meeting_id=meeting_id)
        try:
            answer = await self._insights.call(self._insights_stub.GetInsights, request, timeout_s=self._timeout_s)
        except AppError as fault:
            log.warning("minutes not read for viewers", fault=str(fault))
            return insights_pb2.Insights(meeting_id=meeting_id, status="pending")
        return answer.insights


def _entry(found: pb.MeetingEntry, minutes: insights_pb2.Insights | None) -> Entry:
    piece = sse.entry(found, minutes)
    if found.HasField("segment"):
        return Entry(found.number, piece, found.segment.session_id, found.segment.index)
    return Entry(found.number, piece)
