"""Sessions that speak numbered audio through the public API, and the ledger of what they were promised and told."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

from verbatim_client import Buffering, LiveSettings, VerbatimClient
from verbatim_client.backoff import Backoff
from verbatim_client.errors import StreamError
from verbatim_client.live import LiveSession
from verbatim_client.wire import FRAME_MAX_BYTES

from tests.chaos.numbered import CHUNK_BYTES, CHUNKS_PER_SECOND, Rhythm, speech

Event = dict[str, Any]

FINISH_WITHIN_S = 60.0
# What people say and how their sessions are called is not to be found in any log.
TITLE = "Secretive talk"
# A client whose window stays full for so long is stuck: that is a finding.
UNHEARD_S = 60.0
_numbers = itertools.count(1)


@dataclass
class Ledger:
    """One session: what was said, what was acknowledged and when, and every segment event in order of arrival.

    `spoken` are the numbers of voiced chunks that were handed over; `acks` are (monotonic seconds, offset in bytes),
    `held` are the times at which the client was told to hold; `secrets` are tokens that only this client may know.
    """

    number: int
    session_id: str = ""
    meeting_id: str = ""
    chunks: int = 0
    spoken: list[int] = field(default_factory=list)
    acks: list[tuple[float, int]] = field(default_factory=list)
    stored_offset: int = 0
    held: list[float] = field(default_factory=list)
    segments: list[Event] = field(default_factory=list)
    gap_bytes: int = 0
    secrets: set[str] = field(default_factory=set)
    reconnects: int = 0
    finished: Event | None = None
    failure: str = ""

    @property
    def acked_offset(self) -> int:
        return self.acks[-1][1] if self.acks else 0

    @property
    def over(self) -> bool:
        """Whether nothing more will be acknowledged."""
        return bool(self.failure or self.finished)

    @property
    def acknowledged(self) -> list[int]:
        """The spoken chunks that the platform has acknowledged to the last byte."""
        whole = self.acked_offset // CHUNK_BYTES
        return [chunk for chunk in self.spoken if chunk < whole]

    def longest_pause_s(self, since: float, until: float) -> float:
        """Return the longest time between two advances of the acknowledged offset that overlaps a span of time."""
        times = [at for at, _ in self.acks]
        return max((b - a for a, b in itertools.pairwise(times) if b >= since and a <= until), default=0.0)


class Tireless(Backoff):
    """Never gives up, and waits at most a second: the question is what the platform loses, not a person's patience."""

    def lost(self, retry_after_s: float | None = None) -> float | None:
        """Give the next wait."""
        super().lost(retry_after_s)
        return min(1.0, retry_after_s) if retry_after_s is not None else random.uniform(0.0, 0.5)


class Workload:
    """Several people at once, each `speed` times as fast as real time, each in a session after the other.

    A session lasts until all are told that it is enough, or for `session_s` of the clock on the wall.
    """

    buffering: ClassVar[Buffering | None] = None

    def __init__(
        self,
        clients: list[VerbatimClient],
        sessions: int,
        *,
        speed: float,
        seed: int,
        rhythm: Rhythm | None = None,
        session_s: float | None = None,
        finish_within_s: float = FINISH_WITHIN_S,
    ) -> None:
        self.ledgers: list[Ledger] = []
        self._clients = clients
        self._people = sessions
        self._speed = speed
        self._seed = seed
        self._rhythm = rhythm or Rhythm()
        self._session_s = session_s
        self._finish_within_s = finish_within_s
        self._enough = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Let everybody begin to talk."""
        pairs = zip(range(self._people), itertools.cycle(self._clients), strict=False)
        self._tasks = [asyncio.create_task(self._keep_talking(client)) for _, client in pairs]

    @property
    def acknowledged_bytes(self) -> int:
        return sum(ledger.acked_offset for ledger in self.ledgers)

    @property
    def speaking(self) -> list[Ledger]:
        """The sessions that are not over."""
        return [ledger for ledger in self.ledgers if not ledger.over]

    def all_heard(self) -> bool:
        """Tell whether everybody is there, and every session that lives has been acknowledged something."""
        return len(self.ledgers) >= self._people and all(ledger.acks for ledger in self.speaking)

    async def finish(self) -> None:
        """Let everybody come to the end of what they are saying, and wait for all accounts."""
        self._enough.set()
        await asyncio.gather(*self._tasks)

    async def _keep_talking(self, client: VerbatimClient) -> None:
        while True:
            ledger = Ledger(next(_numbers))
            self.ledgers.append(ledger)
            await self._talk(ledger, client)
            if self._enough.is_set() or self._session_s is None:
                return

    async def _talk(self, ledger: Ledger, client: VerbatimClient) -> None:
        settings = LiveSettings(title=f"{TITLE} {ledger.number}", interim=False)
        try:
            async with client.live(settings, backoff=Tireless(), buffering=self.buffering) as session:
                ledger.session_id, ledger.meeting_id = session.session_id or "", session.meeting_id or ""
                speaking = asyncio.create_task(self._speak(ledger, session))
                speaking.add_done_callback(lambda task: session.leave() if _failed(task) else None)
                try:
                    async for event in session:
                        note(ledger, event)
                    await speaking
                finally:
                    speaking.cancel()
                    ledger.reconnects = session.reconnects
        except (StreamError, TimeoutError) as fault:
            ledger.failure = f"{type(fault).__name__}: {fault}"

    async def _speak(self, ledger: Ledger, session: LiveSession) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        over_at = started + self._session_s if self._session_s is not None else math.inf
        every_s = 1.0 / CHUNKS_PER_SECOND / self._speed
        for chunk, (audio, spoken) in enumerate(speech(ledger.number, self._rhythm, self._seed)):
            if (self._enough.is_set() or loop.time() > over_at) and not spoken:
                break
            # Who was held up catches up, but at no more than twice the pace.
            due = started + chunk * every_s
            late_s = loop.time() - due
            if late_s > 0.1:
                started += min(late_s, every_s / 2)
                await asyncio.sleep(every_s / 2)
            else:
                await asyncio.sleep(max(0.0, -late_s))
            async with asyncio.timeout(UNHEARD_S):
                await self._say(session, audio)
            ledger.chunks += 1
            if spoken:
                ledger.spoken.append(chunk)
        await session.finish(self._finish_within_s)

    async def _say(self, session: LiveSession, audio: bytes) -> None:
        await session.send(audio)


class ForgetfulWorkload(Workload):
    """Clients that keep next to nothing of what they have sent, as a bad client would: a control."""

    buffering = Buffering(memory_bytes=FRAME_MAX_BYTES, disk_bytes=0)

    async def _say(self, session: LiveSession, audio: bytes) -> None:
        await session.offer(audio)


def note(ledger: Ledger, event: Event) -> None:
    """Write down what the platform said."""
    if "resume_token" in event:
        ledger.secrets.add(event["resume_token"])
    match event["type"]:
        case "ack":
            if event["offset"] > ledger.acked_offset:
                ledger.acks.append((time.monotonic(), event["offset"]))
            ledger.stored_offset = max(ledger.stored_offset, event["stored_offset"])
        case "segment" | "revised":
            ledger.segments.append(event)
        case "gap":
            ledger.gap_bytes += event["end_offset"] - event["start_offset"]
        case "status":
            if event["state"] == "hold":
                ledger.held.append(time.monotonic())
        case "finished":
            ledger.finished = event


def _failed(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is not None
