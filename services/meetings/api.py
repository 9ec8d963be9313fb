"""Calls about meetings and tasks come in: parse, call, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from verbatim.meetings.v1 import meetings_pb2 as meetings_pb
from verbatim.meetings.v1 import tasks_pb2 as tasks_pb

from chassis.idempotency import Claim, IdempotencyKeys
from services.meetings import meetings_store, metrics, tasks_store
from services.meetings.checks import Checks, known_id
from services.meetings.entries_store import EntriesStore, InsightsMade
from services.meetings.export import FORMATS, Pieces
from services.meetings.meetings import Gap, Segment, meeting_change, meeting_filter, new_meeting
from services.meetings.meetings_store import MeetingsStore
from services.meetings.messages import given, id_of, meeting_message, segment_message, stamp, time_of
from services.meetings.paging import page_size
from services.meetings.search_store import Hit
from services.meetings.segments_store import SegmentsStore
from services.meetings.tasks import Task, new_task, status_filter, task_change
from services.meetings.tasks_store import TasksStore


class MeetingsApi:
    """verbatim.meetings.v1.MeetingsService."""

    def __init__(
        self, store: MeetingsStore, segments: SegmentsStore, entries: EntriesStore, keys: IdempotencyKeys
    ) -> None:
        self._store = store
        self._keys = keys
        self._segments = segments
        self._entries = entries

    async def CreateMeeting(  # noqa: N802
        self, request: meetings_pb.CreateMeetingRequest, _: Any
    ) -> meetings_pb.CreateMeetingResponse:
        new = new_meeting(
            request.meeting_id,
            request.owner_id,
            title=request.title,
            language=request.language,
            participants=request.participants,
        )
        kept = await self._keys.once(
            "create meeting",
            Claim.of(request),
            meetings_store.creation(new),
            lambda meeting: meetings_pb.CreateMeetingResponse(meeting=meeting_message(meeting)),
            meetings_pb.CreateMeetingResponse,
        )
        kept.answer.replayed = kept.replayed
        return kept.answer

    async def GetMeeting(  # noqa: N802
        self, request: meetings_pb.GetMeetingRequest, _: Any
    ) -> meetings_pb.GetMeetingResponse:
        found = await self._store.get(id_of(request, "owner_id"), known_id(request.meeting_id, "meeting"))
        return meetings_pb.GetMeetingResponse(meeting=meeting_message(found))

    async def ListMeetings(  # noqa: N802
        self, request: meetings_pb.ListMeetingsRequest, _: Any
    ) -> meetings_pb.ListMeetingsResponse:
        wanted = meeting_filter(request.query, time_of(request, "from"), time_of(request, "to"), request.status)
        page = await self._store.list(id_of(request, "owner_id"), wanted, page_size(request.limit), request.cursor)
        answer = meetings_pb.ListMeetingsResponse(
            meetings=map(meeting_message, page.items), next_cursor=page.next_cursor
        )
        if wanted.query:
            found = await self._store.hits(wanted.query, [meeting.id for meeting in page.items])
            answer.hits.extend(_hits(found.get(meeting.id, [])) for meeting in page.items)
        return answer

    async def UpdateMeeting(  # noqa: N802
        self, request: meetings_pb.UpdateMeetingRequest, _: Any
    ) -> meetings_pb.UpdateMeetingResponse:
        change = meeting_change(
            given(request, "title"),
            given(request, "language"),
            request.participants.names if request.HasField("participants") else None,
        )
        meeting_id = known_id(request.meeting_id, "meeting")
        changed = await self._store.update(id_of(request, "owner_id"), meeting_id, request.expected_version, change)
        return meetings_pb.UpdateMeetingResponse(meeting=meeting_message(changed))

    async def DeleteMeeting(  # noqa: N802
        self, request: meetings_pb.DeleteMeetingRequest, _: Any
    ) -> meetings_pb.DeleteMeetingResponse:
        await self._store.delete(
            id_of(request, "owner_id"), known_id(request.meeting_id, "meeting"), request.expected_version
        )
        return meetings_pb.DeleteMeetingResponse()

    async def ListSegments(  # noqa: N802
        self, request: meetings_pb.ListSegmentsRequest, _: Any
    ) -> meetings_pb.ListSegmentsResponse:
        page = await self._segments.list(
            id_of(request, "owner_id"),
            known_id(request.meeting_id, "meeting"),
            page_size(request.limit),
            request.cursor,
            request.after_index if request.HasField("after_index") else None,
        )
        return meetings_pb.ListSegmentsResponse(segments=map(segment_message, page.items), next_cursor=page.next_cursor)

    async def ListEntries(  # noqa: N802
        self, request: meetings_pb.ListEntriesRequest, _: Any
    ) -> meetings_pb.ListEntriesResponse:
        meeting_id = known_id(request.meeting_id, "meeting")
        found = await self._entries.after(
            id_of(request, "owner_id"), meeting_id, request.after, page_size(request.limit)
        )
        return meetings_pb.ListEntriesResponse(
            entries=[_entry(number, what) for number, what in found.rows],
            newest=found.newest,
            completed=found.completed,
            insights_made=found.insights_made,
            unchanged_s=found.unchanged_s,
            healing_segments=found.healing,
            sessions=[meetings_pb.MeetingSession(session_id=s, shift_s=shift_s) for s, shift_s in found.open_sessions],
        )

    async def ExportMeeting(  # noqa: N802
        self, request: meetings_pb.ExportMeetingRequest, _: Any
    ) -> AsyncIterator[meetings_pb.ExportMeetingResponse]:
        owner_id, meeting_id = id_of(request, "owner_id"), known_id(request.meeting_id, "meeting")
        wanted = _export_format(request.format)
        meeting = await self._store.get(owner_id, meeting_id)
        export = FORMATS[wanted](meeting, await self._segments.gaps(owner_id, meeting_id))
        metrics.EXPORTS.labels(wanted).inc()
        pieces = Pieces()
        for piece in pieces.add(export.head()):
            yield meetings_pb.ExportMeetingResponse(piece=piece)
        async for segment in self._segments.transcript(owner_id, meeting_id):
            for piece in pieces.add(export.segment(segment)):
                yield meetings_pb.ExportMeetingResponse(piece=piece)
        for piece in (*pieces.add(export.tail()), *pieces.rest()):
            yield meetings_pb.ExportMeetingResponse(piece=piece)


def _hits(hits: Sequence[Hit]) -> meetings_pb.MeetingHits:
    return meetings_pb.MeetingHits(
        hits=[
            meetings_pb.Hit(
                kind=hit.kind,
                snippet=[meetings_pb.SnippetPart(text=text, match=match) for text, match in hit.snippet],
                segment_id=hit.segment_id,
                session_id=hit.session_id,
                index=hit.index,
                speaker=hit.speaker,
                start_s=hit.start_s,
                end_s=hit.end_s,
            )
            for hit in hits
        ]
    )


class TasksApi:
    """verbatim.meetings.v1.TasksService."""

    def __init__(self, store: TasksStore, keys: IdempotencyKeys) -> None:
        self._store = store
        self._keys = keys

    async def CreateTask(self, request: tasks_pb.CreateTaskRequest, _: Any) -> tasks_pb.CreateTaskResponse:  # noqa: N802
        new = new_task(
            request.task_id,
            request.owner_id,
            title=request.title,
            meeting_id=request.meeting_id,
            assignee=request.assignee,
            due=request.due,
            source_segment_id=request.source_segment_id,
        )
        kept = await self._keys.once(
            "create task",
            Claim.of(request),
            tasks_store.creation(new),
            lambda task: tasks_pb.CreateTaskResponse(task=_task(task)),
            tasks_pb.CreateTaskResponse,
        )
        kept.answer.replayed = kept.replayed
        return kept.answer

    async def GetTask(self, request: tasks_pb.GetTaskRequest, _: Any) -> tasks_pb.GetTaskResponse:  # noqa: N802
        found = await self._store.get(id_of(request, "owner_id"), known_id(request.task_id, "task"))
        return tasks_pb.GetTaskResponse(task=_task(found))

    async def ListTasks(self, request: tasks_pb.ListTasksRequest, _: Any) -> tasks_pb.ListTasksResponse:  # noqa: N802
        page = await self._store.list(
            id_of(request, "owner_id"),
            known_id(request.meeting_id, "meeting") if request.meeting_id else "",
            status_filter(request.status),
            page_size(request.limit),
            request.cursor,
        )
        return tasks_pb.ListTasksResponse(tasks=map(_task, page.items), next_cursor=page.next_cursor)

    async def UpdateTask(self, request: tasks_pb.UpdateTaskRequest, _: Any) -> tasks_pb.UpdateTaskResponse:  # noqa: N802
        change = task_change(
            title=given(request, "title"),
            assignee=given(request, "assignee"),
            due=given(request, "due"),
            status=given(request, "status"),
        )
        task_id = known_id(request.task_id, "task")
        changed = await self._store.update(id_of(request, "owner_id"), task_id, request.expected_version, change)
        return tasks_pb.UpdateTaskResponse(task=_task(changed))

    async def DeleteTask(self, request: tasks_pb.DeleteTaskRequest, _: Any) -> tasks_pb.DeleteTaskResponse:  # noqa: N802
        await self._store.delete(
            id_of(request, "owner_id"), known_id(request.task_id, "task"), request.expected_version
        )
        return tasks_pb.DeleteTaskResponse()


def _export_format(number: int) -> str:
    checks = Checks()
    names: dict[int, str] = {
        value: name.removeprefix("EXPORT_FORMAT_").lower() for name, value in meetings_pb.ExportFormat.items()
    }
    wanted = checks.choice("format", names.get(number, ""), tuple(FORMATS))
    checks.done()
    return wanted


def _entry(number: int, what: Segment | Gap | InsightsMade) -> meetings_pb.MeetingEntry:
    if isinstance(what, Segment):
        return meetings_pb.MeetingEntry(number=number, segment=segment_message(what))
    if isinstance(what, Gap):
        gap = meetings_pb.TranscriptGap(
            session_id=what.session_id, start_s=what.start_s, end_s=what.end_s, reason=what.reason
        )
        return meetings_pb.MeetingEntry(number=number, gap=gap)
    return meetings_pb.MeetingEntry(number=number, insights=meetings_pb.InsightsMade())


def _task(t: Task) -> tasks_pb.Task:
    return tasks_pb.Task(
        id=t.id, owner_id=t.owner_id, title=t.title, meeting_id=t.meeting_id or "", assignee=t.assignee,
        due=t.due.isoformat() if t.due else "", status=t.status, source_segment_id=t.source_segment_id,
        version=t.version, created_at=stamp(t.created_at), updated_at=stamp(t.updated_at),
    )  # fmt: skip
