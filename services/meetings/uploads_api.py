"""Calls about uploads come in: parse, call, answer."""

from __future__ import annotations

import datetime as dt
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from verbatim.meetings.v1 import uploads_pb2 as pb

from chassis import ids
from chassis.idempotency import Claim, IdempotencyKeys
from chassis.jobs import Job
from services.meetings.checks import Checks, known_id
from services.meetings.uploads import CONTAINERS, Upload, new_upload
from services.meetings.uploads_store import UploadsStore

_FILTERED_MAX = 1000


class UploadsApi:
    """verbatim.meetings.v1.UploadsService."""

    def __init__(self, store: UploadsStore, keys: IdempotencyKeys) -> None:
        self._store = store
        self._keys = keys

    async def BeginUpload(self, request: pb.BeginUploadRequest, _: Any) -> pb.BeginUploadResponse:  # noqa: N802
        new = new_upload(
            request.upload_id,
            request.owner_id,
            meeting_id=request.meeting_id,
            title=request.title,
            language=request.language,
            file_name=request.file_name,
            container=request.container,
            size_bytes=request.size_bytes,
        )
        kept = await self._keys.once(
            "begin upload",
            Claim.of(request),
            self._store.beginning(new),
            lambda upload: pb.BeginUploadResponse(upload=_upload(upload)),
            pb.BeginUploadResponse,
        )
        kept.answer.replayed = kept.replayed
        return kept.answer

    async def GetUpload(self, request: pb.GetUploadRequest, _: Any) -> pb.GetUploadResponse:  # noqa: N802
        return pb.GetUploadResponse(upload=_upload(await self._store.get(*_named(request))))

    async def CompleteUpload(self, request: pb.CompleteUploadRequest, _: Any) -> pb.CompleteUploadResponse:  # noqa: N802
        checks = Checks()
        container = checks.choice("container", request.container, CONTAINERS)
        checks.done()
        kept = await self._keys.once(
            "complete upload",
            Claim.of(request),
            self._store.completion(*_named(request), request.size_bytes, container),
            lambda upload: pb.CompleteUploadResponse(upload=_upload(upload)),
            pb.CompleteUploadResponse,
        )
        kept.answer.replayed = kept.replayed
        return kept.answer

    async def AbandonUpload(self, request: pb.AbandonUploadRequest, _: Any) -> pb.AbandonUploadResponse:  # noqa: N802
        await self._store.abandon(*_named(request))
        return pb.AbandonUploadResponse()

    async def FilterUploads(self, request: pb.FilterUploadsRequest, _: Any) -> pb.FilterUploadsResponse:  # noqa: N802
        asked = [upload_id for upload_id in request.upload_ids[:_FILTERED_MAX] if ids.is_id(upload_id)]
        return pb.FilterUploadsResponse(upload_ids=await self._store.needed(asked))

    async def GetUploadJob(self, request: pb.GetUploadJobRequest, _: Any) -> pb.GetUploadJobResponse:  # noqa: N802
        job = await self._store.job(known_id(request.owner_id, "job"), known_id(request.job_id, "job"))
        return pb.GetUploadJobResponse(job=_job(job))

    async def CancelUploadJob(  # noqa: N802
        self, request: pb.CancelUploadJobRequest, _: Any
    ) -> pb.CancelUploadJobResponse:
        job = await self._store.cancel(known_id(request.owner_id, "job"), known_id(request.job_id, "job"))
        return pb.CancelUploadJobResponse(job=_job(job))


def _named(request: Any) -> tuple[str, str]:
    return known_id(request.owner_id, "upload"), known_id(request.upload_id, "upload")


def _upload(upload: Upload) -> pb.Upload:
    return pb.Upload(
        id=upload.id,
        owner_id=upload.owner_id,
        meeting_id=upload.meeting_id,
        container=upload.container,
        size_bytes=upload.size_bytes,
        job_id=upload.job_id or "",
        expires_at=_stamp(upload.expires_at),
    )


def _job(job: Job) -> pb.UploadJob:
    return pb.UploadJob(
        id=job.id,
        kind=job.kind,
        status=job.status.value,
        attempts=job.attempts,
        max_attempts=job.attempts_max,
        progress=job.progress,
        error=job.error,
        created_at=_stamp(job.created_at),
        updated_at=_stamp(job.updated_at),
    )


def _stamp(at: dt.datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
