"""The services behind the gateway, as their contracts describe them, with their state in memory."""

# ruff: noqa: N802 - the contracts name the methods

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from verbatim.captions.v1.captions_pb2 import Caption
from verbatim.insights.v1 import analytics_pb2, analytics_pb2_grpc, insights_pb2, insights_pb2_grpc
from verbatim.meetings.v1 import meetings_pb2, meetings_pb2_grpc, tasks_pb2, tasks_pb2_grpc

from chassis import ids, telemetry
from chassis.controls import Control
from chassis.errors import AppError, Kind
from services.gateway.tests.fake_accounts import NOON, missing

SESSION = "01930000-0000-7000-8000-000000000001"


def outdated(version: int) -> AppError:
    return AppError(Kind.PRECONDITION_FAILED, "It was changed in the meantime.", version=version)


class FakeMeetings(meetings_pb2_grpc.MeetingsServiceServicer):
    """Keeps meetings; cursors are positions. `stall` holds every read until it is released."""

    def __init__(self) -> None:
        self.meetings: dict[str, meetings_pb2.Meeting] = {}
        self.claims: dict[str, tuple[bytes, meetings_pb2.Meeting]] = {}
        self.segments: dict[str, list[meetings_pb2.TranscriptSegment]] = {}
        self.entries: dict[str, list[meetings_pb2.MeetingEntry]] = {}
        self.insights_made = False
        self.unchanged_s = 0.0
        self.healing = 0
        self.entries_fault: AppError | None = None
        self.hits: dict[str, meetings_pb2.MeetingHits] = {}
        self.list_requests: list[meetings_pb2.ListMeetingsRequest] = []
        self.request_ids: list[str] = []
        self.release = asyncio.Event()
        self.release.set()
        self.export_pieces = [b"Ada: good morning\n", b"Grace: good morning\n"]
        self.break_export_after: int | None = None
        self.broken = False

    async def CreateMeeting(
        self, request: meetings_pb2.CreateMeetingRequest, _: Any
    ) -> meetings_pb2.CreateMeetingResponse:
        if request.HasField("claim"):
            known = self.claims.get(request.claim.key)
            if known is not None and known[0] == request.claim.fingerprint:
                return meetings_pb2.CreateMeetingResponse(meeting=known[1], replayed=True)
            if known is not None:
                raise AppError(Kind.VALIDATION_FAILED, "The key was used for another request.")
        meeting = meetings_pb2.Meeting(
            id=request.meeting_id,
            owner_id=request.owner_id,
            title=request.title,
            language=request.language,
            participants=request.participants,
            status="created",
            version=1,
            created_at=NOON,
            updated_at=NOON,
        )
        self.meetings[meeting.id] = meeting
        if request.HasField("claim"):
            self.claims[request.claim.key] = (request.claim.fingerprint, meeting)
        return meetings_pb2.CreateMeetingResponse(meeting=meeting)

    async def GetMeeting(self, request: meetings_pb2.GetMeetingRequest, _: Any) -> meetings_pb2.GetMeetingResponse:
        self.request_ids.append(telemetry.request_id())
        await self.release.wait()
        if self.broken:
            raise ZeroDivisionError("the canary of a bug: ada@example.com")
        return meetings_pb2.GetMeetingResponse(meeting=self.own(request.owner_id, request.meeting_id))

    async def ListMeetings(
        self, request: meetings_pb2.ListMeetingsRequest, _: Any
    ) -> meetings_pb2.ListMeetingsResponse:
        self.list_requests.append(request)
        own = [one for one in self.meetings.values() if one.owner_id == request.owner_id]
        start = int(request.cursor or 0)
        end = start + request.limit
        answer = meetings_pb2.ListMeetingsResponse(
            meetings=own[start:end], next_cursor=str(end) if end < len(own) else ""
        )
        if request.query:
            answer.hits.extend(self.hits.get(one.id, meetings_pb2.MeetingHits()) for one in own[start:end])
        return answer

    async def UpdateMeeting(
        self, request: meetings_pb2.UpdateMeetingRequest, _: Any
    ) -> meetings_pb2.UpdateMeetingResponse:
        meeting = self.own(request.owner_id, request.meeting_id)
        if meeting.version != request.expected_version:
            raise outdated(meeting.version)
        if request.HasField("title"):
            meeting.title = request.title
        if request.HasField("language"):
            meeting.language = request.language
        if request.HasField("participants"):
            meeting.participants[:] = request.participants.names
        meeting.version += 1
        return meetings_pb2.UpdateMeetingResponse(meeting=meeting)

    async def DeleteMeeting(
        self, request: meetings_pb2.DeleteMeetingRequest, _: Any
    ) -> meetings_pb2.DeleteMeetingResponse:
        meeting = self.own(request.owner_id, request.meeting_id)
        if meeting.version != request.expected_version:
            raise outdated(meeting.version)
        del self.meetings[meeting.id]
        return meetings_pb2.DeleteMeetingResponse()

    async def ListSegments(
        self, request: meetings_pb2.ListSegmentsRequest, _: Any
    ) -> meetings_pb2.ListSegmentsResponse:
        self.own(request.owner_id, request.meeting_id)
        segments = self.segments.get(request.meeting_id, [])
        if request.HasField("after_index"):
            segments = [one for one in segments if one.index > request.after_index]
        start = int(request.cursor or 0)
        end = start + request.limit
        return meetings_pb2.ListSegmentsResponse(
            segments=segments[start:end], next_cursor=str(end) if end < len(segments) else ""
        )

    async def ListEntries(self, request: meetings_pb2.ListEntriesRequest, _: Any) -> meetings_pb2.ListEntriesResponse:
        meeting = self.own(request.owner_id, request.meeting_id)
        if self.entries_fault is not None:
            raise self.entries_fault
        known = self.entries.get(request.meeting_id, [])
        newest = known[-1].number if known else 0
        if request.after > newest:
            raise AppError(Kind.VALIDATION_FAILED, "Some fields are not valid.")
        found = [one for one in known if one.number > request.after][: request.limit]
        return meetings_pb2.ListEntriesResponse(
            entries=found,
            newest=newest,
            completed=meeting.status == "completed",
            insights_made=self.insights_made,
            unchanged_s=self.unchanged_s,
            healing_segments=self.healing,
            sessions=[meetings_pb2.MeetingSession(session_id=SESSION, shift_s=100.0)],
        )

    async def ExportMeeting(
        self, request: meetings_pb2.ExportMeetingRequest, _: Any
    ) -> AsyncIterator[meetings_pb2.ExportMeetingResponse]:
        self.own(request.owner_id, request.meeting_id)
        for number, piece in enumerate(self.export_pieces):
            if number == self.break_export_after:
                raise AppError(Kind.UNAVAILABLE, "The database does not answer.")
            yield meetings_pb2.ExportMeetingResponse(piece=piece)

    def own(self, owner_id: str, meeting_id: str) -> meetings_pb2.Meeting:
        """Return a meeting of this owner. Raises AppError(NOT_FOUND)."""
        meeting = self.meetings.get(meeting_id)
        if meeting is None or meeting.owner_id != owner_id:
            raise missing()
        return meeting


