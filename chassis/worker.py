"""The worker of one kind of background job: attempts with pauses between, a heartbeat, dead letters.

Rows and states are in `chassis.jobs`. A worker that is killed costs a redelivery, nothing else.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
from nats.aio.msg import Msg
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, ids, telemetry
from chassis.errors import AppError
from chassis.jobs import JOBS, Job, Queue, Status, Superseded
from chassis.postgres import Database

log = telemetry.logger(__name__)

RUNNING = Gauge("jobs_running", "Jobs that this process works on.", ["kind"])
ATTEMPTS = Counter("jobs_attempts_total", "Attempts by how they ended.", ["kind", "result"])
DURATION = Histogram(
    "jobs_attempt_duration_seconds", "Time of an attempt.", ["kind"], buckets=(0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 300)
)
DEAD_LETTERS = Counter("jobs_dead_lettered_total", "Jobs given up and put among the dead letters.", ["kind"])

# Jobs that wait for their next attempt count as unacknowledged at the broker. Were the limit the number of workers,
# a handful of failing jobs would keep all others waiting; a worker takes no more than it has hands for anyway.
_UNACKNOWLEDGED_MAX = 1000
_RETRY_AFTER_MAX_S = 300.0
_RELEASE_S = 3.0


class Refused(Exception):
    """What was asked cannot be done and no retry or operator would help. The message is safe to show to anybody."""


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

    def delay_s(self, attempts: int, chance: float) -> float:
        """Return the seconds to wait after `attempts` failed; `chance` in [0, 1) says how much jitter is added."""
        delay = self.delays_s[min(attempts, len(self.delays_s)) - 1]
        return delay * (1.0 + self.jitter * chance)


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
        self._bus = broker
        self._policy = policy
        self._stopping = asyncio.Event()
        self._hands: list[asyncio.Task[None]] = []
        DEAD_LETTERS.labels(kind)

    async def run(self) -> None:
        """Work until `drain` is called."""
        async with asyncio.TaskGroup() as tasks:
            self._hands = [tasks.create_task(self._hand()) for _ in range(self._policy.concurrency)]

    async def drain(self, grace_s: float) -> None:
        """Begin nothing more, give what is under way `grace_s`, then hand it back to be begun elsewhere."""
        self._stopping.set()
        if self._hands:
            _, late = await asyncio.wait(self._hands, timeout=grace_s)
            for hand in late:
                hand.cancel()
            if late:
                await asyncio.wait(late, timeout=2 * _RELEASE_S)

    async def _hand(self) -> None:
        deliveries = self._bus.pull(
            stream=JOBS.name,
            durable=self._kind,
            subject=f"jobs.{self._kind}",
            batch=1,
            ack_wait_s=self._policy.ack_wait_s,
            unacknowledged_max=_UNACKNOWLEDGED_MAX,
        )
        async with aclosing(deliveries):
            async for messages in deliveries:
                for message in messages:
                    if self._stopping.is_set():
                        await bus.quietly(message.nak())
                    else:
                        await self._take(message)
                if self._stopping.is_set():
                    return

    async def _take(self, message: Msg) -> None:
        job_id = _job_id(message)
        request = ids.accept_request_id((message.headers or {}).get("x-request-id"))
        with telemetry.bound(request, job_id=job_id, job_kind=self._kind):
            try:
                async with bus.kept_alive(message, self._policy.ack_wait_s / 3):
                    delay_s = await self._process(job_id)
            except Superseded:
                log.info("superseded")  # the message is the business of whoever came after us
            except AppError as fault:
                # The database or the broker is away: nothing was decided, nothing is counted.
                log.warning("job undecided", fault=str(fault))
                await bus.quietly(message.nak(delay=self._policy.undecided_delay_s))
            except asyncio.CancelledError:
                await bus.quietly(message.nak())
                raise
            else:
                await bus.quietly(message.ack_sync(2.0) if delay_s is None else message.nak(delay=delay_s))

    async def _process(self, job_id: str) -> float | None:
        """Make one attempt, or see that none is needed. Return the seconds until the next; None: done with it."""
        job = await self._database.run("job start", partial(self._queue.begin, job_id=job_id))
        if job is None or job.status in {Status.COMPLETED, Status.FAILED}:
            ATTEMPTS.labels(self._kind, "needless").inc()
            return None
        if job.status is Status.DEAD:
            await self._bury(job)
            return None
        if job.crashes > self._policy.crashes_max:
            return await self._failed(job, "crash", "Its worker died each time.", True, 0.0)
        with RUNNING.labels(self._kind).track_inprogress(), DURATION.labels(self._kind).time():
            return await self._attempt(job)

    async def _attempt(self, job: Job) -> float | None:
        async def report(progress: float) -> None:
            await self._change("job progress", job, progress=progress)

        async def complete(effect: Effect, connection: AsyncConnection) -> None:
            await self._queue.update(connection, job, status=Status.COMPLETED, progress=1.0, error="")
            await effect(connection)

        hint_s = 0.0
        permanent = False
        try:
            async with asyncio.timeout(self._policy.deadline_s):
                effect = await self._handler(Run(job, report))
            await self._database.run("job complete", partial(complete, effect))
            ATTEMPTS.labels(self._kind, "completed").inc()
            return None
        except Superseded:
            ATTEMPTS.labels(self._kind, "superseded").inc()
            raise
        except Refused as refusal:
            history = _told(job, "refused", str(refusal))
            await self._change("job refused", job, status=Status.FAILED, error=str(refusal), history=history)
            ATTEMPTS.labels(self._kind, "failed").inc()
            return None
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
        except Exception as fault:  # noqa: BLE001 - the edge of the task: a bug in one job must not stop the others
            kind, error = "bug", "Something went wrong on our side."
            # Where, but not the exception's message: it may repeat what the job is about.
            trace = "".join(traceback.format_tb(fault.__traceback__))
            where = {"fault": type(fault).__name__, "trace": trace}
            log.error("attempt failed", attempt=job.attempts, **where)  # noqa: TRY400
        return await self._failed(job, kind, error, permanent, hint_s)

    async def _failed(self, job: Job, kind: str, error: str, permanent: bool, hint_s: float) -> float | None:
        dead = permanent or job.last_attempt
        status = Status.DEAD if dead else Status.RETRY
        job = await self._change("job failed", job, status=status, error=error, history=_told(job, kind, error))
        ATTEMPTS.labels(self._kind, status.value).inc()
        if not dead:
            return max(hint_s, self._policy.delay_s(job.attempts, random.random()))
        await self._bury(job)
        return None

    async def _release(self, job: Job) -> None:
        """Take back the start of an attempt that the end of this process cuts short."""
        try:
            async with asyncio.timeout(_RELEASE_S):
                await self._change("job release", job, status=Status.PENDING, attempts=job.attempts - 1)
        except (AppError, Superseded, TimeoutError) as fault:
            log.warning("job not released, it will count as a crash", fault=repr(fault))

    async def _change(self, name: str, job: Job, **values: Any) -> Job:
        return await self._database.run(name, lambda connection: self._queue.update(connection, job, **values))

    async def _bury(self, job: Job) -> None:
        """Put the job among the dead letters. Until the broker has it the message stays, so it cannot get lost."""
        letter = {"job_id": job.id, "kind": job.kind, "key": job.key, "owner_id": job.owner_id,
                  "payload": job.payload.hex(), "attempts": job.attempts, "error": job.error, "history": job.history,
                  "created_at": job.created_at}  # fmt: skip
        letter_id = ids.derived_id(job.id, "dead", job.starts)
        await self._bus.publish(f"dlq.{job.kind}", orjson.dumps(letter), message_id=letter_id)
        DEAD_LETTERS.labels(job.kind).inc()
        log.error("job dead", attempts=job.attempts, fault=job.error)


def _told(job: Job, kind: str, error: str) -> list[dict[str, Any]]:
    told = {"attempt": job.attempts, "at": datetime.now(UTC).isoformat(), "kind": kind, "error": error}
    return [*job.history, told]


def _job_id(message: Msg) -> str:
    """Return the id of the message's job. For a message that is not ours, one that no row has."""
    try:
        return str(orjson.loads(message.data)["job_id"])
    except (orjson.JSONDecodeError, TypeError, KeyError):
        log.exception("not a job", subject=message.subject)
        return ""
