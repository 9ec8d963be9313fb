"""The worker of one kind of background job: attempts with pauses between, heartbeats, dead letters.

Rows and states are in `chassis.jobs`. A worker that is killed costs a redelivery, nothing else.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
from nats.aio.msg import Msg
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, ids, telemetry, tracing
from chassis.dead_letters import LETTER_HEADER
from chassis.errors import AppError
from chassis.jobs import Busy, Job, Queue, Status, Superseded, told
from chassis.lines import Lines
from chassis.poison import Guard, GuardSettings
from chassis.postgres import Database

log = telemetry.logger(__name__)

RUNNING = Gauge("jobs_running", "Jobs that this process works on.", ["kind"])
ATTEMPTS = Counter("jobs_attempts_total", "Attempts by how they ended.", ["kind", "result"])
DURATION = Histogram(
    "jobs_attempt_duration_seconds", "Time of an attempt.", ["kind"], buckets=(0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 300)
)
DEAD_LETTERS = Counter("jobs_dead_lettered_total", "Jobs given up and put among the dead letters.", ["kind"])
QUEUED = Gauge("jobs_queued", "Messages of the kind at the broker, those being worked on included.", ["kind"])
OLDEST = Gauge("jobs_oldest_pending_seconds", "Age of the oldest job that was never begun.", ["kind"])
STRAYS = Counter("jobs_announced_again_total", "Jobs whose message the broker had lost.", ["kind"])

_RETRY_AFTER_MAX_S = 300.0
_RELEASE_S = 3.0
_BOOKS_S = 30.0
_STRAY_S = 120.0


class Refused(Exception):
    """What was asked cannot be done and no retry or operator would help. The message is safe to show to anybody."""


class Postponed(Exception):
    """It could not be tried properly, through no fault of its own: counts as no attempt, to be done in `after_s`."""

    def __init__(self, after_s: float) -> None:
        super().__init__(after_s)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Policy:
    """How a worker treats the jobs of its kind. `delays_s` are those before the second, third, … attempt."""

    delays_s: tuple[float, ...] = (5.0, 10.0)
    jitter: float = 0.2
    deadline_s: float = 300.0
    concurrency: int = 4
    ack_wait_s: float = 30.0
    crashes_max: int = 5
    undecided_delay_s: float = 5.0  # when the database or the broker is away, which counts as no attempt
    guard: GuardSettings = field(default_factory=GuardSettings)

    def delay_s(self, attempts: int, chance: float) -> float:
        """Return the seconds to wait after `attempts` failed; `chance` in [0, 1) says how much jitter is added."""
        delay = self.delays_s[min(attempts, len(self.delays_s)) - 1]
        return delay * (1.0 + self.jitter * chance)

    @property
    def lease_s(self) -> float:
        """For how long a worker counts as alive after a heartbeat: less than until the broker delivers again."""
        return self.ack_wait_s * 0.8


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt, as the handler sees it."""

    job: Job
    report: Callable[[float], Awaitable[None]]  # progress, 0 to 1; raises Superseded


Effect = Callable[[AsyncConnection], Awaitable[None]]
# Does the slow part and returns what is to be committed together with the job's completion.
Handler = Callable[[Run], Awaitable[Effect]]


