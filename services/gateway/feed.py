"""A meeting as the viewers of this gateway follow it: one look into the store serves them all."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Protocol

from verbatim.captions.v1.captions_pb2 import Caption

from chassis import ids, telemetry
from chassis.errors import AppError, Kind
from services.gateway import metrics, sse
from services.gateway.captions import Captions
from services.gateway.entries import Entry, EntryPage, Patience, StoredEntries

log = telemetry.logger(__name__)

_SESSIONS_MAX = 200


class Follower(Protocol):
    """Who follows a feed. Nothing here may wait."""

    def wake(self) -> None:
        """There are new entries, or the feed is over."""

    def offer_partial(self, session_id: str, index: int, piece: bytes) -> None:
        """Take the newest partial text of a session."""

    def offer_status(self, session_id: str, piece: bytes) -> None:
        """Take the newest status of a session."""


class Feed:
    """Reads a meeting's entries in the order of the store and keeps the newest for those who follow.

    Entries are only ever taken from the store. What comes from the broker wakes us, or is a partial or a status, which
    nobody misses; when the broker is away, we look by ourselves.
    """

    def __init__(
        self, owner_id: str, meeting_id: str, newest: int, entries: StoredEntries, *,
        poll_s: float, hurry_s: float, backlog_max: int, patience: Patience,
    ) -> None:  # fmt: skip
        self.meeting_id = meeting_id
        self.head = newest
        self.end: bytes | None = None
        self.fault: AppError | None = None
        self.followers: set[Follower] = set()
        self._owner_id = owner_id
        self._entries = entries
        self._poll_s = poll_s
        self._hurry_s = hurry_s
        self._backlog_max = backlog_max
        self._patience = patience
        self._floor = newest
        self._recent: deque[Entry] = deque()
        self._wake = asyncio.Event()
        self._hurried = False
        self._shifts_s: dict[str, float] = {}
        self._spoken: dict[str, int] = {}
        self._states: dict[str, tuple[tuple[int, str], bytes]] = {}

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.end is not None or self.fault is not None

    def since(self, number: int) -> list[Entry] | None:
        """Return the entries after a number, or None if they reach further back than is kept here."""
        if number < self._floor:
            return None
        return [entry for entry in self._recent if entry.number > number]

    def join(self, follower: Follower) -> None:
        """Let somebody follow."""
        self.followers.add(follower)
        for session_id, (_, piece) in self._states.items():
            follower.offer_status(session_id, piece)

    async def run(self, captions: Captions) -> None:
        """Follow the meeting to its end."""
        with telemetry.bound(ids.new_request_id()):
            try:
                async with captions.follow(self.meeting_id, self.hear):
                    while not self.is_over:
                        self._wake.clear()
                        await self._look()
                        if not self.is_over:
                            await self._until_woken(captions)
            except Exception:
                log.exception("feed failed")
                metrics.FEED_FAILURES.inc()
                self.fault = AppError(Kind.INTERNAL, "Something went wrong on our side.")
            finally:
                self._tell()

    async def _until_woken(self, captions: Captions) -> None:
        pause_s = self._hurry_s if self._hurried or not captions.connected else self._poll_s
        try:
            async with asyncio.timeout(pause_s * random.uniform(0.8, 1.2)):
                await self._wake.wait()
        except TimeoutError:
            metrics.FEED_POLLS.inc()

    async def _look(self) -> None:
        """Read what is new. A store that does not answer is asked again; one that refuses ends the feed."""
        try:
            page = await self._read_on()
            while page.reached < page.newest:
                page = await self._read_on()
            if page.is_last(self._patience):
                self.end = await self._entries.end(self._owner_id, self.meeting_id, page.newest)
            # The minutes, or better words, are under way: nobody may tell us when they are not made.
            self._hurried = page.completed
        except AppError as fault:
            self._hurried = True
            if not fault.codes.retryable:
                self.fault = fault
            else:
                log.info("store does not answer viewers", fault=str(fault))

    async def _read_on(self) -> EntryPage:
        page = await self._entries.after(self._owner_id, self.meeting_id, self.head)
        for entry in page.entries:
            self._recent.append(entry)
            if entry.session_id in page.shifts_s:
                self._spoken[entry.session_id] = max(entry.index, self._spoken.get(entry.session_id, -1))
        while len(self._recent) > self._backlog_max:
            self._floor = self._recent.popleft().number
        self._shifts_s = page.shifts_s
        for session_id in self._spoken.keys() - page.shifts_s.keys():
            del self._spoken[session_id]
        for session_id in self._states.keys() - page.shifts_s.keys():
            del self._states[session_id]
        if page.reached > self.head:
            self.head = page.reached
            self._tell()
        return page

    def _tell(self) -> None:
        for follower in self.followers:
            follower.wake()

    def hear(self, caption: Caption) -> None:
        """Take a caption of the broker."""
        if caption.HasField("stored"):
            self._wake.set()
        if caption.HasField("status"):
            self._hear_status(caption)
        if caption.HasField("partial"):
            self._hear_partial(caption)

    def _hear_status(self, caption: Caption) -> None:
        session_id = caption.session_id
        state = (caption.status.state, caption.status.reason)
        known = self._states.get(session_id)
        if known is not None and known[0] == state:
            return
        if known is not None or len(self._states) < _SESSIONS_MAX:
            piece = sse.status(caption)
            self._states[session_id] = (state, piece)
            for follower in self.followers:
                follower.offer_status(session_id, piece)

    def _hear_partial(self, caption: Caption) -> None:
        session_id, index = caption.session_id, caption.partial.index
        if session_id not in self._shifts_s:
            # A session that has only just begun: where it begins is in the store.
            self._wake.set()
        elif index > self._spoken.get(session_id, -1):
            piece = sse.partial(caption, self._shifts_s[session_id])
            for follower in self.followers:
                follower.offer_partial(session_id, index, piece)
