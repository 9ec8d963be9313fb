"""Jobs as a state machine, driven at random on the real tables: any number of hands, most of them too late.

A hand holds what it was given when it began, however long ago: workers die, freeze and come back. Whatever they do in
whatever order, a job has its effect at most once, and exactly once if it is completed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from chassis.errors import AppError, Kind
from chassis.jobs import LIVE, Job, Status, Superseded
from chassis.tests import bench
from chassis.tests.servers import PostgresServer

pytestmark = [pytest.mark.req("R-JOB-1"), pytest.mark.req("R-JOB-2")]

KIND, OWNER, ATTEMPTS_MAX = "sum", "o", 3
KEYS = st.sampled_from("abc")


@dataclass
class Known:
    """What the model knows of a job. `start` is the one that may still change it; 0: none."""

    key: str
    status: Status = Status.PENDING
    attempts: int = 0
    starts: int = 0
    crashes: int = 0
    start: int = 0
    letters: list[str] = field(default_factory=list)
    revivable: bool = False

    @property
    def live(self) -> bool:
        return self.status in LIVE


class JobsMachine(RuleBasedStateMachine):
    """The queue beside a model of it in memory."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    engine: ClassVar[AsyncEngine]

    jobs = Bundle("jobs")
    hands = Bundle("hands")

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Known] = {}
        self.effects: Counter[str] = Counter()

    def do(self, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
        async def transaction() -> Any:
            async with self.engine.begin() as connection:
                return await work(connection)

        return self.loop.run_until_complete(transaction())

    @initialize()
    def empty(self) -> None:
        self.do(lambda c: c.execute(sa.text("TRUNCATE jobs, outbox, effects")))

    @rule(target=jobs, key=KEYS)
    def ask(self, key: str) -> str:
        job: Job = self.do(
            lambda c: bench.QUEUE.put(c, KIND, key, owner_id=OWNER, payload=b"{}", attempts_max=ATTEMPTS_MAX)
        )
        waiting = [
            job_id for job_id, one in self.known.items()
            if one.key == key and one.status in {Status.PENDING, Status.RETRY}
        ]  # fmt: skip
        if waiting:
            assert job.id in waiting
        else:
            assert job.id not in self.known
            self.known[job.id] = Known(key)
        return job.id

    @rule(target=hands, job_id=jobs, letter=st.sampled_from(["none", "newest", "oldest", "another"]))
    def begin(self, job_id: str, letter: str) -> Any:
        one = self.known.get(job_id)
        letters = one.letters if one else []
        sent_back = {"none": "", "another": "x"}.get(letter) if letter in {"none", "another"} else ""
        if letters and letter in {"newest", "oldest"}:
            sent_back = letters[-1] if letter == "newest" else letters[0]
        job: Job | None = self.do(lambda c: bench.QUEUE.begin(c, job_id=job_id, letter_id=sent_back or ""))
        if one is None:
            assert job is None
            return multiple()
        assert job is not None
        revived = one.status is Status.DEAD and one.revivable and sent_back == letters[-1]
        if not (one.live or revived):
            assert job.status is one.status
            return multiple()
        if revived:
            one.attempts, one.crashes = 1, 0
        elif one.status is Status.RUNNING:
            one.crashes += 1
        else:
            one.attempts += 1
        one.status, one.starts, one.revivable = Status.RUNNING, one.starts + 1, False
        one.start = one.starts
        assert (job.status, job.attempts, job.starts, job.crashes) == (
            Status.RUNNING, one.attempts, one.starts, one.crashes,
        )  # fmt: skip
        return job

    def as_hand(self, job: Job, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Known | None:
        """Do something as the hand of a start; None, and nothing done, if the job is not its any more."""
        one = self.known.get(job.id)
        mine = one is not None and one.status is Status.RUNNING and one.start == job.starts
        try:
            self.do(work)
        except Superseded:
            assert not mine
            return None
        assert mine
        return one

    @rule(job=consumes(hands), fails=st.booleans())
    def complete(self, job: Job, fails: bool) -> None:
        async def work(connection: AsyncConnection) -> None:
            await bench.QUEUE.update(connection, job, status=Status.COMPLETED, progress=1.0)
            await bench.effect(job.id)(connection)
            if fails:
                raise ZeroDivisionError

        try:
            one = self.as_hand(job, work)
        except ZeroDivisionError:
            return  # rolled back: nothing has happened
        if one is not None:
            one.status = Status.COMPLETED
            self.effects[job.id] += 1

    @rule(job=hands)
    def fail(self, job: Job) -> None:
        if job.last_attempt:
            one = self.as_hand(job, lambda c: bench.QUEUE.bury(c, job, error="x", history=[]))
            if one is not None:
                dead: Job = self.do(lambda c: bench.QUEUE.get(c, job.id))
                assert dead.letter_id is not None
                assert dead.letter_id not in one.letters
                one.letters.append(dead.letter_id)
                one.status, one.revivable = Status.DEAD, True
        else:
            one = self.as_hand(job, lambda c: bench.QUEUE.update(c, job, status=Status.RETRY, error="x"))
            if one is not None:
                one.status = Status.RETRY

    @rule(job=hands)
    def release(self, job: Job) -> None:
        change = {"status": Status.PENDING, "attempts": job.attempts - 1}
        one = self.as_hand(job, lambda c: bench.QUEUE.update(c, job, **change))
        if one is not None:
            one.status, one.attempts = Status.PENDING, one.attempts - 1

    @rule(job=hands)
    def beat(self, job: Job) -> None:
        self.as_hand(job, lambda c: bench.QUEUE.beat(c, job))

    @rule(job_id=jobs, owner=st.sampled_from([OWNER, "another"]))
    def cancel(self, job_id: str, owner: str) -> None:
        one = self.known.get(job_id)
        wanted = Kind.NOT_FOUND if one is None or owner != OWNER else None if one.live else Kind.CONFLICT
        try:
            self.do(lambda c: bench.QUEUE.cancel(c, job_id, owner))
        except AppError as fault:
            assert fault.kind is wanted
            return
        assert wanted is None
        assert one is not None
        one.status = Status.FAILED

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.do(lambda c: bench.QUEUE.forget(c, KIND, key))
        self.known = {job_id: one for job_id, one in self.known.items() if one.key != key}

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        async def look(connection: AsyncConnection) -> tuple[dict[str, Any], list[str], int]:
            t = bench.JOBS_TABLE.c
            rows = await connection.execute(sa.select(t.id, t.key, t.status, t.attempts, t.starts, t.crashes))
            letters = sa.select(sa.func.count()).where(bench.OUTBOX.c.subject.like("dlq.%"))
            told = int((await connection.execute(letters)).scalar_one())
            return {row.id: tuple(row[1:]) for row in rows}, await bench.effects(connection), told

        rows, effects, letters = self.do(look)
        assert rows == {
            job_id: (one.key, one.status, one.attempts, one.starts, one.crashes) for job_id, one in self.known.items()
        }
        assert Counter(effects) == self.effects
        assert max(self.effects.values(), default=0) <= 1
        for job_id, one in self.known.items():
            assert self.effects[job_id] == (one.status is Status.COMPLETED)
        assert letters >= sum(len(one.letters) for one in self.known.values())


def test_whatever_hands_do_in_whatever_order_a_job_has_its_effect_once(postgres_server: PostgresServer) -> None:
    loop = asyncio.new_event_loop()
    engine = create_async_engine(postgres_server.create_database())

    async def make() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(bench.METADATA.create_all)

    loop.run_until_complete(make())
    JobsMachine.loop, JobsMachine.engine = loop, engine
    try:
        run_state_machine_as_test(
            JobsMachine,
            settings=settings(
                max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
    finally:
        loop.run_until_complete(engine.dispose())
        loop.close()
