"""What is done to a running platform so that somebody is paged. Each undoes what it did besides the fault itself."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import nats
import orjson
import psycopg
from verbatim_client import VerbatimClient
from verbatim_client.errors import ApiError, StreamError

from chassis import ids
from dev.stack import Stack
from tests.chaos.disk import Disk
from tests.e2e.speech import recording, speak
from tests.observe.cluster import Terminal, admin_conninfo
from tests.observe.receivers import Vendor

RELAY_LOCK, TRANSCRIPT_LOCK = 0x6F75_7462, 0x7472_6E73
ATTACK_PER_S = 4.0
READERS = 12


async def nobody() -> None:
    """Do nothing: no outside system has anything to mend."""


@dataclass
class Site:
    """A platform, who speaks, and where an operator sits."""

    stack: Stack
    terminal: Terminal
    vendor: Vendor
    disk: Disk
    client: VerbatimClient


@dataclass
class Fault:
    """What is broken. `outside` is what others mend before our commands can help; `fill` are placeholders."""

    fill: dict[str, str] = field(default_factory=dict)
    outside: Callable[[], Awaitable[None]] = nobody


Inject = Callable[[Site], Any]


@asynccontextmanager
async def going_on(*works: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do some work again and again meanwhile, whatever becomes of it."""

    async def again(work: Callable[[], Awaitable[None]]) -> None:
        while True:
            with suppress(ApiError, StreamError, httpx2.HTTPError, TimeoutError, OSError):
                await work()
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(again(work)) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def talking(site: Site, seconds: float = 12) -> Callable[[], Awaitable[None]]:
    """Speak one meeting after the other."""

    async def talk() -> None:
        await speak(site.client, recording(seconds), speed=4.0, title="Alerted")

    return talk


def killed(name: str) -> Inject:
    """Make what kills a process."""

    @asynccontextmanager
    async def inject(site: Site) -> AsyncIterator[Fault]:
        site.stack.kill(name)
        yield Fault()

    return inject


def frozen(name: str) -> Inject:
    """Make what freezes a process: it runs, and does not answer."""

    @asynccontextmanager
    async def inject(site: Site) -> AsyncIterator[Fault]:
        site.stack.kill(name, signal.SIGSTOP)
        yield Fault({"pod": f"verbatim-{name}"})

    return inject


def vendor(status: int = 200, latency_s: float = 0.0) -> Inject:
    """Make what lets the speech API fail, or be slow, while people talk."""

    @asynccontextmanager
    async def inject(site: Site) -> AsyncIterator[Fault]:
        async def well() -> None:
            site.vendor.status, site.vendor.latency_s = 200, 0.0

        async with going_on(talking(site), talking(site)):
            site.vendor.status, site.vendor.latency_s = status, latency_s
            try:
                yield Fault(outside=well)
            finally:
                await well()
                # What failed meanwhile may have opened the breaker for ten minutes.
                await site.terminal.type('verbatim admin controls set breaker.openai closed --for 30m --why "a drill"')

    return inject


@asynccontextmanager
async def tables_locked(site: Site) -> AsyncIterator[Fault]:
    """A session at a console locks tables in a transaction, and its owner goes to lunch. People read and talk."""

    async def read() -> None:
        await site.client.call("GET", "/api/meetings")

    console = await psycopg.AsyncConnection.connect(admin_conninfo(site.stack))
    try:
        await console.execute("LOCK TABLE meetings, segments IN ACCESS EXCLUSIVE MODE")
        async with going_on(*[read] * READERS, talking(site)):
            yield Fault()
    finally:
        await console.close()


async def take_lock(site: Site, key: int) -> psycopg.AsyncConnection[Any]:
    """Have a stranger's session hold an advisory lock of ours: it waits in line until who holds it is cut off."""
    stranger = await psycopg.AsyncConnection.connect(admin_conninfo(site.stack), autocommit=True)
    waiting = asyncio.create_task(stranger.execute("SELECT pg_advisory_lock(%s)", [key]))
    while not waiting.done():
        await site.terminal.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "  # noqa: S608
            f"AND (classid::bigint << 32 | objid::bigint) = {key} AND pid <> {stranger.info.backend_pid}"
        )
        await asyncio.wait([waiting], timeout=0.5)
    await waiting
    return stranger


def lock_taken(key: int, *, talk: bool = False) -> Inject:
    """Make what takes an advisory lock away from whoever of ours works under it."""

    @asynccontextmanager
    async def inject(site: Site) -> AsyncIterator[Fault]:
        stranger = await take_lock(site, key)
        fault = Fault({"pid": str(stranger.info.backend_pid)})
        try:
            if talk:
                await speak(site.client, recording(4), title="Alerted")
            yield fault
        finally:
            await stranger.close()

    return inject


