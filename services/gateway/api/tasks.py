"""`/api/tasks`: what is to be done after a meeting."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field
from verbatim.meetings.v1 import tasks_pb2 as pb
from verbatim.meetings.v1.tasks_pb2_grpc import TasksServiceStub

from chassis import ids
from chassis.errors import Kind
from chassis.rpc import Peer
from services.gateway.auth import Who
from services.gateway.errors import BODY, CHANGE, READ, documented
from services.gateway.resources import (
    ETAG,
    REPLAYED,
    Claimed,
    Day,
    ExpectedVersion,
    Id,
    Name,
    Page,
    Paging,
    Sent,
    Title,
    fields_sent,
    moment,
    tag,
    tag_replayed,
)

Status = Literal["open", "done"]


class NewTask(Sent):
    """A task to add; those that are found in a transcript come by themselves."""

    title: Title = Field(examples=["Send the offer to the printer"])
    meeting_id: Id | None = None
    assignee: Name | None = Field(None, examples=["Grace"])
    due: Day | None = None
    source_segment_id: Id | None = Field(None, description="The segment that the task rests on.")


class TaskChange(Sent):
    """What to change; fields that are not sent stay, null empties one."""

    title: Title = ""
    assignee: Name | None = None
    due: Day | None = None
    status: Status = "open"


class TaskQuery(Paging):
    """Which tasks."""

    meeting_id: Id | None = None
    status: Status | None = None


class Task(BaseModel):
    """A task."""

    id: str
    title: str
    meeting_id: str | None
    assignee: str | None
    due: str | None = Field(description="A day.", examples=["2026-11-27"])
    status: Status
    source_segment_id: str | None
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, task: pb.Task) -> Task:
        return cls(
            id=task.id,
            title=task.title,
            meeting_id=task.meeting_id or None,
            assignee=task.assignee or None,
            due=task.due or None,
            status=task.status,
            source_segment_id=task.source_segment_id or None,
            version=task.version,
            created_at=moment(task.created_at),
            updated_at=moment(task.updated_at),
        )


def routes(meetings: Peer, *, timeout_s: float) -> APIRouter:
    """Return the routes of `/api/tasks`."""
    router = APIRouter(prefix="/api/tasks", tags=["tasks"])
    stub = TasksServiceStub(meetings.channel)

    @router.post(
        "", status_code=201, responses={**documented(*BODY, *READ, Kind.CONFLICT), 201: {"headers": ETAG | REPLAYED}}
    )
    async def create_task(body: NewTask, who: Who, claim: Claimed, response: Response) -> Task:
        """Add a task. 404 if its meeting is not yours."""
        request = pb.CreateTaskRequest(
            owner_id=who.account_id,
            task_id=ids.new_id(),
            title=body.title,
            meeting_id=body.meeting_id or "",
            assignee=body.assignee or "",
            due=body.due or "",
            source_segment_id=body.source_segment_id or "",
            claim=claim,
        )
        answer = await meetings.call(stub.CreateTask, request, timeout_s=timeout_s)
        response.headers["Location"] = f"/api/tasks/{answer.task.id}"
        tag(response, answer.task.version)
        tag_replayed(response, answer.replayed)
        return Task.of(answer.task)

    @router.get("", responses=documented(*READ))
    async def list_tasks(query: Annotated[TaskQuery, Query()], who: Who) -> Page[Task]:
        """List your tasks, newest first."""
        request = pb.ListTasksRequest(
            owner_id=who.account_id,
            meeting_id=query.meeting_id or "",
            status=query.status or "",
            limit=query.limit,
            cursor=query.cursor or "",
        )
        answer = await meetings.call(stub.ListTasks, request, timeout_s=timeout_s)
        return Page(items=[Task.of(one) for one in answer.tasks], next_cursor=answer.next_cursor or None)

    @router.get("/{task_id}", responses={**documented(*READ), 200: {"headers": ETAG}})
    async def get_task(task_id: Id, who: Who, response: Response) -> Task:
        """Read one task."""
        request = pb.GetTaskRequest(owner_id=who.account_id, task_id=task_id)
        answer = await meetings.call(stub.GetTask, request, timeout_s=timeout_s)
        tag(response, answer.task.version)
        return Task.of(answer.task)

    @router.patch("/{task_id}", responses={**documented(*BODY, *CHANGE), 200: {"headers": ETAG}})
    async def change_task(
        task_id: Id, body: TaskChange, version: ExpectedVersion, who: Who, response: Response
    ) -> Task:
        """Change or complete a task that nobody has changed since you read it."""
        sent = fields_sent(body)
        request = pb.UpdateTaskRequest(
            owner_id=who.account_id,
            task_id=task_id,
            expected_version=version,
            title=body.title if "title" in sent else None,
            assignee=(body.assignee or "") if "assignee" in sent else None,
            due=(body.due or "") if "due" in sent else None,
            status=body.status if "status" in sent else None,
        )
        answer = await meetings.call(stub.UpdateTask, request, timeout_s=timeout_s)
        tag(response, answer.task.version)
        return Task.of(answer.task)

    @router.delete("/{task_id}", status_code=204, responses=documented(*CHANGE))
    async def delete_task(task_id: Id, version: ExpectedVersion, who: Who) -> None:
        """Delete a task."""
        request = pb.DeleteTaskRequest(owner_id=who.account_id, task_id=task_id, expected_version=version)
        await meetings.call(stub.DeleteTask, request, timeout_s=timeout_s)

    return router
