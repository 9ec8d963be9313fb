"""Viewers of meetings: each a stream of server-sent events that never misses or repeats a durable one.

A viewer is a cursor. What lies behind it comes from the store, page by page; once it has caught up, from the feed that
all viewers of the meeting share. What is written to a slow viewer waits in the feed, and there only so long.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chassis import telemetry
from chassis.errors import AppError, Kind
from services.gateway import metrics, sse
from services.gateway.captions import Captions
from services.gateway.entries import Entry, EntryPage, Patience, StoredEntries
from services.gateway.feed import Feed

log = telemetry.logger(__name__)

_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    # Proxies that gather an answer before they pass it on are told not to.
    (b"x-accel-buffering", b"no"),
]


Watched = Callable[[Callable[[AppError], None]], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class ViewerLimits:
    """Numbers and seconds of viewers."""

    viewers_max: int = 500
    viewers_per_account_max: int = 20
    heartbeat_s: float = 15.0
    stall_s: float = 10.0
    life_s: float = 900.0
    backlog_max: int = 256
    poll_s: float = 5.0
    hurry_s: float = 1.0
    insights_wait_s: float = 10.0
    heal_wait_s: float = 30.0
    retry_ms: int = 1000


class Viewers:
    """All viewers of this gateway, and the feeds that they follow."""

    def __init__(self, entries: StoredEntries, captions: Captions, limits: ViewerLimits) -> None:
        self.entries = entries
        self.limits = limits
        self._captions = captions
        self._feeds: dict[str, tuple[Feed, asyncio.Task[None]]] = {}
        self._viewers: set[Viewer] = set()
        self._of_account: Counter[str] = Counter()
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def admitted(self, account_id: str) -> Iterator[None]:
        """Count a viewer in and out. Raises AppError if there are too many, or the gateway is about to end."""
        if self._draining:
            raise AppError(Kind.UNAVAILABLE, "The service is restarting.", retry_after_s=0.0)
        if self._of_account[account_id] >= self.limits.viewers_per_account_max:
            raise AppError(Kind.RATE_LIMIT_EXCEEDED, "Too many viewers of this account.", retry_after_s=5.0)
        if self._of_account.total() >= self.limits.viewers_max:
            raise AppError(Kind.UNAVAILABLE, "Too many viewers at the moment.", retry_after_s=5.0)
        self._of_account[account_id] += 1
        self._empty.clear()
        metrics.VIEWERS.inc()
        try:
            yield
        finally:
            metrics.VIEWERS.dec()
            self._of_account[account_id] -= 1
            self._of_account += Counter()  # drops accounts that have none
            if not self._of_account:
                self._empty.set()

    @contextmanager
    def following(self, viewer: Viewer, newest: int) -> Iterator[Feed]:
        """Let a viewer follow its meeting, of which it knows the newest entry."""
        feed = self._feed(viewer, newest)
        feed.join(viewer)
        self._viewers.add(viewer)
        try:
            yield feed
        finally:
            self._viewers.discard(viewer)
            feed.followers.discard(viewer)
            known = self._feeds.get(feed.meeting_id)
            if known is not None and known[0] is feed and not feed.followers:
                known[1].cancel()

    def _feed(self, viewer: Viewer, newest: int) -> Feed:
        known = self._feeds.get(viewer.meeting_id)
        if known is not None and known[0].followers and not known[0].is_over:
            return known[0]
        limits = self.limits
        feed = Feed(
            viewer.account_id, viewer.meeting_id, newest, self.entries,
            poll_s=limits.poll_s, hurry_s=limits.hurry_s, backlog_max=limits.backlog_max,
            patience=Patience(limits.insights_wait_s, limits.heal_wait_s),
        )  # fmt: skip
        task = asyncio.create_task(self._run(feed), name="feed")
        self._feeds[viewer.meeting_id] = (feed, task)
        return feed

    async def _run(self, feed: Feed) -> None:
        metrics.FEEDS.inc()
        try:
            await feed.run(self._captions)
        finally:
            metrics.FEEDS.dec()
            if (known := self._feeds.get(feed.meeting_id)) is not None and known[0] is feed:
                del self._feeds[feed.meeting_id]

    async def drain(self, within_s: float) -> None:
        """End every stream, so that the viewers come back to another gateway."""
        self._draining = True
        for viewer in list(self._viewers):
            viewer.leave(AppError(Kind.UNAVAILABLE, "The service is restarting: resume.", retry_after_s=0.0))
        try:
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        except TimeoutError:
            log.warning("viewers did not leave in time", viewers=len(self._viewers))


class Viewer:
    """One stream. Durable events wait in the feed; of partials and states only the newest of a session waits here."""

    def __init__(self, viewers: Viewers, account_id: str, meeting_id: str, number: int) -> None:
        self.account_id = account_id
        self.meeting_id = meeting_id
        self.number = number
        self._viewers = viewers
        self._fault: AppError | None = None
        self._news = asyncio.Event()
        self._partials: dict[str, tuple[int, bytes]] = {}
        self._states: dict[str, bytes] = {}

    def wake(self) -> None:
        """There is something new."""
        self._news.set()

    def offer_partial(self, session_id: str, index: int, piece: bytes) -> None:
        """Take a partial text in place of the one before, which a slow viewer never sees."""
        if session_id in self._partials:
            metrics.VIEWER_PARTIALS_SKIPPED.inc()
        self._partials[session_id] = (index, piece)
        self._news.set()

    def offer_status(self, session_id: str, piece: bytes) -> None:
        """Take a status in place of the one before."""
        self._states[session_id] = piece
        self._news.set()

    def leave(self, fault: AppError) -> None:
        """End the stream, and say why."""
        self._fault = self._fault or fault
        self._news.set()

    async def pieces(self, first: EntryPage) -> AsyncGenerator[bytes, None]:
        """Yield the stream: what is stored behind the viewer, then what comes, to the end of the meeting."""
        limits = self._viewers.limits
        ends_at = asyncio.get_running_loop().time() + limits.life_s
        yield sse.retry(limits.retry_ms)
        with self._viewers.following(self, first.newest) as feed:
            try:
                async with aclosing(self._caught_up(first, feed)) as stored:
                    async for piece in stored:
                        yield piece
                while self._fault is None:
                    self._news.clear()
                    # Before the entries: an end that comes while they are written has entries before it.
                    end, fault = feed.end, feed.fault
                    for piece in self._take(self._entries_of(feed)):
                        yield piece
                    if end is not None or fault is not None:
                        yield end or sse.error(fault or _gone(), telemetry.request_id())
                        return
                    for piece in self._lossy():
                        yield piece
                    if not self._news.is_set() and not await self._told(ends_at):
                        yield sse.PING
            except AppError as fault:
                self._fault = self._fault or fault
        metrics.VIEWERS_CUT.labels(self._fault.kind.value).inc()
        yield sse.error(self._fault, telemetry.request_id())

    async def _caught_up(self, page: EntryPage, feed: Feed) -> AsyncGenerator[bytes, None]:
        """Yield what is stored, until the feed has the rest."""
        while self._fault is None:
            for piece in self._take(page.entries):
                yield piece
            self.number = max(self.number, page.reached)
            if feed.since(self.number) is not None:
                return
            page = await self._viewers.entries.after(self.account_id, self.meeting_id, self.number)

    def _entries_of(self, feed: Feed) -> list[Entry]:
        found = feed.since(self.number)
        if found is None:
            raise AppError(Kind.UNAVAILABLE, "The viewer is too slow: resume.", retry_after_s=1.0)
        return found

    def _take(self, entries: list[Entry]) -> Iterator[bytes]:
        for entry in entries:
            self.number = entry.number
            waiting = self._partials.get(entry.session_id)
            if waiting is not None and waiting[0] <= entry.index:
                del self._partials[entry.session_id]
            yield entry.piece

    def _lossy(self) -> Iterator[bytes]:
        while self._states:
            yield self._states.pop(next(iter(self._states)))
        while self._partials:
            yield self._partials.pop(next(iter(self._partials)))[1]

    async def _told(self, ends_at: float) -> bool:
        """Wait for news; False after a heartbeat without. Raises AppError when the stream has lived long enough."""
        left_s = ends_at - asyncio.get_running_loop().time()
        if left_s <= 0:
            # Who may watch is checked when a stream begins.
            raise AppError(Kind.UNAVAILABLE, "Connect again.", retry_after_s=0.0)
        try:
            async with asyncio.timeout(min(left_s, self._viewers.limits.heartbeat_s)):
                await self._news.wait()
        except TimeoutError:
            return False
        return True


class ViewerStream(Response):
    """The answer of the route: the meeting's events after a number, as long as both sides live.

    `watched` tells when who follows may no longer, as revocations.Revocations does; `end_told` says that the end of the
    meeting was told with that number.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        viewers: Viewers,
        account_id: str,
        meeting_id: str,
        watched: Watched,
        *,
        number: int,
        end_told: bool,
    ) -> None:
        super().__init__()
        self._watched = watched
        self._viewers = viewers
        self._viewer = Viewer(viewers, account_id, meeting_id, number)
        self._end_told = end_told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        viewer = self._viewer
        with self._viewers.admitted(viewer.account_id), self._watched(viewer.leave):
            first = await self._viewers.entries.after(viewer.account_id, viewer.meeting_id, viewer.number)
            if self._end_told and first.newest == viewer.number and first.completed:
                # By the standard, what tells a browser not to connect again.
                await Response(status_code=204)(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            writing = asyncio.ensure_future(self._write(first, send))
            leaving = asyncio.ensure_future(_until_gone(receive))
            try:
                await asyncio.wait([writing, leaving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                both = (writing, leaving)
                for task in both:
                    task.cancel()
                await asyncio.wait(both)
            if not writing.cancelled():
                writing.result()

    async def _write(self, first: EntryPage, send: Send) -> None:
        stall_s = self._viewers.limits.stall_s
        try:
            async with aclosing(self._viewer.pieces(first)) as pieces:
                async for piece in pieces:
                    async with asyncio.timeout(stall_s):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            # It reads nothing, so nothing can be said: an answer without an end is a broken one to the client.
            metrics.VIEWERS_CUT.labels("stalled").inc()
            log.info("viewer reads nothing: cut off")
            return
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _gone() -> AppError:
    return AppError(Kind.UNAVAILABLE, "The meeting cannot be followed: resume.")
