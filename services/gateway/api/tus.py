"""`/api/uploads/tus`: a recording in as many requests as a poor network takes (tus 1.0: core, creation, expiration,
termination). https://tus.io/protocols/resumable-upload"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC
from email.utils import format_datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from verbatim.meetings.v1 import uploads_pb2 as pb

from chassis.errors import AppError, Kind, Problem
from services.gateway import errors
from services.gateway.api.uploads import UploadOrder
from services.gateway.auth import Who
from services.gateway.errors import BODY, READ, documented
from services.gateway.forms import body_of
from services.gateway.media_types import HEAD_BYTES, MEDIA_TYPES, MediaType, check_head, media_type
from services.gateway.resources import REPLAYED, Id, IdempotencyKey, moment, tag_replayed
from services.gateway.uploading import Order, UploadDesk

VERSION = "1.0.0"
_PATCH_TYPE = "application/offset+octet-stream"
_METADATA_MAX = 8192
_BYTES = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {"required": True, "content": {_PATCH_TYPE: {"schema": _BYTES}}}
_CREATE = (
    *BODY,
    *(Kind.UNAUTHORIZED, Kind.NOT_FOUND, Kind.CONFLICT, Kind.PRECONDITION_FAILED),
    *(Kind.RATE_LIMIT_EXCEEDED, Kind.INSUFFICIENT_STORAGE),
)
_GO_ON = (*READ, *BODY, Kind.PRECONDITION_FAILED, Kind.CONFLICT, Kind.INSUFFICIENT_STORAGE)


class UploadPlace(BaseModel):
    """Where a recording can be sent to, and until when."""

    upload_id: str
    expires_at: str = Field(examples=["Fri, 27 Nov 2026 09:30:00 GMT"])


class _TusRoute(APIRoute):
    """Speaks tus also where something goes wrong."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def speak(request: Request) -> Response:
            try:
                response = await handle(request)
            except AppError as fault:
                response = errors.answer(fault, request.scope)
            response.headers["Tus-Resumable"] = VERSION
            if response.status_code == 412:
                response.headers["Tus-Version"] = VERSION
            return response

        return speak


async def _speaks_tus(
    _: Who,  # strangers are turned away before they are told what is missing
    tus_resumable: Annotated[str | None, Header(description=f"`{VERSION}`")] = None,
) -> None:
    if tus_resumable != VERSION:
        raise AppError(Kind.PRECONDITION_FAILED, f"Send Tus-Resumable: {VERSION}.")


_SPEAKS = [Depends(_speaks_tus)]
Length = Annotated[int, Header(ge=0, le=10**18, description="Bytes of the whole recording.")]
Offset = Annotated[int, Header(ge=0, le=10**18, description="Where the bytes of this request begin.")]
Metadata = Annotated[
    str,
    Header(
        max_length=_METADATA_MAX,
        description="Names with values in Base64, with commas between.",
        examples=["filename bWVldGluZy5vZ2c="],
    ),
]


