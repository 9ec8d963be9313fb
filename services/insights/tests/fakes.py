"""The services and servers that insights speaks to, as real servers with scripted answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from verbatim.meetings.v1 import meetings_pb2, meetings_pb2_grpc

from chassis import ids, rpc
from chassis.errors import AppError, Kind
from chassis.lifecycle import HttpServer

KEY = "k" * 32


@dataclass
class FakeMeetings(meetings_pb2_grpc.MeetingsServiceServicer):
    """Meetings as the contract has them: by owner, segments in pages."""

    meetings: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    page: int = 3
    healing: int = 0
    faults: list[AppError] = field(default_factory=list)
    calls: int = 0

    def add(self, lines: list[str]) -> tuple[str, str]:
        owner_id, meeting_id = ids.new_id(), ids.new_id()
        self.meetings[owner_id, meeting_id] = lines
        return owner_id, meeting_id

    def _lines(self, request: Any) -> list[str]:
        self.calls += 1
        if self.faults:
            raise self.faults.pop(0)
        try:
            return self.meetings[request.owner_id, request.meeting_id]
        except KeyError:
            raise AppError(Kind.NOT_FOUND, "There is no such meeting.") from None

    async def GetMeeting(self, request: Any, context: Any) -> meetings_pb2.GetMeetingResponse:  # noqa: N802
        self._lines(request)
        meeting = meetings_pb2.Meeting(
            id=request.meeting_id, owner_id=request.owner_id, language="en", participants=["Anna Smith"],
            healing_segments=self.healing,
        )  # fmt: skip
        meeting.created_at.FromJsonString("2026-11-25T09:00:00Z")
        return meetings_pb2.GetMeetingResponse(meeting=meeting)

    async def ListSegments(self, request: Any, context: Any) -> meetings_pb2.ListSegmentsResponse:  # noqa: N802
        lines = self._lines(request)
        first = int(request.cursor or 0)
        last = min(first + self.page, len(lines))
        segments = [
            meetings_pb2.TranscriptSegment(id=f"s{n}", text=lines[n], start_s=n * 4.0, end_s=n * 4.0 + 3.0)
            for n in range(first, last)
        ]
        return meetings_pb2.ListSegmentsResponse(segments=segments, next_cursor=str(last) if last < len(lines) else "")


@asynccontextmanager
async def serving(register: Any, servicer: Any) -> AsyncIterator[rpc.Peer]:
    """Serve a servicer on a free port and yield a door to it."""
    identity = rpc.Identity("test", KEY)
    server = rpc.Server("127.0.0.1", 0, identity)
    server.add(register, servicer)
    await server.start()
    try:
        async with rpc.peer(f"127.0.0.1:{server.port}", identity) as door:
            yield door
    finally:
        await server.stop(0.0)


@dataclass
class FakeOpenAI:
    """An OpenAI-compatible server. Answers what the script says, in order; the last for ever."""

    script: list[Any] = field(
        default_factory=list
    )  # dict: minutes; str: content; (status, headers, body); float: wait;
    # a function of the request that returns one of these
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    async def _answer(self, request: Request) -> Response:
        self.requests.append(orjson.loads(await request.body()))
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if callable(step):
            step = step(self.requests[-1])
        if isinstance(step, float):
            await asyncio.sleep(step)
            return Response(status_code=500)
        if isinstance(step, tuple):
            status, headers, body = step
            return Response(body, status, headers, media_type="application/json")
        content = step if isinstance(step, str) else orjson.dumps(step).decode()
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        return Response(orjson.dumps(body), media_type="application/json")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeOpenAI]:
        app = Starlette(routes=[Route("/v1/chat/completions", self._answer, methods=["POST"])])
        server = HttpServer(app, "127.0.0.1", 0, timeout_graceful_shutdown=1)
        self.url = f"http://127.0.0.1:{server.port}/v1"
        running = asyncio.create_task(server.run_until_exit())
        try:
            yield self
        finally:
            server.should_exit = True
            await running


@dataclass
class ScriptedChat:
    """A server that is slow or gone in the midst of its answer. The answer is a completion's first part, spun out."""

    trickle_s: float = 0.0
    reset_after: int | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serve on a free port and yield the base URL."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n")
            for byte in (b'{"id": "c", "choices": [' + b" " * 5000)[: self.reset_after]:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(self.trickle_s)
        writer.transport.abort()
