"""Calls about what people write into transcripts come in: parse, call, answer."""

from __future__ import annotations

from typing import Any

from verbatim.meetings.v1 import transcripts_pb2 as pb

from services.meetings import metrics
from services.meetings.checks import known_id
from services.meetings.edits import renaming, segment_change
from services.meetings.edits_store import EditsStore
from services.meetings.messages import given, id_of, meeting_message, segment_message


class TranscriptsApi:
    """verbatim.meetings.v1.TranscriptsService."""

    def __init__(self, store: EditsStore) -> None:
        self._store = store

    async def GetSegment(self, request: pb.GetSegmentRequest, _: Any) -> pb.GetSegmentResponse:  # noqa: N802
        found = await self._store.get(id_of(request, "owner_id"), *_place(request))
        return pb.GetSegmentResponse(segment=segment_message(found))

    async def UpdateSegment(self, request: pb.UpdateSegmentRequest, _: Any) -> pb.UpdateSegmentResponse:  # noqa: N802
        change = segment_change(given(request, "text"), given(request, "speaker"), request.given_back)
        changed = await self._store.update(
            id_of(request, "owner_id"), *_place(request), request.expected_version, change
        )
        metrics.EDITS.labels("segment").inc()
        return pb.UpdateSegmentResponse(segment=segment_message(changed))

    async def RenameSpeaker(self, request: pb.RenameSpeakerRequest, _: Any) -> pb.RenameSpeakerResponse:  # noqa: N802
        wanted = renaming(request.speaker, request.name)
        meeting_id = known_id(request.meeting_id, "meeting")
        changed = await self._store.rename(id_of(request, "owner_id"), meeting_id, request.expected_version, wanted)
        metrics.EDITS.labels("speaker").inc()
        return pb.RenameSpeakerResponse(meeting=meeting_message(changed))


def _place(request: Any) -> tuple[str, str]:
    return known_id(request.meeting_id, "segment"), known_id(request.segment_id, "segment")