class FakeTasks(tasks_pb2_grpc.TasksServiceServicer):
    """Keeps tasks."""

    def __init__(self) -> None:
        self.tasks: dict[str, tasks_pb2.Task] = {}

    async def CreateTask(self, request: tasks_pb2.CreateTaskRequest, _: Any) -> tasks_pb2.CreateTaskResponse:
        task = tasks_pb2.Task(
            id=request.task_id,
            owner_id=request.owner_id,
            title=request.title,
            meeting_id=request.meeting_id,
            assignee=request.assignee,
            due=request.due,
            status="open",
            source_segment_id=request.source_segment_id,
            version=1,
            created_at=NOON,
            updated_at=NOON,
        )
        self.tasks[task.id] = task
        return tasks_pb2.CreateTaskResponse(task=task)

    async def GetTask(self, request: tasks_pb2.GetTaskRequest, _: Any) -> tasks_pb2.GetTaskResponse:
        return tasks_pb2.GetTaskResponse(task=self._own(request.owner_id, request.task_id))

    async def ListTasks(self, request: tasks_pb2.ListTasksRequest, _: Any) -> tasks_pb2.ListTasksResponse:
        found = [
            task
            for task in self.tasks.values()
            if task.owner_id == request.owner_id
            and request.status in {"", task.status}
            and request.meeting_id in {"", task.meeting_id}
        ]
        return tasks_pb2.ListTasksResponse(tasks=found[: request.limit])

    async def UpdateTask(self, request: tasks_pb2.UpdateTaskRequest, _: Any) -> tasks_pb2.UpdateTaskResponse:
        task = self._own(request.owner_id, request.task_id)
        if task.version != request.expected_version:
            raise outdated(task.version)
        for field in ("title", "assignee", "due", "status"):
            if request.HasField(field):
                setattr(task, field, getattr(request, field))
        task.version += 1
        return tasks_pb2.UpdateTaskResponse(task=task)

    async def DeleteTask(self, request: tasks_pb2.DeleteTaskRequest, _: Any) -> tasks_pb2.DeleteTaskResponse:
        task = self._own(request.owner_id, request.task_id)
        if task.version != request.expected_version:
            raise outdated(task.version)
        del self.tasks[task.id]
        return tasks_pb2.DeleteTaskResponse()

    def _own(self, owner_id: str, task_id: str) -> tasks_pb2.Task:
        task = self.tasks.get(task_id)
        if task is None or task.owner_id != owner_id:
            raise missing()
        return task


