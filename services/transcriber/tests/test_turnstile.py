"""Who may call the speech API, and when: bounded, adaptive, the urgent first, every session in its turn."""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chassis.tests.clocks import Clock
from services.transcriber.turnstile import AdaptiveLimit, Lane, Turnstile

log = logging.getLogger(__name__)
pytestmark = pytest.mark.req("R-STT-7")


def limit_of(most: int, clock: Clock | None = None) -> AdaptiveLimit:
    return AdaptiveLimit("test", most, clock=clock or time.monotonic)


def turnstile_of(most: int, share: float = 1.0) -> Turnstile:
    return Turnstile("test", limit_of(most), share=lambda: share, clock=time.monotonic)


class Calls:
    """Calls that run until they are told to end, and the order in which they began."""

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile
        self.began: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, lane: Lane = Lane.LIVE, session: str | None = None) -> None:
        """Begin a call, or have it wait. Its name up to a digit is its session, unless said otherwise."""
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._call(name, lane, session or name.rstrip("0123456789")))
        await settled()

    async def end(self, *names: str) -> None:
        """End calls, one after the other."""
        for name in names:
            self._ends[name].set()
            await settled()

    async def _call(self, name: str, lane: Lane, session: str) -> None:
        async with self._turnstile.passage(lane, session):
            self.began.append(name)
            await self._ends[name].wait()


