"""Taking files in: who may, how much, of what kind, and what is left of a file that does not arrive: nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from verbatim.idempotency.v1.claim_pb2 import Claim
from verbatim.meetings.v1 import uploads_pb2 as pb
from verbatim.meetings.v1.uploads_pb2_grpc import UploadsServiceStub

from chassis import ids, telemetry
from chassis.errors import AppError, Kind
from chassis.objects import Held, Objects
from chassis.rpc import Peer
from services.gateway import metrics
from services.gateway.budget import AudioBudget
from services.gateway.incoming import IncomingFile, discard, too_long
from services.gateway.media_types import HEAD_BYTES, MediaType, check_head

log = telemetry.logger(__name__)

BUCKET = "UPLOADS"
_CLEAN_UP_S = 5.0
_FULL_S = 60.0


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """`file_bytes_max` is of one file, `at_once_max` counts files that arrive at one replica."""

    file_bytes_max: int = 100_000_000
    at_once_max: int = 32
    idle_s: float = 30.0
    call_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Order:
    """What is to become of a file: added to a meeting that is there, or a new one."""

    owner_id: str
    meeting_id: str | None
    title: str | None
    language: str | None
    key: str | None = None
    """The Idempotency-Key, if there is one."""

    def claim(self, *asked: object) -> Claim | None:
        """Return the claim of a call that asks for this and for that; None without a key."""
        if self.key is None:
            return None
        all_ = repr((self.meeting_id, self.title, self.language, *asked))
        return Claim(key=self.key, fingerprint=hashlib.sha256(all_.encode("utf-8", "surrogateescape")).digest())


class UploadDesk:
    """Takes files into the object store and hands them over to become meetings."""

    def __init__(
        self,
        meetings: Peer,
        objects: Objects,
        settings: UploadSettings,
        budget: AudioBudget,
        *,
        is_full: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_full` tells whether somebody has said that there is no room for files."""
        self._is_full = is_full
        self._meetings = meetings
        self._stub = UploadsServiceStub(meetings.channel)
        self._objects = objects
        self.settings = settings
        self._budget = budget
        self._arriving = 0

    @contextmanager
    def arrival(self) -> Iterator[None]:
        """Hold a place while a file arrives.

        Raises AppError: INSUFFICIENT_STORAGE if there is no room for it, UNAVAILABLE if too many arrive already.
        """
        self._check_room()
        if self._arriving >= self.settings.at_once_max:
            raise AppError(Kind.UNAVAILABLE, "Too many files arrive at the moment.", retry_after_s=5.0)
        self._arriving += 1
        metrics.UPLOADS_ARRIVING.set(self._arriving)
        try:
            yield
        finally:
            self._arriving -= 1
            metrics.UPLOADS_ARRIVING.set(self._arriving)

    def _check_room(self) -> None:
        if self._is_full():
            raise AppError(Kind.INSUFFICIENT_STORAGE, "There is no room for files now.", retry_after_s=_FULL_S)

    async def announce(self, order: Order, name: str, kind: MediaType, size: int) -> tuple[pb.Upload, bool]:
        """Reserve a place for a file that comes in several requests; tell whether it is that of an earlier call."""
        return await self._begin(order, name, kind, size, order.claim("announced", name, size))

    async def _begin(
        self, order: Order, name: str, kind: MediaType, size: int | None, claim: Claim | None
    ) -> tuple[pb.Upload, bool]:
        """Reserve a place for a file of a size (None: not known). Raises AppError, also if no audio is left."""
        self._check_room()
        bytes_max = self.settings.file_bytes_max
        if size is not None and size > bytes_max:
            raise too_long(bytes_max)
        await self._budget.check(order.owner_id)
        request = pb.BeginUploadRequest(
            owner_id=order.owner_id,
            upload_id=ids.new_id(),
            meeting_id=order.meeting_id or "",
            title=order.title or "",
            language=order.language or "",
            file_name=name,
            container=kind.container,
            size_bytes=bytes_max if size is None else size,
            claim=claim,
        )
        answer = await self._meetings.call(self._stub.BeginUpload, request, timeout_s=self.settings.call_s)
        return answer.upload, answer.replayed

    async def take(
        self, order: Order, name: str, kind: MediaType, content: AsyncIterator[bytes], size: int | None
    ) -> tuple[pb.Upload, bool]:
        """Take in a file that comes in one piece; tell whether it had come before, with the same Idempotency-Key.

        Nothing is left of one that does not arrive, or comes again. Raises AppError.
        """
        with self.arrival():
            head = bytearray()
            async for data in content:
                head += data
                if len(head) >= HEAD_BYTES:
                    break
            check_head(kind, bytes(head))
            upload, _ = await self._begin(order, name, kind, size, None)
            incoming = IncomingFile(self._objects, upload.id, bytes_max=self.settings.file_bytes_max)
            arrived = False
            try:
                await incoming.write(bytes(head))
                async for data in content:
                    await incoming.write(data)
                held = await incoming.flush()
                claim = order.claim("whole", name, incoming.digest)
                done, replayed = await self._complete(upload, held, kind, digest=incoming.digest, claim=claim)
                arrived = done.id == upload.id
                return done, replayed
            finally:
                if not arrived:
                    await incoming.stop()
                    await self.forget(upload)

    async def complete(self, upload: pb.Upload, held: Held, kind: MediaType) -> pb.Upload:
        """Hand over a file that came in several requests and is stored as a whole. Safe to repeat. Raises AppError."""
        return (await self._complete(upload, held, kind, digest=None, claim=None))[0]

    async def _complete(
        self, upload: pb.Upload, held: Held, kind: MediaType, *, digest: bytes | None, claim: Claim | None
    ) -> tuple[pb.Upload, bool]:
        await self._objects.seal(upload.id, held.offset, digest)
        request = pb.CompleteUploadRequest(
            owner_id=upload.owner_id,
            upload_id=upload.id,
            size_bytes=held.offset,
            container=kind.container,
            claim=claim,
        )
        answer = await self._meetings.call(self._stub.CompleteUpload, request, timeout_s=self.settings.call_s)
        metrics.UPLOADS_RECEIVED.labels(kind.suffix).inc()
        return answer.upload, answer.replayed

    async def forget(self, upload: pb.Upload) -> None:
        """Leave nothing of a file that will not arrive. What cannot be done now the janitor does."""
        with suppress(AppError, TimeoutError):
            async with asyncio.timeout(_CLEAN_UP_S):
                await self.abandon(upload)

    async def abandon(self, upload: pb.Upload) -> None:
        """Forget a file that has not arrived. Raises AppError: CONFLICT if it has."""
        request = pb.AbandonUploadRequest(owner_id=upload.owner_id, upload_id=upload.id)
        await self._meetings.call(self._stub.AbandonUpload, request, timeout_s=self.settings.call_s)
        await discard(self._objects, upload.id)

    # -- files that come in several requests ---------------------------------------------------------------------

    async def find(self, owner_id: str, upload_id: str) -> pb.Upload:
        """Return an upload. Raises AppError(NOT_FOUND)."""
        request = pb.GetUploadRequest(owner_id=owner_id, upload_id=upload_id)
        answer = await self._meetings.call(self._stub.GetUpload, request, timeout_s=self.settings.call_s)
        return answer.upload

    async def held(self, upload: pb.Upload) -> Held:
        """Return how much of a file is durable."""
        return Held(upload.size_bytes, 0) if upload.job_id else await self._objects.held(upload.id)

    async def go_on(self, upload: pb.Upload, held: Held, content: AsyncIterator[bytes]) -> Held:
        """Take the next bytes of a file behind those that are held; as many as came are kept whatever happens.

        Raises AppError: PAYLOAD_TOO_LARGE if there are more than was announced.
        """
        with self.arrival():
            incoming = IncomingFile(self._objects, upload.id, bytes_max=upload.size_bytes, held=held)
            try:
                async for data in content:
                    await incoming.write(data)
                return await incoming.flush()
            except AppError as fault:
                if fault.kind is Kind.BAD_REQUEST:  # the client has left: what it sent need not be sent again
                    await incoming.flush()
                raise
            finally:
                await incoming.stop()

    async def head_of(self, upload: pb.Upload) -> bytes:
        """Return the first bytes of a file that is stored."""
        head = bytearray()
        async for piece in self._objects.read(upload.id, min(HEAD_BYTES, upload.size_bytes)):
            head += piece
            if len(head) >= HEAD_BYTES:
                break
        return bytes(head[:HEAD_BYTES])
