"""The live protocol as bytes: frames, messages and the meaning of close codes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from verbatim_client.errors import StreamError

Event = dict[str, Any]

FRAME_MAX_BYTES = 64 * 1024
# A long meeting's transcript comes back in one `session_restored`.
MESSAGE_MAX_BYTES = 32 * 1024 * 1024
TAKEN_OVER, UNAUTHORIZED, NOT_FOUND = 4409, 4401, 4404
FINAL_CLOSES = frozenset({1009, 4400, 4403, TAKEN_OVER, NOT_FOUND})
UNNUMBERED = frozenset({"ack", "partial", "status", "pong"})

_OFFSET = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Frame:
    """A stretch of the stream as it is sent: audio, or a gap (`audio` None)."""

    start: int
    end: int
    audio: bytes | None

    def message(self) -> str | bytes:
        """Give the message that carries it."""
        if self.audio is None:
            return json.dumps({"type": "gap", "from": self.start, "to": self.end})
        return _OFFSET.pack(self.start) + self.audio


def parsed(message: str | bytes) -> Event:
    """Give a message of the platform. Raises StreamError for what is none: a JSON object with a `type`."""
    try:
        event = json.loads(message)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise StreamError("the other side does not speak the live protocol", None)
    return event
