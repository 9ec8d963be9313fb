"""A real HTTP server on this machine that stands for a service of somebody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

Answer = tuple[int, bytes]


@dataclass
class LocalServer:
    """What it was asked, and what it answers: by default what `answers` has for the path, else 404."""

    url: str = ""
    answers: dict[str, object] = field(default_factory=dict)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    stall: threading.Event | None = None

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        self.asked.append((method, path, body))
        if self.stall is not None:
            self.stall.wait(30)
        found = self.answers.get(path)
        if isinstance(found, tuple):
            return found
        if callable(found):
            found = found(body)
        return (404, b"") if found is None else (200, found if isinstance(found, bytes) else orjson.dumps(found))


@contextmanager
def local_server() -> Iterator[LocalServer]:
    """Serve on a free port of loopback."""
    server = LocalServer()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = server.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = _answer  # noqa: N815 - the library names them

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        if server.stall is not None:
            server.stall.set()
        http.shutdown()
        http.server_close()