@asynccontextmanager
async def entry_lost(site: Site) -> AsyncIterator[Fault]:
    """The broker loses a segment that is not stored yet: somebody deletes its message while nobody stores."""
    stranger = await take_lock(site, TRANSCRIPT_LOCK)
    try:
        events = await speak(site.client, recording(12), title="Alerted")
        session = next(event["session_id"] for event in events if event["type"] == "started")
        broker = await nats.connect(site.stack.plan.nats_url)
        try:
            state = (await broker.jetstream().stream_info("TRANSCRIPT", subjects_filter="transcript.>")).state
            for sequence in range(state.last_seq, state.first_seq, -1):
                with suppress(nats.js.errors.NotFoundError):
                    message = await broker.jetstream().get_msg("TRANSCRIPT", sequence)
                    if session in (message.subject or "") and b"we decided" in (message.data or b"").lower():
                        await broker.jetstream().delete_msg("TRANSCRIPT", sequence)
                        break
            else:
                raise AssertionError("no segment to lose")
        finally:
            await broker.close()
    finally:
        await stranger.close()
    try:
        yield Fault()
    finally:
        await site.terminal.type("kubectl scale deployment/verbatim-janitor --replicas=1")


@asynccontextmanager
async def event_unreadable(site: Site) -> AsyncIterator[Fault]:
    """A program of somebody's writes something into the stream of events that nobody can read."""
    broker = await nats.connect(site.stack.plan.nats_url)
    try:
        headers = {"ce-id": ids.new_id()}
        await broker.jetstream().publish("events.meeting.completed", b"\xff\xff", headers=headers)
    finally:
        await broker.close()
    fault = Fault()

    async def looked_up() -> None:
        # Whoever takes such events has given it up: a letter each.
        letters = (await site.terminal.type("verbatim dlq list --json")).splitlines()
        *others, fault.fill["id"] = [orjson.loads(letter)["id"] for letter in letters]
        for one in others:
            await site.terminal.type("verbatim dlq discard <id>", id=one)

    fault.outside = looked_up
    yield fault


@asynccontextmanager
async def passwords_guessed(site: Site) -> AsyncIterator[Fault]:
    """Somebody guesses passwords of accounts, several each second."""
    number = 0
    async with httpx2.AsyncClient(base_url=site.stack.url, timeout=15) as http:

        async def guess() -> None:
            nonlocal number
            number += 1
            body = {"email": f"nobody{number}@verbatim.example", "password": "correct horse battery"}
            await http.post("/api/auth/login", json=body)
            await asyncio.sleep(2 / ATTACK_PER_S)

        async with going_on(guess, guess):
            yield Fault()


@asynccontextmanager
async def loop_blocked(site: Site) -> AsyncIterator[Fault]:
    """Something blocks an event loop for most of each second: the process is frozen and thawed."""
    pid = site.stack.runner.pid("insights")
    assert pid is not None

    async def block() -> None:
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0.75)
        os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.3)

    async with going_on(block):
        yield Fault({"pod": "verbatim-insights"})


@asynccontextmanager
async def descriptors_short(site: Site) -> AsyncIterator[Fault]:
    """A process may open hardly more files than it has open."""
    pid = site.stack.runner.pid("insights")
    assert pid is not None
    opened = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - of the kernel
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (opened + 8, hard))
    yield Fault({"pod": "verbatim-insights"})


@asynccontextmanager
async def disk_full(site: Site) -> AsyncIterator[Fault]:
    """A watched volume is 98 % full."""
    await asyncio.to_thread((site.disk.folder / "data").write_bytes, os.urandom(20_000_000))
    site.disk.fill(left_bytes=400_000)
    try:
        yield Fault()
    finally:
        site.disk.enlarge()
        (site.disk.folder / "data").unlink(missing_ok=True)


@asynccontextmanager
async def backup_old(site: Site) -> AsyncIterator[Fault]:
    """The last good backup was made two days ago, by what is noted of it."""
    broker = await nats.connect(site.stack.plan.nats_url)
    try:
        js = broker.jetstream()
        try:
            await js.key_value("backups")
        except nats.js.errors.NotFoundError:
            await js.create_key_value(bucket="backups")
        await js.publish("$KV.backups.last", orjson.dumps({"at_s": time.time() - 2 * 86400, "size_bytes": 1}))
    finally:
        await broker.close()
    yield Fault()


def control_set(name: str, value: str) -> Inject:
    """Make what sets a control, and forgets it."""

    @asynccontextmanager
    async def inject(site: Site) -> AsyncIterator[Fault]:
        await site.terminal.type(f'verbatim admin controls set {name} {value} --why "a drill"')
        yield Fault({"name": name})

    return inject
