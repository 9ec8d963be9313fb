"""What a live socket's client may send besides audio: frames that carry nothing are bounded, in number and in memory.

uvicorn and websockets bound the size of a message. They do not bound how many fragments it comes in (empty ones are
free), how many pings they answer a client that reads no answer, or how many tiny messages they take in one read.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from services.gateway import metrics
from services.gateway.bucket import Bucket

# A read is up to 256 KB: as frames of two bytes, it would be held as a hundred thousand objects at once.
_SLICE_BYTES = 16 * 1024
_FRAGMENTS_MAX = 256
_WAITING_MAX = 512
_UNREAD_BYTES_MAX = 64 * 1024
_BEATS_PER_S = 10.0
_BEATS_AT_ONCE = 100.0


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol, which closes with 1008 on a client that sends what no client needs to."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._beats = Bucket(_BEATS_PER_S, _BEATS_AT_ONCE, asyncio.get_running_loop().time)

    def data_received(self, data: bytes) -> None:
        """Take what the socket has, a little at a time."""
        for start in range(0, len(data), _SLICE_BYTES):
            if self.close_sent and self.transport.is_closing():
                return
            super().data_received(data[start : start + _SLICE_BYTES])

    def handle_cont(self, event: Frame) -> None:
        """Take a fragment."""
        if len(self.frames) >= _FRAGMENTS_MAX:
            self._refuse("too many fragments")
        elif not self.close_sent:
            super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer a ping, if its sender reads answers."""
        if self._may_beat():
            super().handle_ping()
            if self.transport.get_write_buffer_size() > _UNREAD_BYTES_MAX:
                self._refuse("answers are not read")

    def handle_pong(self, event: Frame) -> None:
        """Take an answer to our ping."""
        if self._may_beat():
            super().handle_pong(event)

    def send_receive_event_to_app(self) -> None:
        """Queue a message for the application."""
        if self.queue.qsize() >= _WAITING_MAX:
            self._refuse("too many messages at once")
        elif not self.close_sent:
            super().send_receive_event_to_app()

    def _may_beat(self) -> bool:
        if self.close_sent:
            return False
        if self._beats.take() > 0.0:
            self._refuse("too many pings")
            return False
        return True

    def _refuse(self, reason: str) -> None:
        if not self.close_sent:
            metrics.WS_REJECTED.labels(reason).inc()
            self.frames = []
            self.conn.fail(CloseCode.POLICY_VIOLATION, reason)
            if self.conn.close_sent is None:  # the client has begun to close
                self.transport.close()
            else:
                self.handle_parser_exception()