class Worker:
    """Works on the jobs of one kind, `policy.concurrency` at a time. Any number of processes may."""

    def __init__(
        self, kind: str, handler: Handler, *, database: Database, queue: Queue, broker: bus.Bus, policy: Policy
    ) -> None:
        self._kind = kind
        self._handler = handler
        self._database = database
        self._queue = queue
        self._lines = Lines(broker, kind, ack_wait_s=policy.ack_wait_s)
        self._policy = policy
        self._guard = Guard(kind, policy.guard)
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._hands: set[asyncio.Task[None]] = set()
        DEAD_LETTERS.labels(kind)
        STRAYS.labels(kind)

    async def run(self) -> None:
        """Work until `drain` is called."""
        async with asyncio.TaskGroup() as tasks:
            books = tasks.create_task(self._keep_books())
            try:
                await self._lines.run(self._room, partial(self._begin, tasks), self._stopping)
                if self._hands:
                    await asyncio.wait(self._hands)
            finally:
                self._stopped.set()
                books.cancel()

    async def drain(self, grace_s: float) -> None:
        """Begin nothing more, give what is under way `grace_s`, then hand it back to be begun elsewhere."""
        self._stopping.set()
        if self._hands:
            _, late = await asyncio.wait(self._hands, timeout=grace_s)
            for hand in late:
                hand.cancel()
            if late:
                await asyncio.wait(late, timeout=2 * _RELEASE_S)

    def _room(self) -> int:
        """Return how many jobs more may be begun now."""
        return self._guard.admits(self._policy.concurrency) - len(self._hands)

    def _begin(self, tasks: asyncio.TaskGroup, message: Msg) -> asyncio.Task[None]:
        hand = tasks.create_task(self._take(message))
        self._hands.add(hand)
        hand.add_done_callback(self._hands.discard)
        return hand

    async def _take(self, message: Msg) -> None:
        job_id, headers = _job_id(message), message.headers or {}
        request = ids.accept_request_id(headers.get("x-request-id"))
        traced = tracing.serve(
            f"job {self._kind}", headers, kind=tracing.SpanKind.CONSUMER, job_id=job_id, destination="jobs"
        )
        with traced, telemetry.bound(request, job_id=job_id, job_kind=self._kind):
            try:
                async with bus.kept_alive([message], self._policy.ack_wait_s / 3):
                    delay_s = await self._process(job_id, headers.get(LETTER_HEADER, ""))
            except Superseded:
                log.info("superseded")  # the message is the business of whoever came after us
            except Busy:
                # Should its worker die, this message wakes the next one.
                await bus.quietly(message.nak(delay=self._policy.ack_wait_s))
            except AppError as fault:
                # The database or the broker is away: nothing was decided, nothing is counted.
                log.warning("job undecided", fault=str(fault))
                await bus.quietly(message.nak(delay=self._policy.undecided_delay_s))
            except asyncio.CancelledError:
                await bus.quietly(message.nak())
                raise
            else:
                await bus.quietly(message.ack_sync(2.0) if delay_s is None else message.nak(delay=delay_s))

    async def _process(self, job_id: str, letter_id: str) -> float | None:
        """Make one attempt, or see that none is needed. Return the seconds until the next; None: done with it."""
        begin = partial(self._queue.begin, job_id=job_id, lease_s=self._policy.lease_s, letter_id=letter_id)
        job = await self._database.run("job start", begin)
        if job is None or job.status is not Status.RUNNING:
            ATTEMPTS.labels(self._kind, "needless").inc()
            return None
        if job.crashes > self._policy.crashes_max:
            return await self._failed(job, "crash", "Its worker died each time.", True, 0.0)
        began = time.monotonic()
        try:
            with RUNNING.labels(self._kind).track_inprogress():
                return await self._attempt(job)
        finally:
            DURATION.labels(self._kind).observe(time.monotonic() - began, tracing.exemplar())

    async def _attempt(self, job: Job) -> float | None:
        async def report(progress: float) -> None:
            await self._change("job progress", job, progress=progress)

        async def complete(effect: Effect, connection: AsyncConnection) -> None:
            await self._queue.update(connection, job, status=Status.COMPLETED, progress=1.0, error="")
            await effect(connection)

        hint_s = 0.0
        permanent = False
        try:
            async with asyncio.timeout(self._policy.deadline_s) as limit, self._beating(job, limit):
                effect = await self._handler(Run(job, report))
            await self._database.run("job complete", partial(complete, effect))
            ATTEMPTS.labels(self._kind, "completed").inc()
            self._guard.went(well=True)
            return None
        except Superseded:
            ATTEMPTS.labels(self._kind, "superseded").inc()
            raise
        except Refused as refusal:
            history = told(job, "refused", str(refusal))
            await self._change("job refused", job, status=Status.FAILED, error=str(refusal), history=history)
            ATTEMPTS.labels(self._kind, "failed").inc()
            self._guard.went(well=True)
            return None
        except Postponed as postponement:
            await self._release(job)
            ATTEMPTS.labels(self._kind, "postponed").inc()
            return min(postponement.after_s, _RETRY_AFTER_MAX_S)
        except asyncio.CancelledError:
            await self._release(job)
            raise
        except AppError as fault:
            kind, error = fault.kind.value, fault.message
            permanent = not fault.codes.retryable
            hint_s = min(fault.retry_after_s or 0.0, _RETRY_AFTER_MAX_S)
            log.warning("attempt failed", attempt=job.attempts, fault=str(fault))
        except TimeoutError:
            kind, error = "deadline", "It took too long."
            log.warning("attempt failed", attempt=job.attempts, fault="deadline")
        except Exception as fault:
            kind, error = "bug", "Something went wrong on our side."
            log.exception("attempt failed", attempt=job.attempts, fault=type(fault).__name__)
        return await self._failed(job, kind, error, permanent, hint_s)

    async def _failed(self, job: Job, kind: str, error: str, permanent: bool, hint_s: float) -> float | None:
        self._guard.went(well=False)
        history = told(job, kind, error)
        if permanent or job.last_attempt:
            bury = partial(self._queue.bury, job=job, error=error, history=history)
            await self._database.run("job dead", bury)
            ATTEMPTS.labels(self._kind, Status.DEAD.value).inc()
            DEAD_LETTERS.labels(self._kind).inc()
            log.error("job dead", attempts=job.attempts, fault=error)
            return None
        await self._change("job failed", job, status=Status.RETRY, error=error, history=history)
        ATTEMPTS.labels(self._kind, Status.RETRY.value).inc()
        return max(hint_s, self._policy.delay_s(job.attempts, random.random()))

    async def _release(self, job: Job) -> None:
        """Take back the start of an attempt that the end of this process cuts short."""
        try:
            async with asyncio.timeout(_RELEASE_S):
                await self._change("job release", job, status=Status.PENDING, attempts=job.attempts - 1)
        except (AppError, Superseded, TimeoutError) as fault:
            log.warning("job not released, it will count as a crash", fault=repr(fault))

    async def _change(self, name: str, job: Job, **values: Any) -> Job:
        return await self._database.run(name, lambda connection: self._queue.update(connection, job, **values))

    @asynccontextmanager
    async def _beating(self, job: Job, limit: asyncio.Timeout) -> AsyncIterator[None]:
        """Note inside that we are alive. Ends the attempt with Superseded when the job is not ours any more."""
        superseded = False

        async def beat() -> None:
            nonlocal superseded
            while True:
                await asyncio.sleep(self._policy.ack_wait_s / 3)
                try:
                    await self._database.run("job beat", lambda connection: self._queue.beat(connection, job))
                except Superseded:
                    superseded = True
                    limit.reschedule(asyncio.get_running_loop().time())
                    return
                except AppError as fault:
                    log.warning("heartbeat lost", fault=str(fault))

        heart = asyncio.create_task(beat())
        try:
            yield
        except asyncio.CancelledError:
            if superseded:
                raise Superseded from None
            raise
        finally:
            heart.cancel()

    async def _keep_books(self) -> None:
        """Measure the kind's queue now and then, and announce again what the broker has lost."""
        while True:
            await asyncio.sleep(_BOOKS_S * random.uniform(0.8, 1.2))
            try:
                messages = await self._lines.queued()
                QUEUED.labels(self._kind).set(messages)
                announce = partial(self._queue.announce_strays, kind=self._kind, messages=messages, older_s=_STRAY_S)
                if strays := await self._database.run("jobs strays", announce):
                    STRAYS.labels(self._kind).inc(strays)
                    log.error("jobs without a message, announced again", job_kind=self._kind, jobs=strays)
                oldest = partial(self._queue.oldest_waiting_s, kind=self._kind)
                OLDEST.labels(self._kind).set(await self._database.run("jobs oldest", oldest))
            except (AppError, *bus.FAULTS) as fault:
                log.warning("books not kept", fault=str(fault))


def _job_id(message: Msg) -> str:
    """Return the id of the message's job. For a message that is not ours, one that no row has."""
    try:
        return str(orjson.loads(message.data)["job_id"])
    except (orjson.JSONDecodeError, TypeError, KeyError):
        log.exception("not a job", subject=message.subject)
        return ""
