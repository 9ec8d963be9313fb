"""The job of an upload: a transcriber does the work, this sees to it that it is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.transcriber.v1 import recordings_pb2 as pb
from verbatim.transcriber.v1.recordings_pb2_grpc import RecordingsServiceStub
from verbatim.transcript.v1 import transcript_pb2

from chassis import telemetry
from chassis.errors import AppError, Kind
from chassis.jobs import Superseded
from chassis.rpc import Peer
from chassis.worker import Effect, Postponed, Refused, Run
from services.meetings import metrics
from services.meetings.uploads import Upload
from services.meetings.uploads_store import UploadsStore

log = telemetry.logger(__name__)

_SILENCE_S = 30.0
_STORED_WITHIN_S = 60.0
_STORED_LOOK_S = 0.2
_REPORT_STEP = 0.01
# Of the progress; the rest is what the database takes.
_HEARD_SHARE = 0.98


class Transcriber(Protocol):
    """The door to the transcribers."""

    def transcribe(self, request: pb.TranscribeUploadRequest) -> AsyncIterator[pb.TranscribeUploadResponse]:
        """Work on an upload and tell of it. Raises AppError."""


class TranscriberPeer:
    """Transcribers over gRPC: any of them can go on with any upload."""

    def __init__(self, peer: Peer, *, timeout_s: float) -> None:
        self._peer = peer
        self._stub = RecordingsServiceStub(peer.channel)
        self._timeout_s = timeout_s

    async def transcribe(self, request: pb.TranscribeUploadRequest) -> AsyncIterator[pb.TranscribeUploadResponse]:
        """See `Transcriber`."""
        told = self._peer.stream(self._stub.TranscribeUpload, request, timeout_s=self._timeout_s)
        async with aclosing(told):  # type: ignore[type-var]  # an async generator
            while True:
                try:
                    # It tells of itself every second, also when nothing has changed.
                    async with asyncio.timeout(_SILENCE_S):
                        response = await anext(told)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise AppError(Kind.TIMEOUT, "A part of the service does not answer.", log="silence") from None
                yield response


class UploadJobs:
    """Handles jobs of the kind `upload`; the key is the upload's id."""

    def __init__(
        self,
        store: UploadsStore,
        transcriber: Transcriber,
        remove: Callable[[str], Awaitable[None]],
        *,
        postpone_s: float = 2.0,
    ) -> None:
        """`remove` takes an upload's file away. Raises AppError."""
        self._store = store
        self._transcriber = transcriber
        self._remove = remove
        self._postpone_s = postpone_s

    async def handle(self, run: Run) -> Effect:
        """Have the file transcribed and stored. Raises Refused with what the person who sent it should know."""
        upload = await self._store.of_job(run.job.key)
        if upload is None:
            raise Refused("The upload is not there any more.")
        if upload.refusal:
            raise Refused(upload.refusal)
        call = _Call(run)
        try:
            await self._transcribe(upload, call)
            await self._until_stored(upload)
        except AppError as fault:
            await self._judge(upload, call, fault)
            raise
        metrics.UPLOADS.labels("completed").inc()
        return _nothing

    async def _transcribe(self, upload: Upload, call: _Call) -> None:
        request = pb.TranscribeUploadRequest(
            upload_id=upload.id,
            size_bytes=upload.size_bytes,
            container=upload.container,
            session=transcript_pb2.Opened(
                meeting_id=upload.meeting_id,
                owner_id=upload.owner_id,
                title=upload.title,
                encoding=transcript_pb2.ENCODING_PCM_S16LE,
                sample_rate=16_000,
                channels=1,
                language=upload.language,
            ),
            last_attempt=call.run.job.last_attempt,
        )
        told = self._transcriber.transcribe(request)
        async with aclosing(told):  # type: ignore[type-var]  # an async generator
            async for response in told:
                call.begun = True
                match response.WhichOneof("kind"):
                    case "progress":
                        await call.report(response.progress * _HEARD_SHARE)
                    case "refused":
                        await self._refuse(upload, response.refused)
                    case "closed":
                        return
        raise AppError(Kind.UNAVAILABLE, "A part of the service does not answer.", log="ended without a result")

    async def _judge(self, upload: Upload, call: _Call, fault: AppError) -> None:
        """Say what a failure means if it is not simply an attempt that failed."""
        if fault.kind is Kind.CONFLICT:
            raise Superseded from fault
        if fault.kind is Kind.NOT_FOUND:
            await self._refuse(upload, fault.message)
        retryable = fault.codes.retryable
        # Nobody to ask, no space, or on the way to the end: nothing speaks against the file.
        if retryable and (not call.begun or call.advanced or fault.kind is Kind.INSUFFICIENT_STORAGE):
            raise Postponed(max(fault.retry_after_s or 0.0, self._postpone_s)) from fault
        if not retryable or call.run.job.last_attempt:
            metrics.UPLOADS.labels("dead").inc()
            await self._store.give_up(upload)

    async def _refuse(self, upload: Upload, why: str) -> None:
        await self._store.refuse(upload, why)
        with suppress(AppError):  # then the janitor does it
            await self._remove(upload.id)
        metrics.UPLOADS.labels("refused").inc()
        raise Refused(why)

    async def _until_stored(self, upload: Upload) -> None:
        """Wait for the consumer of the transcript log, which may be in another process."""
        try:
            async with asyncio.timeout(_STORED_WITHIN_S):
                while not await self._store.is_stored(upload.id):  # noqa: ASYNC110 - the event is a row
                    await asyncio.sleep(_STORED_LOOK_S)
        except TimeoutError:
            raise AppError(Kind.UNAVAILABLE, "The transcript is not stored yet.", retry_after_s=5.0) from None


class _Call:
    """One attempt at a job: whether somebody took it, and whether it came further than the one before."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.begun = False
        self._reached = run.job.progress

    @property
    def advanced(self) -> bool:
        return self._reached > self.run.job.progress

    async def report(self, progress: float) -> None:
        if progress >= self._reached + _REPORT_STEP:
            self._reached = progress
            await self.run.report(progress)


async def _nothing(_: AsyncConnection) -> None:
    """There is nothing to commit besides the job's completion."""
