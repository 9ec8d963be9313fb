"""The uploads of the meetings service, as its contract describes them, in memory."""

# ruff: noqa: N802 - the contract names the methods

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from verbatim.meetings.v1 import uploads_pb2 as pb
from verbatim.meetings.v1 import uploads_pb2_grpc

from chassis import ids
from chassis.errors import AppError, Kind

NEXT_DAY = Timestamp(seconds=1_795_867_200)


def _missing() -> AppError:
    return AppError(Kind.NOT_FOUND, "There is no such upload.")


class FakeUploads(uploads_pb2_grpc.UploadsServiceServicer):
    """Keeps uploads. `refusal` is raised when one begins, `completion_faults` before one is completed."""

    def __init__(self) -> None:
        self.uploads: dict[str, pb.Upload] = {}
        self.asked: list[pb.BeginUploadRequest] = []
        self.refusal: AppError | None = None
        self.completion_faults: list[AppError] = []
        self.claims: dict[str, tuple[bytes, str]] = {}

    async def BeginUpload(self, request: pb.BeginUploadRequest, _: Any) -> pb.BeginUploadResponse:
        self.asked.append(request)
        if self.refusal is not None:
            raise self.refusal
        if (known := self._known(request)) is not None:
            return pb.BeginUploadResponse(upload=known, replayed=True)
        upload = pb.Upload(
            id=request.upload_id,
            owner_id=request.owner_id,
            meeting_id=request.meeting_id or ids.new_id(),
            container=request.container,
            size_bytes=request.size_bytes,
            expires_at=NEXT_DAY,
        )
        self.uploads[upload.id] = upload
        return pb.BeginUploadResponse(upload=upload)

    async def GetUpload(self, request: pb.GetUploadRequest, _: Any) -> pb.GetUploadResponse:
        return pb.GetUploadResponse(upload=self._find(request))

    async def CompleteUpload(self, request: pb.CompleteUploadRequest, _: Any) -> pb.CompleteUploadResponse:
        if self.completion_faults:
            raise self.completion_faults.pop(0)
        if (known := self._known(request)) is not None:
            return pb.CompleteUploadResponse(upload=known, replayed=True)
        upload = self._find(request)
        upload.job_id = upload.job_id or ids.new_id()
        upload.size_bytes = request.size_bytes
        return pb.CompleteUploadResponse(upload=upload)

    async def AbandonUpload(self, request: pb.AbandonUploadRequest, _: Any) -> pb.AbandonUploadResponse:
        if self._find(request).job_id:
            raise AppError(Kind.CONFLICT, "The file has arrived already.")
        del self.uploads[request.upload_id]
        return pb.AbandonUploadResponse()

    async def GetUploadJob(self, request: pb.GetUploadJobRequest, _: Any) -> pb.GetUploadJobResponse:
        for upload in self.uploads.values():
            if (upload.job_id, upload.owner_id) == (request.job_id, request.owner_id):
                job = pb.UploadJob(id=upload.job_id, kind="upload", status="running", attempts=1, max_attempts=5)
                return pb.GetUploadJobResponse(job=job)
        raise _missing()

    async def CancelUploadJob(self, request: pb.CancelUploadJobRequest, _: Any) -> pb.CancelUploadJobResponse:
        asked = pb.GetUploadJobRequest(owner_id=request.owner_id, job_id=request.job_id)
        job = (await self.GetUploadJob(asked, _)).job
        job.status, job.error = "failed", "Cancelled."
        return pb.CancelUploadJobResponse(job=job)

    def _known(self, request: Any) -> pb.Upload | None:
        """Return what the same claim has made before, or note that this one makes something."""
        if not request.HasField("claim"):
            return None
        asked = request.claim.fingerprint
        before, upload_id = self.claims.setdefault(request.claim.key, (asked, request.upload_id))
        if before != asked:
            raise AppError(Kind.VALIDATION_FAILED, "The key was used for another request.")
        return self.uploads[upload_id] if upload_id != request.upload_id else None

    def _find(self, request: Any) -> pb.Upload:
        upload = self.uploads.get(request.upload_id)
        if upload is None or upload.owner_id != request.owner_id:
            raise _missing()
        return upload
