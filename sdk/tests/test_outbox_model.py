"""The client's buffer and offsets against a model: acknowledged, dropped, restored, held, in any order."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from verbatim_client.buffer import AudioBuffer
from verbatim_client.outbox import Outbox
from verbatim_client.settings import Buffering
from verbatim_client.wire import FRAME_MAX_BYTES

pytestmark = pytest.mark.req("R-WS-3", "R-WS-4")

MEMORY_BYTES = FRAME_MAX_BYTES
DISK_BYTES = 96 * 1024
WINDOW_BYTES = 80 * 1024
UNIT = 1024
GAP = -1


class Said(NamedTuple):
    """A stretch of the stream as the model remembers it: one letter over and over, or a gap."""

    start: int
    end: int
    letter: int


class Client(RuleBasedStateMachine):
    """Writes, sends, and is acknowledged. The model keeps all that was ever said and what the platform holds."""

    generations = Bundle("generations")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="verbatim-test-")
        self.now = 0.0
        self.audio = AudioBuffer(Buffering(MEMORY_BYTES, DISK_BYTES, Path(self.folder.name)))
        self.outbox = Outbox(self.audio, 1000.0, lambda: self.now)
        self.said: list[Said] = []
        self.letters = 0
        self.dropped_bytes = 0
        self.generation = self.outbox.begin(0, WINDOW_BYTES)
        self.expected_offset = 0  # where the next frame of this connection must begin
        self.reached_offset = 0  # the most that any connection carried
        self.acked_offset = 0

    def teardown(self) -> None:
        """At the end, everything that is not acknowledged comes out once more, whole and in order."""
        self.restore(self.acked_offset)
        while self.audio.backlog_bytes:
            self.send(1)
            self.acknowledge(self.expected_offset)
        assert self.expected_offset == self.audio.written_offset
        assert (self.audio.kept_bytes, self.audio.pieces) == (0, 0)
        self.audio.close()
        self.folder.cleanup()

    @rule(units=st.integers(1, 24))
    def write(self, units: int) -> None:
        self.letters = (self.letters + 1) % 251
        size = units * UNIT
        start = self.audio.written_offset
        dropped = self.audio.write(bytes([self.letters]) * size)
        assert dropped in (0, size)
        assert self.audio.written_offset == start + size
        self.dropped_bytes += dropped
        self.said.append(Said(start, start + size, GAP if dropped else self.letters))

    @precondition(lambda self: self.audio.kept_bytes + 24 * UNIT <= MEMORY_BYTES)
    @rule(units=st.integers(1, 24))
    def nothing_is_dropped_while_there_is_room(self, units: int) -> None:
        before = self.dropped_bytes
        self.write(units)
        assert self.dropped_bytes == before

    @rule(units=st.integers(1, 24))
    def the_person_leaves_a_gap(self, units: int) -> None:
        start = self.audio.written_offset
        self.audio.drop(units * UNIT)
        self.dropped_bytes += units * UNIT
        self.said.append(Said(start, start + units * UNIT, GAP))

    @rule(frames=st.integers(1, 8))
    def send(self, frames: int) -> None:
        for _ in range(frames):
            if not self.outbox.has_something(self.generation):
                return
            message = self.outbox.next_message(self.generation)
            assert message is not None
            if isinstance(message, str):
                gap = json.loads(message)
                start, end, audio = gap["from"], gap["to"], None
            else:
                start, audio = int.from_bytes(message[:8], "big"), message[8:]
                end = start + len(audio)
                assert 0 < len(audio) <= FRAME_MAX_BYTES
            self.check(start, end, audio)
            self.expected_offset = end
            self.reached_offset = max(self.reached_offset, end)

    def check(self, start: int, end: int, audio: bytes | None) -> None:
        """A frame is what follows the frame before, says what was said there, and repeats nothing acknowledged."""
        assert start == self.expected_offset
        assert start >= self.acked_offset
        position = start
        for part in self.said:
            if part.end <= start or part.start >= end:
                continue
            stop = min(part.end, end)
            if audio is None:
                assert part.letter == GAP, "audio that is there is not declared as a gap"
            else:
                assert audio[position - start : stop - start] == bytes([part.letter]) * (stop - position)
            position = stop
        assert position == end

    @rule(share=st.floats(0, 1))
    def acknowledge_some(self, share: float) -> None:
        span = self.expected_offset - self.acked_offset
        self.acknowledge(self.acked_offset + int(span * share) // UNIT * UNIT)

    @precondition(lambda self: self.reached_offset > self.expected_offset)
    @rule(share=st.floats(0, 1))
    def acknowledge_what_an_earlier_connection_carried(self, share: float) -> None:
        """It was on its way when that one ended: it is not sent again."""
        span = self.reached_offset - self.expected_offset
        self.acknowledge(self.expected_offset + int(span * share) // UNIT * UNIT)

    def acknowledge(self, offset: int) -> None:
        assert self.outbox.take(self.generation, {"type": "ack", "offset": offset})
        self.acked_offset = max(self.acked_offset, offset)
        self.expected_offset = max(self.expected_offset, offset)

    @rule(offset=st.integers(0, 1000))
    def an_old_acknowledgement_changes_nothing(self, offset: int) -> None:
        before = (self.audio.acked_offset, self.audio.kept_bytes)
        assert self.outbox.take(self.generation, {"type": "ack", "offset": min(offset, self.acked_offset)})
        assert (self.audio.acked_offset, self.audio.kept_bytes) == before

    @rule(target=generations, share=st.floats(0, 1))
    def lose_and_restore(self, share: float) -> int:
        """The platform has something between what it acknowledged and what ever reached it."""
        old = self.generation
        self.outbox.end()
        self.restore(self.acked_offset + int((self.reached_offset - self.acked_offset) * share) // UNIT * UNIT)
        return old

    @precondition(lambda self: self.acked_offset > 0)
    @rule(target=generations, share=st.floats(0, 0.99))
    def the_platform_has_lost_what_it_acknowledged(self, share: float) -> int:
        """Somebody has deleted its log: what is forgotten here too becomes a gap, never silence."""
        old = self.generation
        self.outbox.end()
        offset = int(self.acked_offset * share) // UNIT * UNIT
        said: list[Said] = []
        for part in self.said:
            for start, end, letter in (
                (part.start, min(part.end, offset), part.letter),
                (max(part.start, offset), min(part.end, self.acked_offset), GAP),
                (max(part.start, self.acked_offset), part.end, part.letter),
            ):
                if start < end:
                    said.append(Said(start, end, letter))
        self.said = said
        self.dropped_bytes += self.acked_offset - offset
        self.acked_offset = offset
        self.restore(offset)
        return old

    def restore(self, offset: int) -> None:
        self.generation = self.outbox.begin(offset, WINDOW_BYTES)
        self.expected_offset = offset

    @rule(share=st.floats(0, 1))
    def the_platform_sees_a_hole(self, share: float) -> None:
        offset = self.acked_offset + int((self.expected_offset - self.acked_offset) * share) // UNIT * UNIT
        self.now += 2.0  # a hole of its own, not the echo of the last one
        assert self.outbox.take(self.generation, {"type": "error", "error": "offset_gap", "expected": offset})
        self.expected_offset = offset

    @rule(old=consumes(generations), offset=st.integers(0, 10**7), state=st.sampled_from(["hold", "ok"]))
    def a_late_event_of_an_old_socket_changes_nothing(self, old: int, offset: int, state: str) -> None:
        before = (self.audio.acked_offset, self.audio.sent_offset, self.audio.kept_bytes, self.outbox.holding)
        for event in (
            {"type": "ack", "offset": offset, "stored_offset": offset},
            {"type": "status", "state": state},
            {"type": "error", "error": "offset_gap", "expected": offset},
        ):
            assert not self.outbox.take(old, event)
        assert self.outbox.next_message(old) is None
        assert self.outbox.stored_offset == 0
        after = (self.audio.acked_offset, self.audio.sent_offset, self.audio.kept_bytes, self.outbox.holding)
        assert after == before

    @rule()
    def hold_and_go_on(self) -> None:
        assert self.outbox.take(self.generation, {"type": "status", "state": "hold"})
        assert not self.outbox.has_something(self.generation)
        assert self.outbox.take(self.generation, {"type": "status", "state": "ok"})

    @rule(offset=st.integers(1, 10**6))
    def what_was_never_sent_is_not_believed(self, offset: int) -> None:
        with pytest.raises(ValueError, match="not sent"):
            self.outbox.take(self.generation, {"type": "ack", "offset": self.reached_offset + offset})
        with pytest.raises(ValueError, match="asks for audio"):
            self.outbox.begin(self.reached_offset + offset)

    @invariant()
    def nothing_is_forgotten_and_nothing_grows_without_bound(self) -> None:
        assert self.audio.memory_bytes <= MEMORY_BYTES
        assert self.audio.spool.used_bytes <= DISK_BYTES
        assert self.audio.acked_offset == self.acked_offset
        assert self.audio.sent_offset == self.expected_offset
        assert self.audio.dropped_bytes == self.dropped_bytes
        unacknowledged_audio = sum(
            max(0, part.end - max(part.start, self.acked_offset)) for part in self.said if part.letter != GAP
        )
        assert self.audio.kept_bytes == unacknowledged_audio

    @invariant()
    def the_window_is_kept(self) -> None:
        in_flight = [part.end for part in self.said if part.letter != GAP and part.start < self.expected_offset]
        if in_flight:
            assert min(max(in_flight), self.expected_offset) - self.acked_offset <= WINDOW_BYTES


TestClient = Client.TestCase
TestClient.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
