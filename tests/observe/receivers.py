"""Where what a platform tells of itself arrives: real HTTP servers with the real protocols, and a vendor."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

HOST = "127.0.0.1"
LOOK_S = 0.1

Answer = tuple[int, bytes]


class Receiver:
    """An HTTP server that hands each request to `take(path, headers, body)`."""

    def __init__(
        self, take: Callable[[str, dict[str, str], bytes], Answer], pause_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._take = take
        self._pause_s = pause_s
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Receiver]:
        """Listen on a free local port while in the context."""
        server = await asyncio.start_server(self._serve, HOST, 0)
        self.url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                path = head[0].split(" ")[1]
                headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:]) if n}
                body = await _body(reader, headers)
                await asyncio.sleep(self._pause_s())
                status, answer = self._take(path, headers, body)
                kind = "application/json" if answer[:1] in {b"{", b"["} else "application/x-protobuf"
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
                    + answer
                )
                await writer.drain()
        writer.close()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body


@dataclass(frozen=True)
class Span:
    """One span as it arrived."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass
class Collector:
    """An OTLP/HTTP receiver that keeps what it decodes."""

    spans: list[Span] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def take(self, path: str, _: dict[str, str], body: bytes) -> Answer:
        """Take one export."""
        assert path == "/v1/traces", path
        self.raw.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for scope in resource.scope_spans:
                self.spans += [
                    Span(
                        service, one.name, one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex(),
                        tuple(link.trace_id.hex() for link in one.links),
                        {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in one.attributes},
                    )
                    for one in scope.spans
                ]  # fmt: skip
        return 200, b""

    def traces(self) -> dict[str, list[Span]]:
        """Return the spans by trace."""
        found: dict[str, list[Span]] = {}
        for span in self.spans:
            found.setdefault(span.trace, []).append(span)
        return found


@dataclass
class SentryServer:
    """Takes envelopes and keeps their items."""

    items: list[tuple[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def take(self, path: str, _: dict[str, str], body: bytes) -> Answer:
        """Take one envelope: a line of head, then for each item a line of head and its payload."""
        assert path == "/api/7/envelope/", path
        self.raw.append(body)
        rest = body.partition(b"\n")[2]
        while rest.strip():
            line, rest = rest.split(b"\n", 1)
            head = json.loads(line)
            size = head.get("length", len(rest))
            payload, rest = rest[:size], rest[size:].removeprefix(b"\n")
            self.items.append((head["type"], json.loads(payload)))
        return 200, b"{}"

    def of(self, kind: str) -> list[Any]:
        """Return the items of a kind: event, transaction, profile."""
        return [item for found, item in self.items if found == kind]


@dataclass
class Vendor:
    """Speech and language models behind OpenAI's API. `status` other than 200 fails and quotes `echo`; each answer
    takes `latency_s`."""

    status: int = 200
    latency_s: float = 0.0
    text: str = "We decided to move the launch to September. Anna will send the budget on Friday."
    echo: str = "scripted"
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def take(self, path: str, headers: dict[str, str], _: bytes) -> Answer:
        """Answer one call."""
        self.asked.append((path, headers))
        if self.status != 200:
            return self.status, json.dumps({"error": {"message": self.echo, "type": "server_error"}}).encode()
        if path.endswith("/audio/transcriptions"):
            return 200, json.dumps({"text": self.text}).encode()
        point: dict[str, Any] = {"text": "The launch moves to September.", "segments": [1]}
        item: dict[str, Any] = {"text": "Send the budget.", "segments": [1], "assignee": "Anna", "due": ""}
        minutes = {
            "summary": "The launch moves.", "key_points": [point], "decisions": [point], "action_items": [item]
        }  # fmt: skip
        choice = {
            "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": json.dumps(minutes)}
        }  # fmt: skip
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        told = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        return 200, json.dumps(told).encode()


async def eventually(holds: Callable[[], Any], within_s: float = 45.0) -> Any:
    """Return what `holds` does once it is true. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not (found := holds()):
            await asyncio.sleep(LOOK_S)
        return found
