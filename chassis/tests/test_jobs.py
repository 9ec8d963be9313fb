"""Jobs against a real database and a real broker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import sqlalchemy as sa
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, lifecycle, postgres
from chassis.dead_letters import DLQ, DeadLetters, Letter
from chassis.errors import AppError, Kind
from chassis.jobs import JOBS, Job, Status, Urgency
from chassis.lines import Lines
from chassis.poison import Guard, GuardSettings
from chassis.relay import Relay
from chassis.tests import bench
from chassis.tests.servers import NatsServer
from chassis.worker import Effect, Handler, Policy, Postponed, Refused, Run, Worker

pytestmark = pytest.mark.req("R-JOB-1")

QUICK = Policy(delays_s=(0.2, 0.4), jitter=0.0, deadline_s=2.0, concurrency=2, ack_wait_s=1.0, undecided_delay_s=0.3)


class LosesCancellations:
    """A broker whose client returns an answer that comes at the moment of a cancellation, as if there had been none."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def ensure_consumer(self, *_: object, **__: object) -> None:
        """There is one."""

    async def claim(self, *_: object, wait_s: float = 0.0) -> None:
        if not self.asked.is_set():
            self.asked.set()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60.0)
        else:
            await asyncio.sleep(wait_s)


async def test_lines_end_although_their_broker_loses_the_cancellation() -> None:
    broker = LosesCancellations()
    lines = Lines(cast("bus.Bus", broker), "sum", ack_wait_s=1.0)
    working = asyncio.create_task(lines.run(lambda: 1, _begins_nothing, asyncio.Event()))
    await broker.asked.wait()
    working.cancel()
    done, _ = await asyncio.wait({working}, timeout=5.0)
    assert done and working.cancelled()


def _begins_nothing(_: Msg) -> asyncio.Task[None]:
    raise AssertionError("there was no message")


class Place:
    """A database with the tables of jobs, a broker, a relay, and workers on demand."""

    def __init__(self, database: postgres.Database, broker: bus.Bus, tasks: asyncio.TaskGroup) -> None:
        self.database = database
        self.bus = broker
        self.letters = DeadLetters(lambda: broker)
        self._tasks = tasks

    def work(self, handler: Handler, policy: Policy = QUICK) -> Worker:
        worker = Worker(
            "sum", handler, database=self.database, queue=bench.QUEUE, broker=self.bus, policy=policy
        )  # fmt: skip
        self._tasks.create_task(worker.run())
        return worker

    async def put(self, key: str, attempts_max: int = 3, **more: Any) -> Job:
        async def ask(connection: AsyncConnection) -> Job:
            return await bench.QUEUE.put(
                connection, "sum", key, owner_id="o", payload=key.encode(), attempts_max=attempts_max, **more
            )

        return await self.database.run("put", ask)

    async def job(self, job_id: str) -> Job:
        found = await self.database.run("get", lambda connection: bench.QUEUE.get(connection, job_id))
        assert found is not None
        return found

    async def reaches(self, job_id: str, status: Status, within_s: float = 15.0) -> Job:
        async def there() -> bool:
            return (await self.job(job_id)).status is status

        await eventually(there, within_s)
        return await self.job(job_id)

    async def effects(self) -> list[str]:
        return await self.database.run("effects", bench.effects)

    async def dead_letters(self) -> list[Letter]:
        return (await self.letters.list())[0]

    async def buried(self, count: int = 1) -> list[Letter]:
        """Wait until there are so many letters."""

        async def there() -> bool:
            return await self.letters.count() >= count

        await eventually(there)
        return await self.dead_letters()

    async def messages_left(self) -> int:
        return int((await self.bus.js.stream_info("JOBS")).state.messages)


