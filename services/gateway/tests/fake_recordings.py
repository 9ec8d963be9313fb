"""A transcriber of files, as its contract describes it: says what it is told to."""

# ruff: noqa: N802 - the contract names the methods

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from verbatim.transcriber.v1 import recordings_pb2 as pb
from verbatim.transcriber.v1 import recordings_pb2_grpc, transcriber_pb2_grpc
from verbatim.transcript.v1 import transcript_pb2

from chassis.errors import AppError

HEARD = ("Good morning, everybody.", "We ship on Friday & no later.")


def segment(number: int, text: str) -> transcript_pb2.Segment:
    start = 2.0 * number
    made = transcript_pb2.Segment(
        index=number,
        start_s=start,
        end_s=start + 1.5,
        text=text,
        confidence=0.5,
        quality=transcript_pb2.QUALITY_FINAL,
    )
    for position, word in enumerate(text.split()):
        made.words.add(text=word, start_s=start + position * 0.1, end_s=start + position * 0.1 + 0.1)
    return made


class FakeRecordings(recordings_pb2_grpc.RecordingsServiceServicer):
    """Hears HEARD in every file. `refusal` comes before a byte is read, `fault` after the file, or after the first
    sentence if `late`."""

    def __init__(self) -> None:
        self.files: list[bytes] = []
        self.parameters: list[pb.TranscribeParameters] = []
        self.quality: transcript_pb2.Quality.ValueType = transcript_pb2.QUALITY_FINAL
        self.refusal: AppError | None = None
        self.fault: AppError | None = None
        self.late = False
        self.heard: tuple[str, ...] = HEARD

    async def Transcribe(
        self, requests: AsyncIterator[pb.TranscribeRequest], _: Any
    ) -> AsyncIterator[pb.TranscribeResponse]:
        if self.refusal is not None:
            raise self.refusal
        data = bytearray()
        async for request in requests:
            if request.HasField("parameters"):
                self.parameters.append(request.parameters)
                break
            data += request.data
        self.files.append(bytes(data))
        if self.fault is not None and not self.late:
            raise self.fault
        for number, text in enumerate(self.heard):
            said = segment(number, text)
            said.quality = self.quality
            yield pb.TranscribeResponse(segment=said)
            if self.fault is not None:
                raise self.fault
        yield pb.TranscribeResponse(summary=pb.TranscribeSummary(duration_s=4.25, language="english"))


class FakeRelay(transcriber_pb2_grpc.TranscriberServiceServicer):
    """Is there, and says nothing."""

    async def Relay(self, _requests: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(())
        await asyncio.Event().wait()
        yield
