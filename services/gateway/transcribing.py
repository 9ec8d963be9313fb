"""The door to transcribers for files that are transcribed while the caller waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from verbatim.transcriber.v1 import recordings_pb2 as pb
from verbatim.transcriber.v1.recordings_pb2_grpc import RecordingsServiceStub

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.rpc import app_error
from services.gateway.incoming import too_long
from services.gateway.media_types import HEAD_BYTES, MediaType, check_head
from services.gateway.relay import Fleet

_CHOOSE_S = 2.0
# What a call says of itself whose stream was closed while it was written to: why is not known any more.
_BROKEN_OFF = (grpc.StatusCode.INTERNAL, "Internal error from Core")
_PIECE_BYTES = 256 * 1024


class Transcribers:
    """Any transcriber that is there. Nothing of a file is kept, so whoever loses one sends it again."""

    def __init__(self, fleet: Fleet, *, file_bytes_max: int, timeout_s: float) -> None:
        self._fleet = fleet
        self._file_bytes_max = file_bytes_max
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def transcribing(
        self, kind: MediaType, content: AsyncIterator[bytes], parameters: Callable[[], pb.TranscribeParameters]
    ) -> AsyncIterator[AsyncIterator[pb.TranscribeResponse]]:
        """Send a file, then what `parameters` returns when all of it has come; give what is heard, as it is heard.

        Raises AppError: PAYLOAD_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, what `content` and `parameters` raise, and what
        the transcriber says, BAD_REQUEST if the file cannot be transcribed.
        """
        link = await self._fleet.choose(ids.new_id(), _CHOOSE_S)
        stub: Any = RecordingsServiceStub(link.peer.channel)
        call = stub.Transcribe(metadata=link.peer.metadata(), timeout=self._timeout_s)
        try:
            async for piece in _pieces(self._bounded(_of_kind(kind, content))):
                await _write(call, pb.TranscribeRequest(data=piece), link.target)
            await _write(call, pb.TranscribeRequest(parameters=parameters()), link.target)
            yield _heard(call, link.target)
        finally:
            call.cancel()

    async def _bounded(self, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for data in content:
            size += len(data)
            if size > self._file_bytes_max:
                raise too_long(self._file_bytes_max)
            yield data


async def _of_kind(kind: MediaType, content: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Pass a file on if its first bytes are those of its kind."""
    head = bytearray()
    async for data in content:
        head += data
        if len(head) >= HEAD_BYTES:
            break
    check_head(kind, bytes(head))
    yield bytes(head)
    async for data in content:
        yield data


async def _pieces(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    gathered = bytearray()
    async for data in content:
        gathered += data
        if len(gathered) >= _PIECE_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


async def _write(call: Any, request: pb.TranscribeRequest, target: str) -> None:
    try:
        await call.write(request)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as fault:
        raise await _failure(call, target) from fault


async def _heard(call: Any, target: str) -> AsyncIterator[pb.TranscribeResponse]:
    try:
        await call.done_writing()
        async for response in call:
            yield response
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as fault:
        raise await _failure(call, target) from fault


async def _failure(call: Any, target: str) -> AppError:
    """Return why a call has ended."""
    code = await call.code()
    if code is grpc.StatusCode.OK or (code, await call.details()) == _BROKEN_OFF:
        log = f"{target}: ended early"
        return AppError(Kind.UNAVAILABLE, "The transcription service does not answer.", log=log, retry_after_s=1.0)
    ended = grpc.aio.AioRpcError(
        code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
    return app_error(ended, target)
