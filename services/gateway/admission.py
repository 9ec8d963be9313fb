"""Who may begin a live session now, and what it is charged for. What has been let in is never turned away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis.errors import AppError, Kind
from chassis.limits import Charge, Limiter, Quota
from chassis.seats import Seats
from services.gateway import limits
from services.gateway.limits import RateLimits
from services.gateway.load import UP_TO, Priority
from services.gateway.metrics import AUDIO_CHARGED, LOAD_SHED, RATE_LIMITED

_BYTES_PER_SAMPLE = 2
_EVERY_S = 10.0


class Overloaded(AppError):
    """There are too many sessions here for another one."""


class Meter:
    """The audio of one connection in seconds, as far as it can be told while it runs.

    Of PCM by the acknowledged bytes; of encoded audio by where its last segment ends, and in the end by the accounts.
    """

    def __init__(self) -> None:
        self._bytes_per_s = 0
        self._base_bytes = 0
        self._base_s = 0.0
        self._heard_s = 0.0
        self._charged_s = 0
        self._whole = False

    def on_event(self, event: relay.ServerEvent) -> None:
        """Look at what the client is told."""
        kind = event.WhichOneof("kind")
        if kind == "started":
            self._begin(event.started.settings)
            self._whole = True
        elif kind == "restored":
            self._begin(event.restored.settings)
            self._base_bytes = event.restored.offset
            self._base_s = max((entry.segment.end_s for entry in event.restored.entries), default=0.0)
        elif kind == "ack" and self._bytes_per_s:
            self._hear((event.ack.offset - self._base_bytes) / self._bytes_per_s)
        elif kind == "entry" and not self._bytes_per_s and event.entry.HasField("segment"):
            self._hear(event.entry.segment.end_s - self._base_s)
        elif kind == "finished" and self._whole:
            self._hear(event.finished.accounts.audio_s)

    def _begin(self, settings: pb.Opened) -> None:
        if settings.encoding == pb.ENCODING_PCM_S16LE:
            self._bytes_per_s = settings.sample_rate * settings.channels * _BYTES_PER_SAMPLE

    def _hear(self, seconds: float) -> None:
        self._heard_s = max(self._heard_s, seconds)

    def due(self) -> int:
        """Return the whole seconds since the last call."""
        due = int(self._heard_s) - self._charged_s
        self._charged_s += due
        return due


class Budget(Protocol):
    """Knows what an account may still begin."""

    async def check(self, account_id: str) -> None:
        """Raise AppError(RATE_LIMIT_EXCEEDED) if that is nothing."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Sessions at once on this replica, and of one account everywhere; audio of one account, None: any."""

    at_once: int
    of_account: int
    audio: Quota | None


class Admission:
    """Counts live sessions and their audio. `run` must be running."""

    def __init__(
        self, rates: RateLimits, limiter: Limiter, seats: Seats, session_limits: SessionLimits, budget: Budget
    ) -> None:
        self._rates = rates
        self._limiter = limiter
        self._seats = seats
        self._limits = session_limits
        self._budget = budget
        self._meters: dict[Meter, str] = {}
        self._due: Counter[str] = Counter()
        self._here = 0

    @asynccontextmanager
    async def session(
        self, account_id: str, session_id: str, meter: Meter, *, address: str, resumed: bool
    ) -> AsyncIterator[None]:
        """Let a session in and count it while it lasts.

        Raises Overloaded, or AppError(RATE_LIMIT_EXCEEDED). A resumed one is under way: only a replica that is full
        beyond its measure refuses it, because another may have room.
        """
        priority = Priority.RUNNING if resumed else Priority.NORMAL
        if self._here >= self._limits.at_once * UP_TO[priority]:
            LOAD_SHED.labels(priority.value).inc()
            raise Overloaded(Kind.UNAVAILABLE, "There are too many live sessions: try again soon.", retry_after_s=5.0)
        self._here += 1
        try:
            if not resumed:
                await self._check(account_id, address)
            limit = None if resumed else self._limits.of_account
            if not await self._seats.take(account_id, session_id, limit):
                RATE_LIMITED.labels("sessions").inc()
                raise AppError(Kind.RATE_LIMIT_EXCEEDED, "Too many live sessions of this account.", retry_after_s=10.0)
            self._meters[meter] = account_id
            try:
                yield
            finally:
                del self._meters[meter]
                self._due[account_id] += meter.due()
                await self._seats.leave(account_id, session_id)
        finally:
            self._here -= 1

    async def _check(self, account_id: str, address: str) -> None:
        verdict = await self._rates.charge_start(address, account_id)
        if not verdict.allowed:
            raise limits.refusal(verdict)
        if self._limits.audio is not None:
            verdict = await self._limiter.look(Charge(self._limits.audio, account_id))
            if not verdict.allowed:
                RATE_LIMITED.labels("audio").inc()
                raise AppError(
                    Kind.RATE_LIMIT_EXCEEDED,
                    "The account has used up its audio for now.",
                    retry_after_s=verdict.retry_after_s,
                )
        await self._budget.check(account_id)

    async def run(self) -> None:
        """Renew the seats and charge for the audio every few seconds, for ever."""
        while True:
            await asyncio.sleep(_EVERY_S)
            self._seats.renew()
            await self.settle()

    async def settle(self) -> None:
        """Charge for the audio that came since the last time."""
        for meter, account_id in self._meters.items():
            self._due[account_id] += meter.due()
        due, self._due = self._due, Counter()
        for account_id, seconds in due.items():
            if seconds > 0:
                AUDIO_CHARGED.inc(seconds)
                if self._limits.audio is not None:
                    await self._limiter.charge(Charge(self._limits.audio, account_id, seconds))
