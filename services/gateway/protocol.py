"""HTTP/1.1 with slow and too many clients in mind: uvicorn's protocol waits for a request as long as it takes.

What cannot be read is answered in our shape; who sends or reads too slowly is cut off; and one address gets so many
connections and no more (docs/adr/0021-slow-clients-in-the-process.md).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.server import ServerProtocol

from chassis import ids
from chassis.errors import AppError, Kind
from services.gateway import errors, headers
from services.gateway.addresses import UNKNOWN, Proxies, network_of
from services.gateway.frames import BoundedWebSocket
from services.gateway.metrics import CONNECTIONS, CONNECTIONS_REFUSED


@dataclass(frozen=True, slots=True)
class Patience:
    """How long, how slow, how much."""

    head_s: float = 10.0
    head_bytes_max: int = 32 * 1024
    headers_max: int = 100
    body_bytes_per_s: int = 512
    look_s: float = 5.0
    pipelined_max: int = 8
    read_s: float = 30.0


class Crowd:
    """Counts the open connections of each address. Proxies that we trust stand for many and have no limit."""

    def __init__(self, *, most: int, most_of_one: int, proxies: Proxies) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._proxies = proxies
        self._of: Counter[str] = Counter()
        self._all = 0

    def enter(self, address: str) -> str:
        """Count a connection; an empty text, or why there may not be another one (it is counted nevertheless)."""
        self._all += 1
        CONNECTIONS.set(self._all)
        network = network_of(address)
        self._of[network] += 1
        if self._all > self._most:
            return "full"
        if self._of[network] > self._most_of_one and not self._proxies.trusts(address):
            return "crowd"
        return ""

    def leave(self, address: str) -> None:
        """Count a connection off."""
        self._all -= 1
        CONNECTIONS.set(self._all)
        network = network_of(address)
        self._of[network] -= 1
        if not self._of[network]:
            del self._of[network]


class PatientHttp(HttpToolsProtocol):
    """One connection. It is *in the head* of a request, *in its body*, or neither."""

    def __init__(self, crowd: Crowd, patience: Patience, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._crowd = crowd
        self._patience = patience
        self._address = UNKNOWN
        self._inside = False
        self._in_head = True
        self._in_body = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None

    # -- connections ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else UNKNOWN
        self._inside = True
        refused = self._crowd.enter(self._address)
        if refused:
            CONNECTIONS_REFUSED.labels(refused).inc()
            self._refuse(AppError(Kind.UNAVAILABLE, "There are too many connections.", retry_after_s=5.0))
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._leave()
        super().handle_websocket_upgrade()

    def _leave(self) -> None:
        self._disarm()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        if self._inside:
            self._inside = False
            self._crowd.leave(self._address)

    # -- requests ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if not self._inside or self.transport.is_closing():
            self._disarm()
        elif self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._patience.head_bytes_max:
                self._refuse(AppError(Kind.BAD_REQUEST, "The head of the request is too long."))
            else:
                self._wait_for_head()
        elif self._in_body:
            self._body_bytes += len(data)
            self._wait_for_body()
        else:
            self._disarm()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._in_body, self._head_bytes, self._body_bytes = True, False, 0, 0

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._disarm()
        if len(self.pipeline) >= self._patience.pipelined_max:
            # Each takes kilobytes while it waits for the answers before it, and one packet holds thousands. Nothing can
            # be said: it would come into the midst of an answer.
            CONNECTIONS_REFUSED.labels("pipeline").inc()
            self.transport.abort()
            raise ValueError("too many requests ahead of their answers")
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self._patience.head_bytes_max or len(self.headers) > self._patience.headers_max:
            # The parser stops, and `send_400_response` answers.
            raise ValueError("head too long")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self.transport.is_closing():
            return
        self._refuse(AppError(Kind.BAD_REQUEST, "The request cannot be read.", log=msg))

    def _refuse(self, error: AppError) -> None:
        """Answer without the application and hang up, unless an answer has begun already."""
        self._disarm()
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(errors.raw(error, ids.new_request_id()))
        self.transport.close()

    # -- slowness ------------------------------------------------------------------------------------------------

    def _wait_for_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._patience.head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._timer = None
        if self._in_head:
            CONNECTIONS_REFUSED.labels("head").inc()
            if self._head_bytes:
                self._refuse(AppError(Kind.BAD_REQUEST, "The request did not come in time."))
            else:
                self.transport.close()
        elif self._in_body:
            self._wait_for_body()

    def _wait_for_body(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._patience.look_s, self._look_at_body, self._body_bytes)

    def _look_at_body(self, before: int) -> None:
        self._timer = None
        if not self._in_body:
            return
        # When we do not read, for want of a reader or of a word to go on, it is not the client who is slow.
        ours = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if not ours and self._body_bytes - before < self._patience.body_bytes_per_s * self._patience.look_s:
            CONNECTIONS_REFUSED.labels("body").inc()
            self._refuse(AppError(Kind.BAD_REQUEST, "The body comes too slowly."))
        else:
            self._wait_for_body()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self._patience.read_s, self._unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _unread(self) -> None:
        CONNECTIONS_REFUSED.labels("read").inc()
        self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        # What is still unsent after so long is not being read.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()


class CountedSocket(BoundedWebSocket):
    """One WebSocket connection: counted like any other, its failed handshakes answered in our shape."""

    def __init__(self, crowd: Crowd, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._crowd = crowd
        self.conn = _Handshake(max_size=self.config.ws_max_size, logger=self.conn.logger)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._address = self.client[0] if self.client else UNKNOWN
        self._crowd.enter(self._address)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.leave(self._address)
        super().connection_lost(exc)


class _Handshake(ServerProtocol):
    def reject(self, status: Any, text: str) -> Response:
        response = super().reject(status, text)
        error = errors.of_status(int(status))
        body = errors.body_of(error, request_id := ids.new_request_id())
        kept = [(name, value) for name, value in response.headers.raw_items() if not name.startswith("Content-")]
        added = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            *((name.decode(), value.decode()) for name, value in headers.for_answer(request_id, page=False)),
        ]
        return Response(error.codes.http, HTTPStatus(error.codes.http).phrase, Headers([*kept, *added]), body)
