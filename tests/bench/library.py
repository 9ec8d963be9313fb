"""Measure search and analytics over a large library, through the services' own gRPC servers and real databases.

python -m tests.bench.library [--segments 1000000] [--asks 40] [--out docs/performance-data.md] [--library-only]

Half of all segments belong to one account, the rest to fifty. Words follow Zipf's law over 20,000; meetings have 500
segments and four speakers. Meetings are digested by the service's own code, and its figures told to the other's.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import psutil
import sqlalchemy as sa
from verbatim.insights.v1 import analytics_pb2, analytics_pb2_grpc
from verbatim.meetings.v1 import meetings_pb2, meetings_pb2_grpc
from verbatim.meetings.v1.figures_pb2 import MeetingFigures

from chassis import ids, postgres, rpc
from chassis.idempotency import IdempotencyKeys
from chassis.migrations import migrate
from chassis.pool import Limits
from chassis.postgres import Database
from chassis.tests.servers import PostgresServer, postgres_cluster
from services.insights import __main__ as insights
from services.insights import figures_store
from services.insights.figures import AnalyticsApi
from services.meetings import __main__ as meetings
from services.meetings.api import MeetingsApi
from services.meetings.digests_store import MEETING_FIGURES, DigestsStore
from services.meetings.entries_store import EntriesStore
from services.meetings.meetings_store import MeetingsStore
from services.meetings.paging import Cursors
from services.meetings.segments_store import SegmentsStore
from services.meetings.store import idempotency_keys, outbox_rows
from tests.bench.load import quantile_ms
from tests.volume.rates import rates, table

PER_MEETING = 500
OTHERS = 50
VOCABULARY = 20_000
KEY = "a key that only the bench has, long enough"
TARGET_MS = 100.0
# A machine that has other things to do fills a library slowly; what is asked is timed anyway.
_UNHURRIED = Limits(statement_s=300.0, transaction_s=310.0, lock_s=60.0)
_CHANCE = np.random.default_rng(1)

# What people ask: how common their words are, more than one, a phrase, without one; and one of the fifty.
QUESTIONS = {
    "a rare word": "w{rare}",
    "a common word (every meeting has it)": "w1",
    "a word of every third meeting": "w{usual}",
    "two words": "w{usual} w{rare}",
    "a phrase": '"w1 w{few}"',
    "one word without another": "w{usual} -w2",
    "either of two": "w{rare} or w{usual}",
}

_COLUMNS = (
    "session_id, index, id, meeting_id, revision, speaker, start_s, end_s, text, confidence, engine, quality,"
    " start_offset, end_offset"
)


@dataclass(slots=True)
class Asked:
    """How long the answers to a question took, what CPU they cost, and how many meetings the first page had."""

    what: str
    took_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    found: int = 0

    @property
    def p95_ms(self) -> float:
        return quantile_ms(self.took_s, 0.95)

    def __str__(self) -> str:
        cpu_ms = 1000.0 * self.cpu_s / len(self.took_s)
        return (
            f"| {self.what} | {quantile_ms(self.took_s, 0.5):.1f} | {self.p95_ms:.1f} | {cpu_ms:.1f} | {self.found} |"
        )


@dataclass(slots=True)
class Library:
    """The two databases, and whose the meetings are: the first account has half of them."""

    meetings: Database
    insights: Database
    owners: list[str]
    segments: int = 0
    digested_s: float = 0.0
    told_s: float = 0.0


async def fill(library: Library, segments: int) -> None:
    """Write meetings with their segments, digest them and tell their figures."""
    many = max(2, segments // PER_MEETING)
    rows = [
        (ids.new_id(), ids.new_id(), library.owners[0] if n % 2 else library.owners[1 + n // 2 % OTHERS], n)
        for n in range(many)
    ]
    library.segments = many * PER_MEETING
    began = "now() - make_interval(0, 0, 0, 0, 0, 0, :n * 15000.0)"
    async with library.meetings.engine.begin() as connection:
        for statement in (
            f"INSERT INTO meetings (id, owner_id, title, status, created_at, started_at)"  # noqa: S608 - constants
            f" VALUES (:id, :owner, 'Meeting w' || :n, 'completed', {began}, {began})",
            f"INSERT INTO sessions (id, meeting_id, shift_s, opened_at, closed_at, audio_s, gap_s, coverage)"  # noqa: S608
            f" VALUES (:session, :id, 0, {began}, {began}, 2500, 0, 1)",
        ):
            for row in rows:
                known: dict[str, object] = dict(zip(("id", "session", "owner", "n"), row, strict=True))
                await connection.execute(sa.text(statement), known)
    async with library.meetings.engine.begin() as connection:
        # Built at the end instead of row by row: what is measured is not how long the filling takes.
        await connection.execute(sa.text("DROP INDEX segments_search"))
    async with library.meetings.dedicated() as speaking, speaking.cursor() as cursor:
        for meeting_id, session_id, _, _ in rows:
            async with cursor.copy(f"COPY segments ({_COLUMNS}) FROM STDIN") as copy:
                for spoken in _speech(meeting_id, session_id):
                    await copy.write_row(spoken)
    async with library.meetings.engine.begin() as connection:
        await connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        await connection.execute(sa.text("CREATE INDEX segments_search ON segments USING gin (search)"))
    began_at = time.monotonic()
    store = DigestsStore(library.meetings)
    while (await store.renew(most=10)).total:
        pass
    library.digested_s = time.monotonic() - began_at
    began_at = time.monotonic()
    await _tell(library)
    library.told_s = time.monotonic() - began_at
    for database in (library.meetings, library.insights):
        async with database.engine.connect() as connection:
            plain = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await plain.execute(sa.text("SET statement_timeout = 0"))
            await plain.execute(sa.text("VACUUM ANALYZE"))
            await connection.invalidate()


def _speech(meeting_id: str, session_id: str) -> Iterator[tuple[object, ...]]:
    """Yield the segments of a meeting."""
    ranks = np.exp(_CHANCE.random((PER_MEETING, 12)) * math.log(VOCABULARY)).astype(int)
    for n, words in enumerate(ranks.tolist()):
        text = " ".join(f"w{rank}" for rank in words)
        yield (
            session_id, n, f"{session_id}-{n}", meeting_id, 1, f"Speaker {n % 4}", n * 5.0, n * 5.0 + 4.0, text, 0.9,
            "bench", "final", n * 160_000, n * 160_000 + 128_000,
        )  # fmt: skip


async def _tell(library: Library) -> None:
    o = outbox_rows.c
    async with library.meetings.engine.connect() as connection:
        payloads = (
            await connection.execute(sa.select(o.payload).where(o.subject == MEETING_FIGURES).order_by(o.seq))
        ).scalars()
        facts = [MeetingFigures.FromString(payload) for payload in payloads]
    for at in range(0, len(facts), 256):
        some = facts[at : at + 256]
        await library.insights.run("tell", partial(figures_store.tell_meetings, facts=some))


@asynccontextmanager
async def library_of(server: PostgresServer, segments: int) -> AsyncIterator[tuple[Library, rpc.Peer]]:
    """Fill two databases and serve them."""
    urls = [server.create_database(), server.create_database()]
    for url, folder in zip(urls, (meetings.MIGRATIONS, insights.MIGRATIONS), strict=True):
        await asyncio.to_thread(migrate, url, folder)
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(postgres.database(url, limits=_UNHURRIED)) for url in urls]
        library = Library(first, second, [ids.new_id() for _ in range(OTHERS + 1)])
        await fill(library, segments)
        identity = rpc.Identity("bench", KEY)
        served = rpc.Server("127.0.0.1", 0, identity)
        cursors = Cursors(KEY)
        served.add(
            meetings_pb2_grpc.add_MeetingsServiceServicer_to_server,
            MeetingsApi(
                MeetingsStore(first, cursors), SegmentsStore(first, cursors), EntriesStore(first),
                IdempotencyKeys(first, idempotency_keys),
            ),
        )  # fmt: skip
        served.add(analytics_pb2_grpc.add_AnalyticsServiceServicer_to_server, AnalyticsApi(second))
        await served.start()
        stack.push_async_callback(served.stop, 0)
        yield library, await stack.enter_async_context(rpc.peer(f"127.0.0.1:{served.port}", identity))


async def _timed(asked: Asked, times: int, ask: Callable[[int], Awaitable[int]]) -> Asked:
    await ask(0)  # warm
    cpu_s = _cpu_s()
    for number in range(times):
        began = time.perf_counter()
        asked.found = await ask(number)
        asked.took_s.append(time.perf_counter() - began)
    asked.cpu_s = _cpu_s() - cpu_s
    return asked


def _cpu_s() -> float:
    """Return the CPU seconds so far of this process, in which the services are, and of the databases."""
    me = psutil.Process()
    spent = 0.0
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[:2])
    return spent


async def searches(library: Library, door: rpc.Peer, times: int, *, limit: int = 50) -> list[Asked]:
    """Ask each kind of question as the account with the most, and one as another; then for a second page."""
    stub: Any = meetings_pb2_grpc.MeetingsServiceStub(door.channel)

    async def search(owner: str, query: str, cursor: str = "") -> meetings_pb2.ListMeetingsResponse:
        request = meetings_pb2.ListMeetingsRequest(owner_id=owner, query=query, limit=limit, cursor=cursor)
        answer: meetings_pb2.ListMeetingsResponse = await door.call(stub.ListMeetings, request, timeout_s=30.0)
        return answer

    def words(number: int) -> dict[str, int]:
        return {"rare": 9_000 + 37 * number, "usual": 1_000 + 7 * number, "few": 50 + number}

    found = []
    for what, query in QUESTIONS.items():

        async def ask(number: int, query: str = query) -> int:
            return len((await search(library.owners[0], query.format(**words(number)))).meetings)

        found.append(await _timed(Asked(what), times, ask))

    async def ask_small(number: int) -> int:
        return len((await search(library.owners[1], f"w{3 + number}")).meetings)

    found.append(await _timed(Asked("a common word, account with 1 % of all"), times, ask_small))
    cursor = (await search(library.owners[0], "w1")).next_cursor

    async def ask_on(_number: int) -> int:
        return len((await search(library.owners[0], "w1", cursor)).meetings)

    if cursor:
        found.append(await _timed(Asked("a common word, second page"), times, ask_on))
    return found


async def lists(library: Library, door: rpc.Peer, times: int, *, limit: int = 50) -> list[Asked]:
    """Ask for the newest meetings, for those behind them, and for pages of a transcript."""
    stub: Any = meetings_pb2_grpc.MeetingsServiceStub(door.channel)
    owner = library.owners[0]

    async def page_of(cursor: str) -> meetings_pb2.ListMeetingsResponse:
        request = meetings_pb2.ListMeetingsRequest(owner_id=owner, limit=limit, cursor=cursor)
        answer: meetings_pb2.ListMeetingsResponse = await door.call(stub.ListMeetings, request, timeout_s=30.0)
        return answer

    first = await page_of("")
    cursors = [first.next_cursor]
    while len(cursors) < 5 and cursors[-1]:
        cursors.append((await page_of(cursors[-1])).next_cursor)

    async def newest(_number: int) -> int:
        return len((await page_of("")).meetings)

    async def behind(number: int) -> int:
        return len((await page_of(cursors[number % len(cursors)])).meetings)

    async def transcript(number: int) -> int:
        wanted = first.meetings[number % len(first.meetings)]
        request = meetings_pb2.ListSegmentsRequest(owner_id=owner, meeting_id=wanted.id, limit=200)
        await door.call(stub.ListSegments, request, timeout_s=30.0)
        return 1

    asked = (("the newest fifty meetings", newest), ("one of the next five pages", behind),
             ("200 segments of a transcript", transcript))  # fmt: skip
    return [await _timed(Asked(what), times, ask) for what, ask in asked]


async def analytics(library: Library, door: rpc.Peer, times: int) -> list[Asked]:
    """Ask for the figures of a year, of thirty days and of a day, in several zones."""
    stub: Any = analytics_pb2_grpc.AnalyticsServiceStub(door.channel)
    found = []
    for what, days in (("figures of a year", 365), ("figures of thirty days", 29), ("figures of a day", 0)):

        async def ask(number: int, days: int = days) -> int:
            zone = ("UTC", "Europe/Berlin", "Asia/Kolkata")[number % 3]
            request = analytics_pb2.GetAnalyticsRequest(owner_id=library.owners[0], time_zone=zone)
            # The day there: in the evening of UTC a year back from it is a day more than from the one here.
            first = dt.datetime.now(ZoneInfo(zone)).date() - dt.timedelta(days=days)
            setattr(request, "from", first.isoformat())
            answer: analytics_pb2.GetAnalyticsResponse = await door.call(stub.GetAnalytics, request, timeout_s=30.0)
            return int(answer.analytics.meetings)

        found.append(await _timed(Asked(what), times, ask))
    return found


def page(library: Library, found: list[Asked], listed: list[Asked], figures: list[Asked]) -> str:
    """Return what was measured, as a page."""
    worst = max(one.p95_ms for one in [*found, *listed, *figures])
    load = os.getloadavg()[1]
    head = "|---|---|---|---|---|"
    return "\n".join((
        "# Data: search and analytics over a large library, events, jobs", "",
        f"Written by `python -m tests.bench.library`. {library.segments:,} segments in "
        f"{library.segments // PER_MEETING:,} meetings; half of them belong to the account that asks. Milliseconds of "
        "a whole gRPC call, counted at the caller, one call at a time; CPU is what a call costs on average in caller, "
        "service and database together.", "",
        f"The machine had a load of {load:.0f} on {os.cpu_count()} cores: where that is more than the cores, times are "
        "upper bounds, and the CPU tells what a quiet machine would need." , "",
        f"Digesting all of it took {library.digested_s:.0f} s, telling its figures {library.told_s:.0f} s.", "",
        "| search, first fifty with snippets | p50 | p95 | CPU | meetings |", head, *map(str, found), "",
        "| lists | p50 | p95 | CPU | meetings |", head, *map(str, listed), "",
        "| analytics | p50 | p95 | CPU | meetings |", head, *map(str, figures), "",
        f"Target: p95 below {TARGET_MS:.0f} ms. Worst here: {worst:.1f} ms.", "",
    ))  # fmt: skip


async def run(segments: int, times: int) -> str:
    """Measure, and return the page."""
    with postgres_cluster() as server:
        server.configure("max_wal_size", "8GB")
        async with library_of(server, segments) as (library, door):
            found, listed = await searches(library, door, times), await lists(library, door, times)
            return page(library, found, listed, await analytics(library, door, times))


def main() -> None:
    """Print the figures, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.library", description=__doc__)
    parser.add_argument("--segments", type=int, default=1_000_000)
    parser.add_argument("--asks", type=int, default=40)
    parser.add_argument("--library-only", action="store_true", help="leave out how fast events and jobs go")
    parser.add_argument("--out", type=Path, help="where the page is written")
    chosen = parser.parse_args()
    text = asyncio.run(run(chosen.segments, chosen.asks))
    if not chosen.library_only:
        text += f"\n{table(asyncio.run(rates()))}"
    print(f"\n{text}")
    if chosen.out:
        chosen.out.write_text(text)


if __name__ == "__main__":
    main()
