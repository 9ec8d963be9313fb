"""A session against a simple model of it: two transcribers, a real broker, and a client that does as it likes.

The model is the client's own notes: what it said, of which it keeps what is not acknowledged, and what it was told. At
the end of each history the session is finished, and every number that was spoken must have been heard exactly once, in
order, every gap be a gap, and the accounts must add up: those of the session, and those of the transcribers.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis.errors import AppError, Kind
from chassis.tests.servers import NatsServer
from services.transcriber.openai_answer import read_answer
from services.transcriber.session import LiveSession, SessionSettings
from services.transcriber.tests.accounts import Accounts, say
from services.transcriber.tests.fakes import Client, CountingSpeech
from services.transcriber.tests.replicas import OWNER, Replica, replica, token_of
from services.transcriber.transcription import Transcription
from tests.chaos.numbered import CHUNK_BYTES, SILENT, numbers, voiced
from tests.chaos.oracle import transcription

SETTINGS = SessionSettings(stored_wait_s=0.0, checkpoint_every_s=1.0)
WITHIN_S = 20.0
PAUSE_CHUNKS = 8
"""A pause of so many chunks ends an utterance; what is said between two is long enough to be taken for speech."""
_sessions = itertools.count(1)

T = TypeVar("T")


class NumberedSpeech(CountingSpeech):
    """Hears the numbers in numbered audio."""

    async def transcribe(self, pcm: bytes, *, language: str | None, prompt: str, deadline_s: float) -> Transcription:
        """Return the numbers as words."""
        await super().transcribe(pcm, language=language, prompt=prompt, deadline_s=deadline_s)
        return read_answer(orjson.dumps(transcription(pcm, detailed=True)))


@dataclass
class World:
    """Two transcribers in an event loop of their own."""

    runner: asyncio.Runner
    replicas: dict[str, Replica] = field(default_factory=dict)
    accounts: Accounts = field(init=False)
    _exits: AsyncExitStack = field(default_factory=AsyncExitStack)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(WITHIN_S):
                return await work

        return self.runner.run(bounded())

    def start(self, server: NatsServer) -> None:
        async def enter() -> None:
            for name in ("a", "b"):
                one = replica(server, name, SETTINGS, engine=NumberedSpeech())
                self.replicas[name] = await self._exits.enter_async_context(one)

        self.run(enter())
        self.accounts = Accounts(list(self.replicas.values()))

    def stop(self) -> None:
        self.run(self._exits.aclose())


@dataclass(frozen=True)
class Piece:
    """A stretch of the stream: audio, or a gap (None)."""

    start: int
    end: int
    audio: bytes | None


class Person(RuleBasedStateMachine):
    """The client of one session, and the faults around it."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.number = next(_sessions)
        self.pieces: list[Piece] = []
        self.spoken: list[int] = []
        self.acked_offset = 0
        self.indexes: dict[int, str] = {}
        self.events: set[int] = set()
        self.last_event = 0
        self.finished: pb.Closed | None = None
        self.problem: relay.Problem | None = None
        self.former: list[Client] = []
        self.chunks = 0
        self.draw = random.Random(self.number)
        self.client: Client | None = Client()
        opened = pb.Opened(meeting_id=OWNER, owner_id=OWNER, sample_rate=16_000, channels=1)
        self.id = f"01930000-0000-7000-8000-{self.number:012x}"
        self.home = "a"
        self.session: LiveSession = self.run(self.replica.sessions.open(self.id, opened, self.client))
        self.token = token_of(self.client)
        self.read()

    # -- notes ---------------------------------------------------------------------------------------------------

    @property
    def replica(self) -> Replica:
        return self.world.replicas[self.home]

    @property
    def end(self) -> int:
        return self.pieces[-1].end if self.pieces else 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.world.run(work)

    def read(self) -> None:
        """Take note of what this connection was told since the last look."""
        client = self.client
        if client is None:
            return
        events, client.events = client.events, []
        for event in events:
            match event.WhichOneof("kind"):
                case "started":
                    self.events.add(event.started.event)
                    self.last_event = event.started.event
                case "restored":
                    assert not self.events or event.restored.event > self.last_event or self.finished
                    for entry in event.restored.entries:
                        self.take(entry)
                    self.last_event = event.restored.event
                case "entry":
                    assert event.entry.event == self.last_event + 1, "events have no holes"
                    self.take(event.entry)
                    self.last_event = event.entry.event
                case "ack":
                    assert event.ack.offset <= self.end, "what was not said is not acknowledged"
                    self.acked_offset = max(self.acked_offset, event.ack.offset)
                case "finished":
                    assert self.finished in (None, event.finished.accounts)
                    self.finished = event.finished.accounts
                case "problem":
                    assert event.problem.code != "internal_server_error"
                    self.problem = event.problem

    def take(self, entry: pb.TranscriptEntry) -> None:
        assert entry.event not in self.events, "no event comes twice"
        assert entry.event > self.last_event
        self.events.add(entry.event)
        if entry.HasField("segment"):
            assert entry.segment.index == len(self.indexes), "segments come in order, each once"
            self.indexes[entry.segment.index] = entry.segment.text

    def do(self, act: Callable[[], None]) -> None:
        """Do something to the session, let it work for a moment, and take note of what it says."""

        async def inside() -> None:
            act()
            await asyncio.sleep(0.003)

        self.run(inside())
        self.read()

    def say(self, start: int) -> None:
        """Send everything from an offset on: audio in frames of any size, gaps as gaps."""
        for piece in self.pieces:
            if piece.end <= start:
                continue
            begin = max(start, piece.start)
            if piece.audio is None:
                self.session.declare_gap(begin, piece.end)
                continue
            while begin < piece.end:
                stop = min(piece.end, begin + 2 * self.draw.randint(1, 8 * CHUNK_BYTES))
                say(self.session, begin, piece.audio[begin - piece.start : stop - piece.start])
                begin = stop

    def add(self, audio: bytes | None, size: int) -> None:
        start = self.end
        self.pieces.append(Piece(start, start + size, audio))
        if self.client is not None:
            self.do(lambda: self.say(start))

    async def until(self, holds: Any) -> None:
        assert self.client is not None
        while not holds():
            await self.client.until(lambda client: client.events, within_s=WITHIN_S)
            self.read()

    # -- what the client does ------------------------------------------------------------------------------------

    live = precondition(lambda self: self.finished is None)
    connected = precondition(lambda self: self.finished is None and self.client is not None)

    @live
    @rule(chunks=st.integers(8, 30))
    def speak(self, chunks: int) -> None:
        said = range(self.chunks, self.chunks + chunks)
        self.chunks += chunks
        self.spoken += said
        audio = b"".join(voiced(self.number, chunk) for chunk in said) + SILENT * PAUSE_CHUNKS
        self.add(audio, len(audio))

    @live
    @rule(chunks=st.integers(1, 40))
    def be_silent(self, chunks: int) -> None:
        self.add(SILENT * chunks, CHUNK_BYTES * chunks)

    @live
    @rule(samples=st.integers(1, 100_000))
    def lose_audio(self, samples: int) -> None:
        self.add(None, 2 * samples)

    @connected
    @rule(share=st.floats(0, 1))
    def repeat(self, share: float) -> None:
        """What is held already is trimmed, wherever it begins. A gap cannot be said again with audio behind it."""
        gaps = [piece.end for piece in self.pieces if piece.audio is None]
        first = max(gaps, default=0)
        self.do(lambda: self.say(first + int((self.end - first) * share) // 2 * 2))

    @connected
    @rule(samples=st.integers(1, 1000))
    def leave_a_hole(self, samples: int) -> None:
        self.do(lambda: say(self.session, self.end + 2 * samples, bytes(100)))
        assert self.problem is not None
        assert (self.problem.code, self.problem.expected_offset) == ("offset_gap", self.end)

    @connected
    @rule()
    def send_half_a_sample(self) -> None:
        self.do(lambda: say(self.session, self.end, bytes(101)))
        assert self.problem is not None
        assert self.problem.code == "validation_failed"

    @connected
    @rule()
    def ask_for_the_utterance(self) -> None:
        self.do(self.session.finalize)

    @connected
    @rule()
    def pause_and_go_on(self) -> None:
        self.do(lambda: self.session.pause(True))
        self.do(lambda: self.session.pause(False))

    @connected
    @rule()
    def wait_for_acknowledgement(self) -> None:
        self.the_engine_stops_or_goes_on(True)  # what lies behind a gap is durable when the gap is in the transcript
        self.run(self.until(lambda: self.acked_offset == self.end))

    # -- what happens to it --------------------------------------------------------------------------------------

    @connected
    @rule()
    def lose_the_connection(self) -> None:
        assert self.client is not None
        self.do(partial(self.session.detach, self.client))
        self.client = None

    @rule(home=st.sampled_from(["a", "b"]))
    def come_back(self, home: str) -> None:
        """Through any transcriber, whether the connection before is lost or only believed to be."""
        before, deaf = self.client, self.replica.deaf and home != self.home
        self.read()
        self.home, self.client = home, Client()
        self.session = self.run(self.replica.resume(self.id, self.token, self.client, self.last_event))
        restored = self.client.of("restored")[0].restored
        self.token = restored.resume_token
        offset = restored.offset
        self.read()
        if before is not None and self.finished is None and not deaf:
            self.former.append(before)
        if self.finished is None:
            assert self.acked_offset <= offset <= self.end, "what was acknowledged is held"
            self.do(lambda: self.say(offset))

    @rule()
    def come_with_a_wrong_token(self) -> None:
        request = relay.Resume(session_id=self.id, owner_id=OWNER, resume_token="wrong")
        with pytest.raises(AppError) as refused:
            self.run(self.replica.sessions.resume(request, Client()))
        assert refused.value.kind is Kind.NOT_FOUND

    @live
    @rule()
    def the_owner_dies(self) -> None:
        """As by SIGKILL: no farewell, nothing flushed; what was on its way to the broker may arrive or not."""

        async def kill() -> None:
            for task in asyncio.all_tasks():
                if task.get_name() == f"session {self.id}":
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

        self.read()
        self.run(kill())
        self.read()
        self.client = None

    @rule(goes_on=st.booleans())
    def the_engine_stops_or_goes_on(self, goes_on: bool) -> None:
        for one in self.world.replicas.values():
            self.do(one.engine.gate.set if goes_on else one.engine.gate.clear)

    @rule(home=st.sampled_from(["a", "b"]), deaf=st.booleans())
    def a_transcriber_misses_adoptions(self, home: str, deaf: bool) -> None:
        """It goes on as the owner until an append of its own is refused."""
        self.world.replicas[home].deaf = deaf

    @connected
    @rule()
    def finish(self) -> None:
        self.the_engine_stops_or_goes_on(True)
        self.do(lambda: self.session.finish(self.end))
        self.run(self.until(lambda: self.finished is not None))

    # -- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def who_was_replaced_is_told_so(self) -> None:
        for client in self.former:
            problems = [event.problem.close_code for event in client.of("problem")]
            assert 4409 in problems or 1012 in problems, "a connection that was taken over goes on in silence"
        self.former.clear()

    def teardown(self) -> None:
        self.the_engine_stops_or_goes_on(True)
        for one in self.world.replicas.values():
            one.deaf = False
        if self.finished is None:
            if self.client is None:
                self.come_back(self.draw.choice("ab"))
            self.finish()
        self.check()
        self.run(self.world.accounts.settle())

    def check(self) -> None:
        """Compare what is in the log, and what the client was told, with what was said."""
        assert self.finished is not None
        entries = self.run(self._log())
        segments = [entry.segment for entry in entries if entry.HasField("segment")]
        heard = [number for segment in segments for number in numbers(segment.text)]
        assert heard == [(self.number, chunk) for chunk in self.spoken]
        assert [self.indexes[index] for index in sorted(self.indexes)] == [segment.text for segment in segments]
        gap_bytes = sum(piece.end - piece.start for piece in self.pieces if piece.audio is None)
        accounts = self.finished
        assert accounts.received_bytes == self.end
        assert accounts.gap_s * 32_000 == pytest.approx(gap_bytes)
        covered_s = accounts.transcribed_s + accounts.silence_s + accounts.gap_s
        assert covered_s * 32_000 == pytest.approx(self.end)
        assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))

    async def _log(self) -> list[pb.TranscriptEntry]:
        return [entry for _, entry in await self.world.replicas["a"].transcripts.read(self.id)]


@pytest.mark.req("R-WS-2", "R-WS-3", "R-WS-4")
def test_any_history_of_a_session_comes_to_what_was_said(nats_server: NatsServer) -> None:
    with asyncio.Runner() as runner:
        world = World(runner)
        world.start(nats_server)
        machine = type("PersonHere", (Person,), {"world": world})
        try:
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=20,
                    stateful_step_count=25,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
                ),
            )
        finally:
            world.stop()
