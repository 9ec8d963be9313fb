"""What people write into transcripts, as its contract describes it, with its state in memory."""

# ruff: noqa: N802 - the contract names the methods

from __future__ import annotations

from typing import Any

from verbatim.meetings.v1 import meetings_pb2, transcripts_pb2, transcripts_pb2_grpc

from services.gateway.tests.fake_accounts import missing
from services.gateway.tests.fakes import FakeMeetings, outdated


class FakeTranscripts(transcripts_pb2_grpc.TranscriptsServiceServicer):
    """Changes the segments of a FakeMeetings."""

    def __init__(self, meetings: FakeMeetings) -> None:
        self._meetings = meetings

    async def GetSegment(
        self, request: transcripts_pb2.GetSegmentRequest, _: Any
    ) -> transcripts_pb2.GetSegmentResponse:
        return transcripts_pb2.GetSegmentResponse(segment=self._segment(request))

    async def UpdateSegment(
        self, request: transcripts_pb2.UpdateSegmentRequest, _: Any
    ) -> transcripts_pb2.UpdateSegmentResponse:
        segment = self._segment(request)
        if segment.revision != request.expected_version:
            raise outdated(segment.revision)
        if request.HasField("text"):
            segment.heard_text, segment.text = segment.text, request.text
            segment.edited.append("text")
        if request.HasField("speaker"):
            segment.heard_speaker, segment.speaker = segment.speaker, request.speaker
            segment.edited.append("speaker")
        if "text" in request.given_back:
            segment.text = segment.heard_text
            segment.ClearField("heard_text")
            segment.edited.remove("text")
        segment.revision += 1
        return transcripts_pb2.UpdateSegmentResponse(segment=segment)

    async def RenameSpeaker(
        self, request: transcripts_pb2.RenameSpeakerRequest, _: Any
    ) -> transcripts_pb2.RenameSpeakerResponse:
        meeting = self._meetings.own(request.owner_id, request.meeting_id)
        if meeting.version != request.expected_version:
            raise outdated(meeting.version)
        for segment in self._meetings.segments.get(meeting.id, []):
            if segment.speaker == request.speaker:
                segment.heard_speaker, segment.speaker = segment.speaker, request.name
        meeting.version += 1
        return transcripts_pb2.RenameSpeakerResponse(meeting=meeting)

    def _segment(self, request: Any) -> meetings_pb2.TranscriptSegment:
        self._meetings.own(request.owner_id, request.meeting_id)
        for segment in self._meetings.segments.get(request.meeting_id, []):
            if segment.id == request.segment_id:
                return segment
        raise missing()
