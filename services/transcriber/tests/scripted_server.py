"""A speech server over real HTTP that answers as its script says, for the failures that real ones have."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage


@dataclass(frozen=True)
class Answer:
    """How one request is answered.

    `pause_s` is waited before the first byte, `pause_body_s` between the head and the body, `trickle_s` between single
    bytes of the body; `reset` drops the connection instead of an answer, or in the middle of the body if `reset_after`
    says after how many bytes.
    """

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    pause_body_s: float = 0.0
    trickle_s: float = 0.0
    reset: bool = False
    reset_after: int | None = None


def answer(body: object, status: int = 200, **more: object) -> Answer:
    """Return an answer with a JSON body."""
    return Answer(body=json.dumps(body).encode(), status=status, **more)  # type: ignore[arg-type]


@dataclass
class Request:
    """What the client sent, and when (monotonic)."""

    path: str
    headers: dict[str, str]
    fields: dict[str, list[str]]
    file_name: str
    file: bytes
    at_s: float = 0.0


class ScriptedServer:
    """Answers with what is in `script`, in order, and then with `otherwise`. Keeps the requests it got.

    `running_most` is how many it answered at one time.
    """

    def __init__(self) -> None:
        self.script: deque[Answer] = deque()
        self.otherwise: Callable[[Request], Answer] = lambda _: answer({"text": ""})
        self.requests: list[Request] = []
        self.running = self.running_most = 0
        self.url = ""
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def run(self) -> AsyncIterator["ScriptedServer"]:
        """Listen on a free local port while in the context."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        # Cancelled is how the server ends; asyncio's streams of 3.11 would log that as a failure.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._answer_one(reader, writer):
                pass
        writer.transport.abort()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await _read_request(reader)
        self.requests.append(request)
        scripted = self.script.popleft() if self.script else self.otherwise(request)
        self.running += 1
        self.running_most = max(self.running_most, self.running)
        try:
            await _write_answer(writer, scripted)
        finally:
            self.running -= 1
        return not scripted.reset and scripted.reset_after is None


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    request_line, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    content_type = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
    form = message_from_bytes(content_type + body, _class=EmailMessage, policy=policy.HTTP)
    request = Request(request_line.split()[1], headers, {}, "", b"", time.monotonic())
    for part in form.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        if file_name := part.get_filename():
            request.file_name, request.file = file_name, content
        else:
            name = str(part.get_param("name", header="content-disposition"))
            request.fields.setdefault(name, []).append(content.decode())
    return request


async def _write_answer(writer: asyncio.StreamWriter, scripted: Answer) -> None:
    if scripted.reset:
        return
    await asyncio.sleep(scripted.pause_s)
    headers = {
        "content-type": scripted.content_type,
        "content-length": str(len(scripted.body)),
        **scripted.headers,
    }
    lines = [f"HTTP/1.1 {scripted.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    if scripted.pause_body_s:
        await writer.drain()
        await asyncio.sleep(scripted.pause_body_s)
    body = scripted.body[: scripted.reset_after]
    if scripted.trickle_s:
        for position in range(len(body)):
            writer.write(body[position : position + 1])
            await writer.drain()
            await asyncio.sleep(scripted.trickle_s)
    else:
        writer.write(body)
    await writer.drain()