async def settled() -> None:
    """Let every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def calls_through(turnstile: Turnstile) -> AsyncIterator[Calls]:
    calls = Calls(turnstile)
    yield calls
    for task in calls.tasks.values():
        task.cancel()
    await asyncio.wait(list(calls.tasks.values()))
    assert turnstile.running == 0
    assert not any(turnstile.waiting(lane) for lane in Lane)


async def test_no_more_than_the_limit_run_at_one_time() -> None:
    turnstile = turnstile_of(2)
    async with calls_through(turnstile) as calls:
        for name in ("a", "b", "c", "d"):
            await calls.ask(name)
        assert (turnstile.running, turnstile.waiting(Lane.LIVE)) == (2, 2)
        await calls.end("b")
        assert calls.began == ["a", "b", "c"]
        assert (turnstile.running, turnstile.waiting(Lane.LIVE)) == (2, 1)


async def test_live_goes_before_healing_before_uploads() -> None:
    async with calls_through(turnstile_of(1)) as calls:
        await calls.ask("first")
        await calls.ask("upload", Lane.UPLOAD)
        await calls.ask("heal", Lane.HEAL)
        await calls.ask("live", Lane.LIVE)
        await calls.end("first", "live", "heal")
        assert calls.began == ["first", "live", "heal", "upload"]


async def test_sessions_take_turns_however_much_one_has_to_say() -> None:
    async with calls_through(turnstile_of(1)) as calls:
        await calls.ask("a0")
        for number in range(1, 5):
            await calls.ask(f"a{number}")
        await calls.ask("b1")
        await calls.ask("b2")
        await calls.ask("c1")
        await calls.end("a0", "a1", "b1", "c1", "a2", "b2", "a3")
        assert calls.began == ["a0", "a1", "b1", "c1", "a2", "b2", "a3", "a4"]


async def test_whoever_comes_does_not_pass_those_who_wait() -> None:
    turnstile = turnstile_of(1)
    async with calls_through(turnstile) as calls:
        await calls.ask("a")
        await calls.ask("b")
        calls._ends["a"].set()
        await calls.ask("c")
        assert calls.began == ["a", "b"]


async def test_what_is_not_live_leaves_a_quarter_free() -> None:
    turnstile = turnstile_of(8)
    async with calls_through(turnstile) as calls:
        for number in range(10):
            await calls.ask(f"u{number}", Lane.UPLOAD)
        assert turnstile.running == 6
        await calls.ask("h", Lane.HEAL)
        assert turnstile.running == 6
        for number in range(3):
            await calls.ask(f"l{number}")
        assert turnstile.running == 8
        await calls.end("u0")
        assert calls.began[-1] == "l2"


async def test_with_a_limit_of_one_uploads_go_on_when_nobody_speaks() -> None:
    async with calls_through(turnstile_of(1)) as calls:
        await calls.ask("u1", Lane.UPLOAD)
        await calls.ask("u2", Lane.UPLOAD)
        await calls.end("u1")
        assert calls.began == ["u1", "u2"]


async def test_who_gives_up_waiting_leaves_no_trace() -> None:
    turnstile = turnstile_of(1)
    async with calls_through(turnstile) as calls:
        for name in ("a1", "b1", "b2", "c1"):
            await calls.ask(name)
        calls.tasks["b1"].cancel()
        await settled()
        assert turnstile.waiting(Lane.LIVE) == 2
        await calls.end("a1", "b2")
        assert calls.began == ["a1", "b2", "c1"]


async def test_who_gives_up_in_the_moment_of_its_turn_passes_it_on() -> None:
    turnstile = turnstile_of(1)
    async with calls_through(turnstile) as calls:
        for name in ("a", "b", "c"):
            await calls.ask(name)
        calls._ends["a"].set()
        while turnstile.waiting(Lane.LIVE) == 2:
            await asyncio.sleep(0)
        calls.tasks["b"].cancel()  # it has been given its turn, and has not run since
        await settled()
        assert calls.began == ["a", "c"]


async def test_nobody_passes_while_the_api_asks_for_patience() -> None:
    turnstile = turnstile_of(4)
    async with calls_through(turnstile) as calls:
        await calls.ask("a")
        turnstile.pause(0.3)
        began = time.monotonic()
        for name in ("b", "c"):
            await calls.ask(name)
        assert calls.began == ["a"]
        assert not turnstile.has_spare
        turnstile.pause(0.1)  # a shorter one ends no sooner
        async with asyncio.timeout(5):
            while len(calls.began) < 3:
                await asyncio.sleep(0.01)
        assert time.monotonic() - began >= 0.29


async def test_those_who_wait_pass_as_the_share_grows() -> None:
    """After an outage nothing may be running whose end would wake them."""
    share = 0.25
    turnstile = Turnstile("test", limit_of(4), share=lambda: share, clock=time.monotonic)
    async with calls_through(turnstile) as calls:
        for name in ("a", "b", "c", "d", "e"):
            await calls.ask(name)
        assert turnstile.running == 1
        share = 1.0
        async with asyncio.timeout(5):
            while turnstile.running < 4:
                await asyncio.sleep(0.01)
        assert turnstile.waiting(Lane.LIVE) == 1


async def test_there_is_something_to_spare_below_four_fifths() -> None:
    turnstile = turnstile_of(5)
    async with calls_through(turnstile) as calls:
        for name in ("a", "b", "c"):
            await calls.ask(name)
            assert turnstile.has_spare
        await calls.ask("d")
        assert not turnstile.has_spare


async def test_places_are_neither_lost_nor_made_whatever_happens() -> None:
    draw = random.Random(1)
    turnstile = turnstile_of(3)
    most = 0

    async def call(number: int) -> None:
        nonlocal most
        async with turnstile.passage(draw.choice(list(Lane)), f"session-{number % 7}"):
            most = max(most, turnstile.running)
            await asyncio.sleep(draw.choice((0, 0.001)))

    for _ in range(20):
        tasks = [asyncio.create_task(call(number)) for number in range(50)]
        for _ in range(20):
            await asyncio.sleep(0)
            draw.choice(tasks).cancel()
        async with asyncio.timeout(20):
            await asyncio.wait(tasks)
        assert turnstile.running == 0
        assert not any(turnstile.waiting(lane) for lane in Lane)
    assert most == 3


# -- the limit -----------------------------------------------------------------------------------------------------


def test_the_limit_grows_by_one_after_as_many_successes() -> None:
    clock = Clock()
    limit = limit_of(8, clock)
    for _ in range(20):
        clock.pass_(1.0)
        limit.worse()
    assert limit.now == 1.0
    limit.better()
    assert limit.now == pytest.approx(2.0)
    limit.better()
    limit.better()
    assert 2.8 < limit.now < 3.0
    for _ in range(100):
        limit.better()
    assert limit.now == 8.0


def test_the_limit_falls_by_a_third_once_for_failures_that_come_together() -> None:
    clock = Clock()
    limit = limit_of(9, clock)
    for _ in range(9):
        limit.worse()
    assert limit.now == pytest.approx(6.0)
    clock.pass_(0.9)
    limit.worse()
    assert limit.now == pytest.approx(6.0)
    clock.pass_(0.1)
    limit.worse()
    assert limit.now == pytest.approx(4.0)


def test_what_may_run_is_the_part_of_the_limit_that_is_shared_out() -> None:
    assert [turnstile_of(8, share).allowed for share in (1.0, 0.5, 0.1, 0.0)] == [8, 4, 1, 1]


async def test_the_api_that_can_do_less_is_asked_less() -> None:
    """An API with room for three fails what is above: the limit settles around what it can do."""
    clock = Clock()
    limit = limit_of(16, clock)
    turnstile = Turnstile("test", limit, share=lambda: 1.0, clock=time.monotonic)
    limits: list[float] = []

    async def call(number: int) -> None:
        async with turnstile.passage(Lane.LIVE, f"session-{number % 10}"):
            refused = turnstile.running > 3
            await asyncio.sleep(0)
            clock.pass_(0.5)  # with four at a time each takes two seconds
            (limit.worse if refused else limit.better)()
            limits.append(limit.now)

    await asyncio.gather(*(call(number) for number in range(2_000)))
    assert 2.0 < statistics.mean(limits[100:]) < 4.5
    assert max(limits[100:]) < 7.0


# -- fairness ------------------------------------------------------------------------------------------------------


async def live_p95_s(upload_utterances: int, *, fair: bool) -> float:
    """Return the p95 wait of live utterances beside an upload, at an API with four places and 20 ms for each call."""
    turnstile = turnstile_of(4)
    waits: list[float] = []

    async def call(lane: Lane, session: str) -> None:
        came = time.monotonic()
        async with turnstile.passage(lane, session):
            if session.startswith("live"):
                waits.append(time.monotonic() - came)
            await asyncio.sleep(0.02)

    uploads = [
        asyncio.create_task(call(Lane.UPLOAD if fair else Lane.LIVE, "upload" if fair else "live"))
        for _ in range(upload_utterances)
    ]
    await settled()
    waits.clear()
    live = []
    for number in range(60):
        live.append(asyncio.create_task(call(Lane.LIVE, f"live-{number % 3}" if fair else "live")))
        await asyncio.sleep(0.015)
    await asyncio.wait(live)
    for upload in uploads:
        upload.cancel()
    if uploads:
        await asyncio.wait(uploads)
    return statistics.quantiles(waits[-60:] if fair else waits, n=20)[-1]


async def test_a_two_hour_upload_does_not_delay_what_is_said_now() -> None:
    """600 utterances are two hours of speech in pieces of twelve seconds."""
    alone, beside = await live_p95_s(0, fair=True), await live_p95_s(600, fair=True)
    unfair = await live_p95_s(600, fair=False)
    figures = f"p95 wait: alone {alone:.3f} s, beside an upload {beside:.3f} s, in one queue with it {unfair:.3f} s"
    # One call of 20 ms may be in the way; the queue of all of them is 3 s long.
    assert beside < 0.1, figures
    assert unfair > 5 * beside, figures
    log.info(figures)