def routes(desk: UploadDesk) -> APIRouter:
    """Return the routes of `/api/uploads/tus`."""
    router = APIRouter(prefix="/api/uploads/tus", tags=["uploads"], route_class=_TusRoute)

    @router.options("", status_code=204, include_in_schema=False)
    async def tell_abilities(response: Response) -> None:
        """Tell what of tus is spoken here."""
        response.headers["Tus-Version"] = VERSION
        response.headers["Tus-Extension"] = "creation,expiration,termination"
        response.headers["Tus-Max-Size"] = str(desk.settings.file_bytes_max)

    @router.post(
        "", status_code=201, responses={**documented(*_CREATE), 201: {"headers": REPLAYED}}, dependencies=_SPEAKS
    )
    async def create_upload(
        who: Who, key: IdempotencyKey, response: Response, upload_length: Length, upload_metadata: Metadata
    ) -> UploadPlace:
        """Announce a recording: `Upload-Length`, and in `Upload-Metadata` its `filename` and, if you like, `filetype`,
        `title`, `language` and `meeting_id`."""
        size = upload_length
        said = _said(upload_metadata)
        name = said.get("filename") or said.get("name") or ""
        kind = media_type(name, said.get("filetype") or said.get("type"))
        if size == 0:
            check_head(kind, b"")
        upload, replayed = await desk.announce(_order(who.account_id, said, key), name, kind, size)
        expires = format_datetime(moment(upload.expires_at).astimezone(UTC), usegmt=True)
        response.headers["Location"] = f"/api/uploads/tus/{upload.id}"
        response.headers["Upload-Offset"] = "0"
        response.headers["Upload-Expires"] = expires
        tag_replayed(response, replayed)
        return UploadPlace(upload_id=upload.id, expires_at=expires)

    @router.head(
        "/{upload_id}", status_code=204, responses=documented(*READ, Kind.PRECONDITION_FAILED), dependencies=_SPEAKS
    )
    async def tell_offset(upload_id: Id, who: Who, response: Response) -> None:
        """Tell how much of a recording is durable: what comes next begins there."""
        upload = await desk.find(who.account_id, upload_id)
        held = await desk.held(upload)
        if held.offset == upload.size_bytes and not upload.job_id:
            # Its last bytes came, and whoever took them died before it could say so.
            upload = await desk.complete(upload, held, _kind_of(upload))
        _tell(response, upload, held.offset)

    @router.patch(
        "/{upload_id}",
        status_code=204,
        responses=documented(*_GO_ON),
        openapi_extra={"requestBody": _BODY},
        dependencies=_SPEAKS,
    )
    async def go_on(upload_id: Id, request: Request, who: Who, response: Response, upload_offset: Offset) -> None:
        """Send the next bytes, from `Upload-Offset` on. The answer to the last of them names the job."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != _PATCH_TYPE:
            raise AppError(Kind.UNSUPPORTED_MEDIA_TYPE, f"The body must be sent as {_PATCH_TYPE}.")
        upload = await desk.find(who.account_id, upload_id)
        held = await desk.held(upload)
        if upload_offset != held.offset:
            raise AppError(Kind.CONFLICT, f"The next byte is that at {held.offset}.")
        if not upload.job_id:
            content = body_of(request, idle_s=desk.settings.idle_s)
            kind = _kind_of(upload)
            held = await desk.go_on(
                upload, held, _checked(content, desk, upload, kind) if held.offset == 0 else content
            )
            if held.offset == upload.size_bytes:
                await _check_whole(desk, upload, kind)
                upload = await desk.complete(upload, held, kind)
        _tell(response, upload, held.offset)

    @router.delete(
        "/{upload_id}", status_code=204, responses=documented(*READ, Kind.CONFLICT, Kind.PRECONDITION_FAILED)
    )
    async def end_upload(upload_id: Id, who: Who) -> None:
        """Forget a recording that has not arrived yet."""
        await desk.abandon(await desk.find(who.account_id, upload_id))

    return router


async def _checked(
    content: AsyncIterator[bytes], desk: UploadDesk, upload: pb.Upload, kind: MediaType
) -> AsyncIterator[bytes]:
    """Pass a file on from its beginning, if that is of its kind; one that is not is forgotten."""
    head = bytearray()
    async for data in content:
        head += data
        if len(head) >= HEAD_BYTES:
            break
    # With less than that the whole is looked at when it is there.
    if len(head) >= HEAD_BYTES:
        await _check(desk, upload, kind, bytes(head))
    yield bytes(head)
    async for data in content:
        yield data


async def _check_whole(desk: UploadDesk, upload: pb.Upload, kind: MediaType) -> None:
    await _check(desk, upload, kind, await desk.head_of(upload))


async def _check(desk: UploadDesk, upload: pb.Upload, kind: MediaType, head: bytes) -> None:
    try:
        check_head(kind, head)
    except AppError:
        await desk.forget(upload)
        raise


def _kind_of(upload: pb.Upload) -> MediaType:
    return next(kind for kind in MEDIA_TYPES.values() if kind.container == upload.container)


def _tell(response: Response, upload: pb.Upload, offset: int) -> None:
    response.headers["Upload-Offset"] = str(offset)
    response.headers["Upload-Length"] = str(upload.size_bytes)
    response.headers["Cache-Control"] = "no-store"
    if upload.job_id:
        response.headers["Verbatim-Job-Id"] = upload.job_id
        response.headers["Verbatim-Meeting-Id"] = upload.meeting_id
    else:
        response.headers["Upload-Expires"] = format_datetime(moment(upload.expires_at).astimezone(UTC), usegmt=True)


def _said(metadata: str) -> dict[str, str]:
    said = {}
    for pair in filter(None, (part.strip() for part in metadata.split(","))):
        name, _, value = pair.partition(" ")
        try:
            said[name] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            problem = Problem("Upload-Metadata", "Should be names with values in Base64")
            raise AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=(problem,)) from None
    return said


def _order(owner_id: str, said: dict[str, str], key: str | None) -> Order:
    wanted = {name: said[name] for name in UploadOrder.model_fields if said.get(name)}
    try:
        order = TypeAdapter(UploadOrder).validate_python(wanted)
    except ValidationError as fault:
        names = sorted({str(one["loc"][0]) for one in fault.errors(include_input=False)})
        problems = tuple(Problem(f"Upload-Metadata.{name}", "Is not valid") for name in names)
        raise AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=problems) from None
    return Order(owner_id, order.meeting_id, order.title, order.language, key)
