"""What a browser says and hears on its sockets, checked against docs/asyncapi.yaml."""

from __future__ import annotations

import json

from playwright.async_api import WebSocket

from tests.asyncapi import Side, faults


class Frames:
    """Listens to sockets; keeps the kinds of messages that it heard, and what was wrong with them."""

    def __init__(self) -> None:
        self.kinds: set[tuple[Side, str]] = set()
        self.faults: list[str] = []

    def listen(self, socket: WebSocket) -> None:
        """Follow a socket to its end."""
        socket.on("framesent", lambda frame: self._take("fromClient", frame))
        socket.on("framereceived", lambda frame: self._take("fromServer", frame))

    def _take(self, side: Side, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            if not 9 <= len(frame) <= 8 + 64 * 1024 or side == "fromServer":
                self.faults.append(f"{side}: a binary frame of {len(frame)} bytes")
            self.kinds.add((side, "audio"))
            return
        message = json.loads(frame)
        self.kinds.add((side, message["type"]))
        self.faults += faults(side, message)
