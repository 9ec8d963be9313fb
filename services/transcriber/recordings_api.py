"""Calls about files: uploads that become sessions, and files that are transcribed at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import IO, Any

from verbatim.transcriber.v1 import recordings_pb2 as pb
from verbatim.transcriber.v1 import recordings_pb2_grpc
from verbatim.transcript.v1 import transcript_pb2

from chassis import ids, telemetry
from chassis.errors import AppError, Kind, Problem
from services.transcriber import metrics
from services.transcriber.containers import CONTAINERS, Container, UnreadableError
from services.transcriber.filters import FilterSettings
from services.transcriber.media import MediaDecoder, write_all
from services.transcriber.recordings import Recordings, Told
from services.transcriber.segments import entry_kind
from services.transcriber.transcript import Ledger, seconds
from services.transcriber.transcript_log import Fenced
from services.transcriber.uploads import Upload, Uploads

log = telemetry.logger(__name__)

_PROGRESS_S = 1.0
_QUEUED_MAX = 64


class Places:
    """How many files of a kind are worked on here at one time; beyond it callers are sent away."""

    def __init__(self, purpose: str, most: int) -> None:
        self._purpose = purpose
        self._left = most

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place. Raises AppError(UNAVAILABLE) if there is none."""
        if self._left <= 0:
            raise AppError(Kind.UNAVAILABLE, "Too many recordings at the moment.", retry_after_s=5.0)
        self._left -= 1
        try:
            with metrics.RECORDINGS.labels(self._purpose).track_inprogress():
                yield
        finally:
            self._left += 1

    def close(self) -> None:
        """Give out no place any more."""
        self._left = -(10**9)


class RecordingsService(recordings_pb2_grpc.RecordingsServiceServicer):
    """verbatim.transcriber.v1.RecordingsService."""

    def __init__(
        self,
        uploads: Uploads,
        decoder: MediaDecoder,
        recordings: Recordings,
        *,
        uploads_max: int,
        files_max: int,
        file_bytes_max: int,
    ) -> None:
        self._uploads = uploads
        self._decoder = decoder
        self._recordings = recordings
        self._upload_places = Places("upload", uploads_max)
        self._file_places = Places("at once", files_max)
        self._file_bytes_max = file_bytes_max

    def retire(self) -> None:
        """Begin with nothing more; what is under way goes on until the server cuts it."""
        self._upload_places.close()
        self._file_places.close()

    async def TranscribeUpload(  # noqa: N802
        self, request: pb.TranscribeUploadRequest, context: Any
    ) -> AsyncIterator[pb.TranscribeUploadResponse]:
        """Work on an upload and tell its progress."""
        upload = Upload(
            request.upload_id, request.size_bytes, _container(request.container), request.session, request.last_attempt
        )
        progress = 0.0

        def report(value: float) -> None:
            nonlocal progress
            progress = value

        with self._upload_places.taken():
            yield pb.TranscribeUploadResponse(progress=progress)
            work = asyncio.create_task(self._uploads.transcribe(upload, report))
            try:
                while not work.done():
                    await asyncio.wait([work], timeout=_PROGRESS_S)
                    yield pb.TranscribeUploadResponse(progress=progress)
                yield pb.TranscribeUploadResponse(closed=work.result())
            except UnreadableError as fault:
                yield pb.TranscribeUploadResponse(refused=str(fault))
            except Fenced:
                raise AppError(Kind.CONFLICT, "Another has taken the upload over.") from None
            finally:
                work.cancel()
                await asyncio.wait([work])

    async def Transcribe(  # noqa: N802
        self, requests: AsyncIterator[pb.TranscribeRequest], context: Any
    ) -> AsyncIterator[pb.TranscribeResponse]:
        """Take a file in, then transcribe it and keep nothing."""
        with self._file_places.taken(), self._decoder.scratch() as source, self._decoder.scratch() as sound:
            parameters = await self._receive(requests, source)
            queue: asyncio.Queue[pb.TranscribeResponse | None] = asyncio.Queue(_QUEUED_MAX)
            work = asyncio.create_task(self._transcribe(parameters, source, sound, queue))
            work.add_done_callback(lambda _: _wake(queue))
            try:
                while not (work.done() and queue.empty()):
                    if (response := await queue.get()) is not None:
                        yield response
                work.result()
            finally:
                work.cancel()
                await asyncio.wait([work])

    async def _receive(self, requests: AsyncIterator[pb.TranscribeRequest], source: IO[bytes]) -> Any:
        size = 0
        async for request in requests:
            if request.HasField("parameters"):
                return request.parameters
            size += len(request.data)
            if size > self._file_bytes_max:
                raise AppError(Kind.PAYLOAD_TOO_LARGE, "The file is too long.")
            await asyncio.to_thread(write_all, source, request.data)
        raise AppError(Kind.BAD_REQUEST, "The file did not arrive completely.")

    async def _transcribe(
        self, parameters: Any, source: IO[bytes], sound: IO[bytes], queue: asyncio.Queue[Any]
    ) -> None:
        try:
            recording = await self._decoder.decode(source, _container(parameters.container), sound)
        except UnreadableError as fault:
            metrics.UNREADABLE.labels(fault.reason).inc()
            problem = Problem("file", "Cannot be transcribed")
            raise AppError(Kind.BAD_REQUEST, str(fault), details=(problem,)) from None
        journal = _Passing(queue, language=parameters.language, prompt=parameters.prompt)
        await self._recordings.transcribe(recording, journal, gaps=False)
        summary = pb.TranscribeSummary(duration_s=seconds(recording.pcm_bytes), language=journal.language)
        await queue.put(pb.TranscribeResponse(summary=summary))


class _Passing:
    """A transcript that is not kept: what is told goes to the caller."""

    def __init__(self, queue: asyncio.Queue[Any], *, language: str, prompt: str) -> None:
        self.ledger = Ledger(ids.new_id())
        self.ledger.opened = transcript_pb2.Opened(language=language, prompt=prompt)
        self.language = language
        self._queue = queue

    async def tell(self, told: Told) -> None:
        utterance = told.utterance
        kind = entry_kind(
            self.ledger,
            utterance,
            ids.derived_id(self.ledger.session_id, "segment", utterance.start_byte),
            told.recognition,
            pcm=told.pcm[utterance.start_byte - utterance.context_start_byte :],
            resumption={"audio_sequence": 0, "entry_point": None},
            settings=FilterSettings(),
        )
        self.ledger.apply(self.ledger.draft("", **kind))
        if told.recognition is not None:
            self.language = self.language or told.recognition.transcription.language or ""
        segment = kind.get("segment")
        if isinstance(segment, transcript_pb2.Segment):
            await self._queue.put(pb.TranscribeResponse(segment=segment))


def _wake(queue: asyncio.Queue[Any]) -> None:
    """Let the reader see that there will be no more; if the queue is full it is awake."""
    if not queue.full():
        queue.put_nowait(None)


def _container(name: str) -> Container:
    for container in CONTAINERS:
        if name == container:
            return container
    raise AppError(Kind.UNSUPPORTED_MEDIA_TYPE, "Files of this kind cannot be transcribed.")