class FakeInsights(insights_pb2_grpc.InsightsServiceServicer):
    """Has insights for the meetings that a test puts in."""

    def __init__(self) -> None:
        self.insights: dict[str, insights_pb2.Insights] = {}
        self.jobs: dict[str, insights_pb2.Job] = {}

    async def GetInsights(self, request: insights_pb2.GetInsightsRequest, _: Any) -> insights_pb2.GetInsightsResponse:
        if request.meeting_id not in self.insights:
            raise missing()
        return insights_pb2.GetInsightsResponse(insights=self.insights[request.meeting_id])

    async def UpdateInsights(
        self, request: insights_pb2.UpdateInsightsRequest, _: Any
    ) -> insights_pb2.UpdateInsightsResponse:
        known = self.insights.get(request.meeting_id)
        if known is None:
            raise AppError(Kind.NOT_FOUND, "There are no insights for this meeting.")
        if request.expected_version != known.version:
            raise AppError(Kind.PRECONDITION_FAILED, "Somebody else has changed it meanwhile.", version=known.version)
        known.version += 1
        if request.HasField("summary"):
            known.beside.summary, known.summary = known.summary, request.summary
            known.edited.append("summary")
        if request.HasField("decisions"):
            known.ClearField("decisions")
            known.decisions.extend(request.decisions.points)
        if "key_points" in request.given_back:
            known.ClearField("key_points")
        return insights_pb2.UpdateInsightsResponse(insights=known)

    async def RequestInsights(
        self, request: insights_pb2.RequestInsightsRequest, _: Any
    ) -> insights_pb2.RequestInsightsResponse:
        if request.meeting_id not in self.insights:
            raise missing()
        job = insights_pb2.Job(
            id=ids.new_id(), kind="insights", status="pending", max_attempts=5, created_at=NOON, updated_at=NOON
        )
        self.jobs[job.id] = job
        return insights_pb2.RequestInsightsResponse(job=job)

    async def GetJob(self, request: insights_pb2.GetJobRequest, _: Any) -> insights_pb2.GetJobResponse:
        if request.job_id not in self.jobs:
            raise missing()
        return insights_pb2.GetJobResponse(job=self.jobs[request.job_id])

    async def CancelJob(self, request: insights_pb2.CancelJobRequest, _: Any) -> insights_pb2.CancelJobResponse:
        if request.job_id not in self.jobs:
            raise missing()
        job = self.jobs[request.job_id]
        if job.status == "failed":
            raise AppError(Kind.CONFLICT, "The job is over.")
        job.status, job.error = "failed", "Cancelled."
        return insights_pb2.CancelJobResponse(job=job)


class FakeAnalytics(analytics_pb2_grpc.AnalyticsServiceServicer):
    """Has the same figures for everybody; `fault` is raised instead."""

    def __init__(self) -> None:
        self.requests: list[analytics_pb2.GetAnalyticsRequest] = []
        self.fault: AppError | None = None
        self.figures = analytics_pb2.Analytics(
            to=NOON, time_zone="UTC", meetings=2, talk_s=3.5, words=9, tasks_open=1, as_of=NOON,
            speakers=[analytics_pb2.SpeakerTalk(speaker="Ada", talk_s=3.0, words=8),
                      analytics_pb2.SpeakerTalk(talk_s=0.5, words=1)],
            days=[analytics_pb2.DayFigures(day="2026-11-27", meetings=2, talk_s=3.5, words=9, tasks_open=1)],
        )  # fmt: skip
        getattr(self.figures, "from").CopyFrom(NOON)

    async def GetAnalytics(
        self, request: analytics_pb2.GetAnalyticsRequest, _: Any
    ) -> analytics_pb2.GetAnalyticsResponse:
        self.requests.append(request)
        if self.fault is not None:
            raise self.fault
        return analytics_pb2.GetAnalyticsResponse(analytics=self.figures)


class FakeCaptions:
    """Captions of a broker that is there or not; `say` hands one to whoever follows the meeting."""

    def __init__(self) -> None:
        self.connected = True
        self.followed: dict[str, list[Callable[[Caption], None]]] = {}

    @asynccontextmanager
    async def follow(self, meeting_id: str, hear: Callable[[Caption], None]) -> AsyncIterator[None]:
        self.followed.setdefault(meeting_id, []).append(hear)
        try:
            yield
        finally:
            self.followed[meeting_id].remove(hear)

    def say(self, meeting_id: str, caption: Caption) -> None:
        for hear in self.followed.get(meeting_id, []):
            hear(caption)


class FakeControls:
    """Keeps what is set; `away` stands for a broker that does not answer."""

    def __init__(self) -> None:
        self.set: dict[str, Control] = {}
        self.away = False

    def active(self) -> list[Control]:
        return list(self.set.values())

    async def put(self, name: str, value: str, *, who: str, why: str, for_s: float | None) -> Control:
        self._check()
        until_s = None if for_s is None else 1_000.0 + for_s
        control = self.set[name] = Control(name, value, who, why, 1_000.0, until_s)
        return control

    async def clear(self, name: str, *, who: str, why: str) -> None:
        self._check()
        self.set.pop(name, None)

    def _check(self) -> None:
        if self.away:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.")