async def eventually(holds: Callable[[], Awaitable[bool]], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not await holds():
            await asyncio.sleep(0.02)


@pytest.fixture
async def place(database_url: str, nats_server: NatsServer) -> AsyncIterator[Place]:
    async with opened(database_url, nats_server.url) as made:
        yield made


@asynccontextmanager
async def opened(database_url: str, nats_url: str) -> AsyncIterator[Place]:
    async with (
        postgres.database(database_url, production=False) as database,
        bus.connect(nats_url, name="test", replicas=1) as broker,
    ):
        async with database.engine.begin() as connection:
            await connection.run_sync(bench.METADATA.create_all)
        await broker.declare(JOBS)
        await broker.declare(DLQ)
        relay = Relay(database, bench.OUTBOX, bench.STREAMS, broker, (JOBS, DLQ), reconcile_s=1.0)
        with suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(relay.run())
                yield Place(database, broker, tasks)
                await lifecycle.end(list(tasks._tasks))


async def good(run: Run) -> Effect:
    return bench.effect(run.job.key)


async def test_a_job_runs_and_its_effect_is_committed_with_its_status(place: Place) -> None:
    place.work(good)
    job = await place.put("a")
    assert (job.status, job.attempts) == (Status.PENDING, 0)
    done = await place.reaches(job.id, Status.COMPLETED)
    assert (done.attempts, done.progress, done.error) == (1, 1.0, "")
    assert await place.effects() == ["a"]


async def test_an_effect_that_fails_leaves_neither_effect_nor_completion(place: Place) -> None:
    async def broken(run: Run) -> Effect:
        async def commit(connection: AsyncConnection) -> None:
            await bench.effect("half")(connection)
            raise AppError(Kind.UNAVAILABLE, "No.")

        return commit

    place.work(broken)
    job = await place.put("a", attempts_max=1)
    await place.reaches(job.id, Status.DEAD)
    assert await place.effects() == []


async def test_attempts_follow_the_schedule_and_end_in_the_dead_letters_once_with_history(place: Place) -> None:
    began: list[float] = []

    async def failing(run: Run) -> Effect:
        began.append(time.monotonic())
        raise AppError(Kind.UNAVAILABLE, "The model does not answer.", retry_after_s=0.0)

    place.work(failing)
    job = await place.put("a")
    dead = await place.reaches(job.id, Status.DEAD)
    first, second = began[1] - began[0], began[2] - began[1]
    assert 0.2 <= first < 1.0
    assert 0.4 <= second < 1.2
    assert len(began) == 3
    assert dead.attempts == 3
    assert dead.error == "The model does not answer."
    [letter] = await place.buried()
    assert letter.about == {"job_id": job.id, "key": "a", "owner_id": "o", "attempts": 3}
    assert (letter.kind, letter.subject, letter.error) == ("sum", "jobs.sum", "The model does not answer.")
    assert [(entry["attempt"], entry["kind"]) for entry in letter.history] == [
        (1, "service_unavailable"), (2, "service_unavailable"), (3, "service_unavailable")
    ]  # fmt: skip
    await eventually(nothing_left(place))


async def test_the_wait_that_a_dependency_asks_for_wins_over_the_schedule(place: Place) -> None:
    began: list[float] = []

    async def limited(run: Run) -> Effect:
        began.append(time.monotonic())
        if len(began) == 1:
            raise AppError(Kind.RATE_LIMIT_EXCEEDED, "Later.", retry_after_s=1.0)
        return bench.effect("a")

    place.work(limited)
    job = await place.put("a")
    await place.reaches(job.id, Status.COMPLETED)
    assert began[1] - began[0] >= 1.0


async def test_a_permanent_failure_is_not_tried_again(place: Place) -> None:
    async def impossible(run: Run) -> Effect:
        raise AppError(Kind.FORBIDDEN, "The key was refused.")

    place.work(impossible)
    job = await place.put("a")
    assert (await place.reaches(job.id, Status.DEAD)).attempts == 1
    assert len(await place.buried()) == 1


async def test_a_refused_job_fails_with_its_reason_and_troubles_no_operator(place: Place) -> None:
    async def refused(run: Run) -> Effect:
        raise Refused("There is no such thing any more.")

    place.work(refused)
    job = await place.put("a")
    assert (await place.reaches(job.id, Status.FAILED)).error == "There is no such thing any more."
    await eventually(nothing_left(place))
    assert await place.dead_letters() == []


async def test_a_bug_is_counted_as_an_attempt_and_does_not_stop_the_worker(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    async def buggy(run: Run) -> Effect:
        if run.job.key == "bad":
            raise KeyError("secret words")
        return bench.effect(run.job.key)

    place.work(buggy)
    bad = await place.put("bad", attempts_max=1)
    fine = await place.put("fine")
    dead = await place.reaches(bad.id, Status.DEAD)
    await place.reaches(fine.id, Status.COMPLETED)
    assert "secret" not in dead.error + str(dead.history)
    # What a configured process writes of it, and what not: tests/observe/test_secrets.py.
    assert "attempt failed" in capsys.readouterr().out


async def test_an_attempt_that_is_postponed_does_not_count(place: Place) -> None:
    tries = 0

    async def not_now(run: Run) -> Effect:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise Postponed(0.1)
        return bench.effect("a")

    place.work(not_now)
    job = await place.put("a")
    done = await place.reaches(job.id, Status.COMPLETED)
    assert (tries, done.attempts, done.crashes) == (5, 1, 0)


async def test_an_attempt_over_its_deadline_fails(place: Place) -> None:
    async def endless(run: Run) -> Effect:
        await asyncio.Event().wait()
        raise AssertionError

    place.work(endless, Policy(delays_s=(0.1,), deadline_s=0.3, ack_wait_s=1.0))
    job = await place.put("a", attempts_max=2)
    dead = await place.reaches(job.id, Status.DEAD)
    assert [entry["kind"] for entry in dead.history] == ["deadline", "deadline"]


async def test_a_long_job_is_not_delivered_again_while_its_heart_beats(place: Place) -> None:
    starts: list[str] = []

    async def slow(run: Run) -> Effect:
        starts.append(run.job.id)
        await run.report(0.5)
        await asyncio.sleep(3.0)  # three times the acknowledgement deadline
        return bench.effect("a")

    place.work(slow, Policy(deadline_s=10.0, ack_wait_s=1.0))
    job = await place.put("a")
    running = await place.reaches(job.id, Status.RUNNING)
    await eventually(lambda: progress_is(place, job.id, 0.5))
    assert running.status is Status.RUNNING
    await place.reaches(job.id, Status.COMPLETED)
    assert len(starts) == 1


async def test_jobs_that_wait_for_a_retry_do_not_hold_up_the_others(place: Place) -> None:
    async def some(run: Run) -> Effect:
        if run.job.key.startswith("bad"):
            raise AppError(Kind.UNAVAILABLE, "No.", retry_after_s=0.0)
        return bench.effect(run.job.key)

    place.work(some, Policy(delays_s=(30.0,), concurrency=2))
    for number in range(6):
        bad = await place.put(f"bad {number}")
        await place.reaches(bad.id, Status.RETRY)
    fine = await place.put("fine")
    await place.reaches(fine.id, Status.COMPLETED, within_s=5.0)


async def test_a_message_that_comes_twice_has_one_effect(place: Place) -> None:
    place.work(good)
    job = await place.put("a")
    await place.reaches(job.id, Status.COMPLETED)
    await place.bus.publish("jobs.sum", orjson.dumps({"job_id": job.id}))
    await eventually(nothing_left(place))
    assert await place.effects() == ["a"]
    assert (await place.job(job.id)).attempts == 1


async def test_a_message_that_is_no_job_is_put_aside(place: Place) -> None:
    place.work(good)
    for junk in (b"", b"[]", b'{"job_id": "nobody"}', b"\xff\x00"):
        await place.bus.publish("jobs.sum", junk)
    job = await place.put("a")
    await place.reaches(job.id, Status.COMPLETED)
    await eventually(nothing_left(place))


async def test_asking_twice_for_what_nobody_has_begun_makes_one_job(place: Place) -> None:
    first, second, other = await place.put("a"), await place.put("a"), await place.put("b")
    assert first.id == second.id != other.id


async def test_a_job_that_is_forgotten_while_it_runs_has_no_effect(place: Place) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def waits(run: Run) -> Effect:
        begun.set()
        await go_on.wait()
        return bench.effect("a")

    place.work(waits)
    await place.put("a")
    await begun.wait()
    await place.database.run("forget", lambda connection: bench.QUEUE.forget(connection, "sum", "a"))
    go_on.set()
    await eventually(nothing_left(place))
    assert await place.effects() == []


async def test_a_frozen_worker_that_thaws_has_no_second_effect(
    place: Place, database_url: str, nats_server: NatsServer
) -> None:
    victim = await start_worker_process(database_url, nats_server.url)
    try:
        job = await place.put("nap")
        await place.reaches(job.id, Status.RUNNING)
        victim.send_signal(signal.SIGSTOP)
        other = place.work(good)
        done = await place.reaches(job.id, Status.COMPLETED)
        assert (done.starts, done.crashes) == (2, 1)
        await other.drain(5.0)
        victim.send_signal(signal.SIGCONT)
        # The victim naps as long for this one, and had begun the other before.
        later = await place.put("nap later")
        await place.reaches(later.id, Status.COMPLETED)
        assert await place.effects() == ["nap", "nap later"]
    finally:
        victim.kill()
        await victim.wait()


async def test_a_message_too_many_does_not_disturb_a_worker_that_is_alive(place: Place) -> None:
    go_on, began = asyncio.Event(), 0

    async def waits(run: Run) -> Effect:
        nonlocal began
        began += 1
        await go_on.wait()
        return bench.effect("a")

    place.work(waits, replace(QUICK, deadline_s=20.0, concurrency=3))
    job = await place.put("a")
    await place.reaches(job.id, Status.RUNNING)
    for _ in range(2):
        await place.bus.publish("jobs.sum", orjson.dumps({"job_id": job.id}))
    await asyncio.sleep(2.5)  # time enough for both to be delivered, and again after their pause
    go_on.set()
    done = await place.reaches(job.id, Status.COMPLETED)
    assert (began, done.starts, done.crashes) == (1, 1, 0)
    await eventually(nothing_left(place))


async def test_drain_hands_back_what_does_not_end_in_time(place: Place) -> None:
    begun = asyncio.Event()

    async def endless(run: Run) -> Effect:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    worker = place.work(endless, Policy(deadline_s=60.0))
    job = await place.put("a")
    await begun.wait()
    await worker.drain(0.2)
    handed_back = await place.job(job.id)
    assert (handed_back.status, handed_back.attempts) == (Status.PENDING, 0)
    place.work(good, QUICK)
    done = await place.reaches(job.id, Status.COMPLETED)
    assert (done.attempts, done.crashes) == (1, 0)


async def test_no_letter_is_lost_when_the_broker_cannot_take_it(place: Place) -> None:
    """It leaves through the outbox, and the relay declares the stream again that somebody deleted."""

    async def impossible(run: Run) -> Effect:
        await place.bus.js.delete_stream("DLQ")
        raise AppError(Kind.FORBIDDEN, "No.")

    place.work(impossible)
    job = await place.put("a")
    await place.reaches(job.id, Status.DEAD)
    await eventually(nothing_left(place))
    [letter] = await place.buried()
    assert letter.about["job_id"] == job.id


async def test_a_dead_job_that_is_delivered_again_has_one_letter_still(place: Place) -> None:
    """As when the worker died after the letter and before the acknowledgement."""

    async def impossible(run: Run) -> Effect:
        raise AppError(Kind.FORBIDDEN, "No.")

    place.work(impossible)
    job = await place.put("a")
    await place.reaches(job.id, Status.DEAD)
    await place.bus.publish("jobs.sum", orjson.dumps({"job_id": job.id}))
    await eventually(nothing_left(place))
    assert len(await place.buried()) == 1


async def test_a_worker_killed_in_the_middle_costs_a_redelivery_and_nothing_else(
    place: Place, database_url: str, nats_server: NatsServer
) -> None:
    victim = await start_worker_process(database_url, nats_server.url)
    job = await place.put("slow")
    await place.reaches(job.id, Status.RUNNING)
    os.kill(victim.pid, signal.SIGKILL)
    await victim.wait()
    place.work(good)
    done = await place.reaches(job.id, Status.COMPLETED)
    assert (done.attempts, done.crashes, done.starts) == (1, 1, 2)
    assert await place.effects() == ["slow"]


async def test_a_job_that_kills_every_worker_ends_among_the_dead(place: Place) -> None:
    place.work(good, Policy(crashes_max=2))
    job = await place.put("a")
    async with place.database.engine.begin() as connection:
        await connection.execute(
            sa.update(bench.JOBS_TABLE).where(bench.JOBS_TABLE.c.id == job.id).values(status="running", crashes=2)
        )
    dead = await place.reaches(job.id, Status.DEAD)
    assert dead.history[-1]["kind"] == "crash"
    assert await place.effects() == []


async def test_of_many_jobs_under_faults_each_is_done_or_dead_and_none_twice(
    place: Place, database_url: str, nats_server: NatsServer
) -> None:
    """Kills workers at random while jobs succeed, fail for a while, or fail for good: N in = N done + N dead."""
    victims = [await start_worker_process(database_url, nats_server.url) for _ in range(2)]
    kinds = ["good", "good", "flaky", "bad"]
    jobs = [await place.put(f"{kinds[number % 4]} {number}") for number in range(60)]
    for round_ in range(3):
        await eventually(done_at_least(place, 8 * (round_ + 1)))
        victim = victims[round_ % 2]
        os.kill(victim.pid, signal.SIGKILL)
        await victim.wait()
        victims[round_ % 2] = await start_worker_process(database_url, nats_server.url)

    async def all_over() -> bool:
        return all([(await place.job(job.id)).status in {Status.COMPLETED, Status.DEAD} for job in jobs])

    await eventually(all_over, within_s=40.0)
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
        await victim.wait()
    rows = [await place.job(job.id) for job in jobs]
    done = sorted(row.key for row in rows if row.status is Status.COMPLETED)
    dead = sorted(row.key for row in rows if row.status is Status.DEAD)
    assert dead == sorted(row.key for row in rows if row.key.startswith("bad"))
    assert sorted(await place.effects()) == done
    assert sorted(letter.about["key"] for letter in await place.buried(len(dead))) == dead
    assert len(done) + len(dead) == len(jobs)


async def start_worker_process(database_url: str, nats_url: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chassis.tests.bench", database_url, nats_url,
        stdout=asyncio.subprocess.DEVNULL, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def nothing_left(place: Place) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await place.messages_left() == 0

    return check


async def progress_is(place: Place, job_id: str, progress: float) -> bool:
    return (await place.job(job_id)).progress == progress


def done_at_least(place: Place, number: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return len(await place.effects()) >= number

    return check


async def truth(value: bool) -> bool:
    return value


async def test_the_broker_keeps_no_hidden_limit_on_deliveries(place: Place) -> None:
    place.work(good)
    job = await place.put("a")
    await place.reaches(job.id, Status.COMPLETED)
    config: ConsumerConfig = (await place.bus.js.consumer_info("JOBS", "sum")).config
    assert config.max_deliver == -1


@pytest.mark.parametrize("deleted", ["stream", "consumer"])
async def test_what_is_deleted_at_the_broker_by_hand_comes_back(place: Place, deleted: str) -> None:
    """Row 29 of the fault table."""
    place.work(good)
    first = await place.put("a")
    await place.reaches(first.id, Status.COMPLETED)
    if deleted == "stream":
        await place.bus.js.delete_stream("JOBS")
    else:
        await place.bus.js.delete_consumer("JOBS", "sum")
    second = await place.put("b")
    await place.reaches(second.id, Status.COMPLETED, within_s=30.0)


async def test_jobs_whose_messages_the_broker_has_lost_are_announced_again(place: Place) -> None:
    jobs = [await place.put(f"{number}") for number in range(5)]

    async def queued() -> bool:
        return await place.messages_left() == 5

    await eventually(queued)
    announce = partial(bench.QUEUE.announce_strays, kind="sum", older_s=0.0)
    assert await place.database.run("books", partial(announce, messages=5)) == 0
    await place.bus.js.purge_stream("JOBS")
    assert await place.database.run("books", partial(announce, messages=0)) == 5
    place.work(good)
    for job in jobs:
        await place.reaches(job.id, Status.COMPLETED)
    assert len(await place.effects()) == 5


async def test_the_urgent_are_begun_first(place: Place) -> None:
    async def one_by_one(run: Run) -> Effect:
        return bench.effect(run.job.key)

    urgencies = [Urgency.LOW, Urgency.NORMAL, Urgency.HIGH]
    jobs = [await place.put(f"{urgency} {number}", urgency=urgency) for urgency in urgencies for number in range(4)]

    async def queued() -> bool:
        return await place.messages_left() == 12

    await eventually(queued)
    place.work(one_by_one, replace(QUICK, concurrency=1))
    for job in jobs:
        await place.reaches(job.id, Status.COMPLETED)
    assert [key.split()[0] for key in await place.effects()] == ["high"] * 4 + ["normal"] * 4 + ["low"] * 4


async def test_a_job_that_waits_is_hurried_by_a_more_urgent_request(place: Place) -> None:
    waiting = await place.put("a", urgency=Urgency.LOW)
    assert (await place.put("a", urgency=Urgency.HIGH)).id == waiting.id
    assert (await place.put("a", urgency=Urgency.NORMAL)).urgency is Urgency.HIGH
    place.work(good)
    done = await place.reaches(waiting.id, Status.COMPLETED)
    await eventually(nothing_left(place))
    assert (done.starts, await place.effects()) == (1, ["a"])


async def test_a_job_is_not_begun_after_it_has_expired(place: Place) -> None:
    job = await place.put("a", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    place.work(good)
    assert (await place.reaches(job.id, Status.FAILED)).error == "It came too late."
    assert await place.effects() == []


async def test_a_cancelled_job_is_not_begun_and_a_running_one_is_stopped_without_effect(place: Place) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def endless(run: Run) -> Effect:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    async def cancel(job: Job) -> Job:
        return await place.database.run("cancel", partial(bench.QUEUE.cancel, job_id=job.id, owner_id="o"))

    waiting = await place.put("waiting")
    assert (await cancel(waiting)).status is Status.FAILED
    place.work(endless, replace(QUICK, deadline_s=60.0))
    running = await place.put("running")
    await begun.wait()
    cancelled = await cancel(running)
    assert (cancelled.status, cancelled.error) == (Status.FAILED, "Cancelled.")
    async with asyncio.timeout(10):
        await stopped.wait()
    await eventually(nothing_left(place))
    assert await place.effects() == []
    with pytest.raises(AppError) as caught:
        await cancel(running)
    assert caught.value.kind is Kind.CONFLICT
    for stranger in (partial(bench.QUEUE.cancel, job_id=running.id, owner_id="x"),
                     partial(bench.QUEUE.cancel, job_id="nothing", owner_id="o")):  # fmt: skip
        with pytest.raises(AppError) as caught:
            await place.database.run("cancel", stranger)
        assert caught.value.kind is Kind.NOT_FOUND


@pytest.mark.req("R-JOB-2")
async def test_a_letter_that_is_retried_begins_its_job_anew_once(place: Place) -> None:
    broken = True

    async def handler(run: Run) -> Effect:
        if broken:
            raise AppError(Kind.FORBIDDEN, "The key was refused.")
        return bench.effect(run.job.key)

    place.work(handler)
    job = await place.put("a")
    await place.reaches(job.id, Status.DEAD)
    [letter] = await place.buried()
    await place.letters.retry(letter, who="ada")  # nothing was mended: it dies again, and has a letter of its own

    async def another() -> bool:
        return [found.id for found in await place.dead_letters()] not in ([], [letter.id])

    await eventually(another)
    broken = False
    [second] = await place.dead_letters()
    for _ in range(2):  # as when the answer of the first was lost
        await place.letters.retry(second, who="ada")
    done = await place.reaches(job.id, Status.COMPLETED)
    await eventually(nothing_left(place))
    assert (done.attempts, len(done.history), await place.effects()) == (1, 2, ["a"])
    assert await place.dead_letters() == []
    await place.letters.retry(letter, who="ada")  # an old letter that somebody kept: the job is over
    await eventually(nothing_left(place))
    assert await place.effects() == ["a"]


@pytest.mark.req("R-JOB-2")
async def test_letters_are_listed_in_pages_found_by_id_and_discarded(place: Place) -> None:
    async def impossible(run: Run) -> Effect:
        raise AppError(Kind.FORBIDDEN, "No.")

    place.work(impossible, replace(QUICK, guard=GuardSettings(attempts_min=1000)))
    jobs = [await place.put(f"{number}") for number in range(7)]
    letters = await place.buried(7)
    assert {letter.about["job_id"] for letter in letters} == {job.id for job in jobs}
    pages: list[list[str]] = []
    after = 0
    while True:
        page, place_next = await place.letters.list(after=after, most=3)
        pages.append([one.id for one in page])
        if place_next is None:
            break
        after = place_next
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [one for page in pages for one in page] == [letter.id for letter in letters]
    assert (await place.letters.list(kind="other"))[0] == []
    found = await place.letters.get(letters[4].id)
    assert found == letters[4]
    for _ in range(2):
        await place.letters.discard(found, who="ada")
    with pytest.raises(AppError) as caught:
        await place.letters.get(found.id)
    assert caught.value.kind is Kind.NOT_FOUND
    assert await place.letters.count() == 6
    assert (await place.job(found.about["job_id"])).status is Status.DEAD


@pytest.mark.req("R-JOB-2")
async def test_all_letters_of_a_kind_are_retried_once_each(place: Place) -> None:
    broken = True

    async def handler(run: Run) -> Effect:
        if broken:
            raise AppError(Kind.FORBIDDEN, "No.")
        return bench.effect(run.job.key)

    place.work(handler, replace(QUICK, guard=GuardSettings(attempts_min=1000)))
    jobs = [await place.put(f"{number}") for number in range(12)]
    await place.buried(12)
    await place.bus.publish("dlq.strange", b"?", message_id="one")
    assert await place.letters.retry_all(kind="other", who="ada") == (0, 0)
    # Nothing is mended: each dies once more, and what dies meanwhile is not retried again.
    assert await place.letters.retry_all(who="ada") == (12, 1)

    async def dead_again() -> bool:
        return await place.letters.count() == 13

    await eventually(dead_again)
    broken = False
    assert await place.letters.retry_all(kind="sum", who="ada") == (12, 0)
    for job in jobs:
        await place.reaches(job.id, Status.COMPLETED)
    assert len(await place.effects()) == 12
    assert [letter.id for letter in await place.dead_letters()] == ["one"]


@pytest.mark.req("R-JOB-2")
async def test_what_others_put_among_the_dead_letters_is_shown_as_far_as_it_is_known(place: Place) -> None:
    await place.bus.publish("dlq.strange", b"\xff", message_id="one")
    [letter] = await place.dead_letters()
    assert (letter.id, letter.kind, letter.payload) == ("one", "strange", b"\xff")
    with pytest.raises(AppError) as caught:
        await place.letters.retry(letter, who="ada")
    assert caught.value.kind is Kind.CONFLICT
    await place.letters.discard(letter, who="ada")


async def test_when_nearly_all_jobs_fail_the_rest_waits_instead_of_dying(place: Place) -> None:
    broken = True

    async def handler(run: Run) -> Effect:
        if broken:
            raise KeyError
        return bench.effect(run.job.key)

    guard = GuardSettings(attempts=10, attempts_min=5, pause_s=1.0)
    place.work(handler, replace(QUICK, concurrency=1, guard=guard))
    jobs = [await place.put(f"{number}", attempts_max=1) for number in range(30)]
    await eventually(lambda: truth(REGISTRY.get_sample_value("jobs_paused", {"kind": "sum"}) == 1))
    broken = False
    for job in jobs[15:]:
        await place.reaches(job.id, Status.COMPLETED)
    statuses = Counter([(await place.job(job.id)).status for job in jobs])
    assert 5 <= statuses[Status.DEAD] <= 8  # without the guard all that were taken while it was broken
    assert REGISTRY.get_sample_value("jobs_paused", {"kind": "sum"}) == 0


def test_the_guard_pauses_tries_and_opens_by_how_attempts_go() -> None:
    now = 0.0
    guard = Guard(
        "k", GuardSettings(attempts=10, attempts_min=5, share=0.8, pause_s=30.0, pause_max_s=100.0), lambda: now
    )
    for well in (True, False, False, False, False):
        guard.went(well=well)
    assert guard.admits(4) == 4  # four of five is not more than 0.8
    guard.went(well=False)
    assert guard.admits(4) == 0
    guard.went(well=True)  # one that had begun before says nothing
    assert guard.admits(4) == 0
    now = 31.0
    assert guard.admits(4) == 1
    guard.went(well=False)
    assert guard.admits(4) == 0
    now = 90.0
    assert guard.admits(4) == 0
    now = 92.0
    assert guard.admits(4) == 1
    guard.went(well=True)
    assert (guard.is_open, guard.admits(4)) == (True, 4)
