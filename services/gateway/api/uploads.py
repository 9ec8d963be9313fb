"""`/api/uploads`: a recording in one request, as a form or as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field
from verbatim.meetings.v1 import uploads_pb2 as pb

from chassis.errors import AppError, Kind, Problem
from services.gateway import metrics
from services.gateway.auth import Who
from services.gateway.errors import BODY, documented
from services.gateway.forms import FileBegins, FileBytes, FormItem, body_of, read_form
from services.gateway.media_types import media_type
from services.gateway.resources import REPLAYED, Id, IdempotencyKey, Language, Sent, Title, tag_replayed
from services.gateway.uploading import Order, UploadDesk

_FAILURES = (
    *BODY,
    *(Kind.UNAUTHORIZED, Kind.NOT_FOUND, Kind.CONFLICT, Kind.RATE_LIMIT_EXCEEDED, Kind.INSUFFICIENT_STORAGE),
)
_ANSWERS = {**documented(*_FAILURES), 202: {"headers": REPLAYED}}
_BYTES = {"type": "string", "format": "binary"}
_FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {**_BYTES, "description": "mp3, wav, ogg, webm, mp4 or m4a."}},
                "required": ["file"],
            }
        }
    },
}
_RAW: dict[str, Any] = {"required": True, "content": {"application/octet-stream": {"schema": _BYTES}}}


class UploadOrder(Sent):
    """What is to become of the recording."""

    meeting_id: Id | None = Field(None, description="A meeting of yours that it is added to; without: a new one.")
    title: Title | None = Field(None, description="Of the new meeting; without: the name of the file.")
    language: Language | None = Field(None, description="Spoken language; without: recognised by itself.")


class UploadAccepted(BaseModel):
    """A recording that was taken and will become a meeting."""

    job_id: str = Field(description="For `/api/jobs/{id}`.")
    meeting_id: str


async def _order(who: Who, query: Annotated[UploadOrder, Query()], key: IdempotencyKey) -> Order:
    return Order(who.account_id, query.meeting_id, query.title, query.language, key)


Ordered = Annotated[Order, Depends(_order)]


def routes(desk: UploadDesk) -> APIRouter:
    """Return the routes of `/api/uploads`."""
    router = APIRouter(prefix="/api/uploads", tags=["uploads"])
    idle_s = desk.settings.idle_s

    @router.post(
        "", status_code=202, responses=_ANSWERS, openapi_extra={"requestBody": _FORM}
    )  # fmt: skip
    async def upload_form(request: Request, order: Ordered, response: Response) -> UploadAccepted:
        """Send a recording as a form with the one part `file`; it becomes a meeting in the background."""
        with _counted():
            async with aclosing(read_form(request, idle_s=idle_s)) as items:
                file = await _file_of(items)
                kind = media_type(file.file_name, file.media_type)
                size = _announced(request)
                if size is not None:
                    # The form around the file is small against it, but more than nothing.
                    size = min(size, desk.settings.file_bytes_max)
                upload, replayed = await desk.take(order, file.file_name, kind, _bytes_of(items), size)
        return _accepted(upload, replayed, response)

    @router.put(
        "/{file_name}", status_code=202, responses=_ANSWERS, openapi_extra={"requestBody": _RAW}
    )  # fmt: skip
    async def upload_file(file_name: str, request: Request, order: Ordered, response: Response) -> UploadAccepted:
        """Send a recording as the body, as `curl --upload-file` does; its name is the last part of the path."""
        with _counted():
            kind = media_type(file_name, request.headers.get("content-type"))
            content = body_of(request, idle_s=idle_s)
            upload, replayed = await desk.take(order, file_name, kind, content, _announced(request))
        return _accepted(upload, replayed, response)

    return router


@contextmanager
def _counted() -> Iterator[None]:
    """Count what is refused, by its code."""
    try:
        yield
    except AppError as fault:
        if fault.kind in _FAILURES:
            metrics.UPLOADS_REJECTED.labels(fault.kind.value).inc()
        raise


def _announced(request: Request) -> int | None:
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdigit() else None


def _accepted(upload: pb.Upload, replayed: bool, response: Response) -> UploadAccepted:
    tag_replayed(response, replayed)
    response.headers["Location"] = f"/api/jobs/{upload.job_id}"
    return UploadAccepted(job_id=upload.job_id, meeting_id=upload.meeting_id)


async def _file_of(items: AsyncIterator[FormItem]) -> FileBegins:
    """Return the head of the form's file, which is the first thing in it."""
    async for item in items:
        if isinstance(item, FileBegins) and item.name == "file":
            return item
        break
    problem = Problem("file", "Field required, and no other")
    raise AppError(Kind.VALIDATION_FAILED, "The form must have one part, the file.", details=(problem,))


async def _bytes_of(items: AsyncIterator[FormItem]) -> AsyncIterator[bytes]:
    async for item in items:
        if not isinstance(item, FileBytes):
            problem = Problem("form", "Has another part than the file")
            raise AppError(Kind.VALIDATION_FAILED, "The form must have one part, the file.", details=(problem,))
        yield item.data
