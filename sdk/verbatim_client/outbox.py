"""What is to be said on the current connection, in which order, and how fast. Counts and decides; does no I/O."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable

from verbatim_client.buffer import AudioBuffer
from verbatim_client.wire import Event

CONTROLS_MAX = 1000
SAME_HOLE_S = 1.0


class Outbox:
    """The sending side of a session over all its connections.

    Each connection has a generation. What an older one still hears changes nothing: `take` and `next_message`
    of another generation than the current one are answered with False and None.
    """

    def __init__(
        self,
        audio: AudioBuffer,
        catch_up_bytes_per_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the audio and how fast a backlog may go."""
        self.audio = audio
        self.generation = 0
        self.window_bytes = 0
        self.stored_offset = 0
        self.holding = False
        self._catch_up_bytes_per_s = catch_up_bytes_per_s
        self._catching_up = False
        self._paced_until = 0.0
        self._clock = clock
        self._controls: deque[tuple[int, Event]] = deque()
        self._paused_at: int | None = None
        self._finish_at: int | None = None
        self._finish_said = False
        self._hole: tuple[int, float] | None = None

    # What the person says.

    def say(self, message: Event) -> bool:
        """Queue a message behind the audio written so far; False if far too many wait already."""
        if len(self._controls) >= CONTROLS_MAX:
            return False
        if message["type"] in ("pause", "unpause"):
            self._paused_at = self.audio.written_offset if message["type"] == "pause" else None
        self.audio.part()
        self._controls.append((self.audio.written_offset, message))
        return True

    def finish(self) -> None:
        """Say `finish` when all audio is sent; nothing is written after this."""
        if self._finish_at is None:
            self._finish_at = self.audio.written_offset

    # What a connection says.

    def begin(self, offset: int, window_bytes: int | None = None) -> int:
        """Start a connection that wants the audio from an offset on; give its generation.

        Raises ValueError if that audio is forgotten or was never there.
        """
        self.audio.rewind(offset)
        self.generation += 1
        self.window_bytes = self.window_bytes if window_bytes is None else window_bytes
        self.holding = self._finish_said = False
        self._hole = None
        self._catching_up = self.audio.backlog_bytes > 0
        if self._paused_at is not None and not any(message["type"] == "pause" for _, message in self._controls):
            # Whether the platform heard of the pause on the connection before, nobody knows.
            self._controls.appendleft((self._paused_at, {"type": "pause"}))
        return self.generation

    def end(self) -> None:
        """Forget the connection: nothing is sent until the next one begins."""
        self.generation += 1

    def take(self, generation: int, event: Event) -> bool:
        """Let an event of the platform have its effect; False if it comes from a connection of the past.

        Raises ValueError if it contradicts what was sent.
        """
        if generation != self.generation:
            return False
        match event["type"]:
            case "ack":
                self.audio.acknowledge(int(event["offset"]))
                self.stored_offset = max(self.stored_offset, int(event.get("stored_offset", 0)))
            case "status":
                was_holding, self.holding = self.holding, event["state"] == "hold"
                if was_holding and not self.holding:
                    self._catching_up = self.audio.backlog_bytes > 0
            case "error" if event.get("error") == "offset_gap" and "expected" in event:
                self._fill_hole(int(event["expected"]))
        return True

    def has_something(self, generation: int) -> bool:
        """Tell whether this connection has something to say now, or is none any more (`next_message` gives None)."""
        if generation != self.generation or self._control_is_due():
            return True
        if self.audio.backlog_bytes:
            return not self.holding and self.audio.next_is_sendable(self.window_bytes)
        return self._finish_at is not None and not self._finish_said

    def pause_s(self) -> float:
        """Give how long catching up makes the next frame wait."""
        if self._control_is_due() or not (self._catching_up and self.audio.backlog_bytes):
            return 0.0
        return max(0.0, self._paced_until - self._clock())

    def next_message(self, generation: int) -> str | bytes | None:
        """Give the next message of this connection; None if it is over. Only when `has_something`."""
        if generation != self.generation:
            return None
        if self._control_is_due():
            return json.dumps(self._controls.popleft()[1])
        if self.audio.backlog_bytes:
            return self._next_frame()
        assert self._finish_at is not None and not self._finish_said
        self._finish_said = True
        return json.dumps({"type": "finish", "offset": self._finish_at})

    def _next_frame(self) -> str | bytes:
        frame = self.audio.send_next()
        if self._catching_up and self._catch_up_bytes_per_s is not None and frame.audio is not None:
            now = self._clock()
            self._paced_until = max(now, self._paced_until) + len(frame.audio) / self._catch_up_bytes_per_s
        if not self.audio.backlog_bytes:
            self._catching_up = False
        return frame.message()

    def _control_is_due(self) -> bool:
        return bool(self._controls) and self._controls[0][0] <= self.audio.sent_offset

    def _fill_hole(self, expected: int) -> None:
        # Every frame that was under way behind the hole earns the same error: one answer to all of them.
        now = self._clock()
        if self._hole is None or self._hole[0] != expected or now - self._hole[1] > SAME_HOLE_S:
            self._hole = (expected, now)
            self.audio.rewind(expected)
            self._finish_said = False
