"""Postgres: every unit of work is a transaction that ends, is run again where that is safe, and happens once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar, cast

import psycopg
import sqlalchemy as sa
from prometheus_client import Counter, Histogram
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from chassis import ids, telemetry, tracing
from chassis.controls import Controls
from chassis.errors import AppError, Kind
from chassis.pool import DEVELOPMENT, PRODUCTION, Address, Limits, Pool, operation

log = telemetry.logger(__name__)

RETRIES = Counter("db_transaction_retries_total", "Transactions begun again.", ["reason"])
UNKNOWN = Counter("db_commits_unknown_total", "Commits whose answer was lost, by what became of them.", ["outcome"])
OPERATIONS = Histogram(
    "db_client_operation_duration_seconds", "Time of a transaction, once it has its connection.",
    ["db_operation_name"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)  # fmt: skip

# Serialization failure, deadlock: the server has rolled back and the whole transaction may be run again.
_AGAIN = {"40001": "serialization", "40P01": "deadlock"}
# The server is going away, or takes no writes (a standby, or a primary that is one no more).
_GONE = frozenset({"57P01", "57P02", "57P03", "25006", "08006", "08003", "08000", "08001", "08004", "53300"})
_ATTEMPTS = 3
# How long the fate of a commit is asked after, when its answer was lost.
_SETTLE_S = 5.0
# Ids of transactions that must not happen twice are kept as one more consumer of the inbox.
_REMEMBER = sa.text(
    "INSERT INTO inbox (consumer, message_id) VALUES ('commits', :id) ON CONFLICT DO NOTHING RETURNING message_id"
)

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]


class _Lost(Exception):
    """The transaction did not happen, for a reason that may be over in a moment."""

    def __init__(self, reason: str, error: AppError, *, counted: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error
        self.counted = counted  # at most a few times, not as long as there is time


class _Unknown(Exception):
    """COMMIT was sent and not answered: the transaction has happened, or not."""


@dataclass(slots=True)
class _Unit(Generic[T]):
    """One unit of work through all its attempts. `result` is what the attempt returned whose fate is unknown."""

    name: str
    work: Work[T]
    commit_id: str
    asked: bool = False
    result: T | None = None


class Database:
    """The database of one service. Every unit of work is a transaction of `run` or `once`."""

    def __init__(self, pool: Pool, wait_s: float) -> None:
        self.pool = pool
        self._wait_s = wait_s

    @property
    def engine(self) -> AsyncEngine:
        return self.pool.engine

    def patient(self) -> Database:
        """Return the same database for work that nobody waits for: it waits long for what a call is refused."""
        return Database(self.pool, self.pool.limits.patience_s)

    async def run(self, name: str, work: Work[T]) -> T:
        """Run `work` in a transaction and commit it; any exception rolls back.

        It is run again after a serialization failure, a deadlock or a connection that was lost before COMMIT, so `work`
        must have no effect outside the transaction. A lost answer to COMMIT is AppError(UNAVAILABLE): it may have
        happened, so this is for reading, and for writes that whoever repeats them finds done.

        Raises AppError(UNAVAILABLE) when the database or a connection cannot be had in time, AppError(TIMEOUT) when a
        statement took too long.
        """
        return await self._settled(_Unit(name, work, ""))

    async def once(self, name: str, work: Work[T]) -> T:
        """Do as `run`, and happen once also when the answer to COMMIT is lost.

        The transaction leaves an id in the inbox, by which the next connection sees whether it happened. AppError
        (UNAVAILABLE) then means that nobody could be asked within five seconds.
        """
        return await self._settled(_Unit(name, work, ids.new_id()))

    async def _settled(self, unit: _Unit[T]) -> T:
        until = time.monotonic() + self._wait_s
        attempts = 0
        while True:
            first_time = not unit.asked
            try:
                return await self._attempt(unit)
            except _Unknown as unknown:
                log.warning("commit unknown", operation=unit.name)
                if first_time:
                    until = max(until, time.monotonic() + _SETTLE_S)
                if not unit.commit_id or time.monotonic() >= until:
                    UNKNOWN.labels("unresolved").inc()
                    raise _away(unit.name, "the answer to COMMIT was lost") from unknown
                reason = "commit unknown"
            except _Lost as lost:
                attempts += lost.counted
                if attempts >= _ATTEMPTS or (not lost.counted and time.monotonic() >= until):
                    if unit.asked:
                        UNKNOWN.labels("unresolved").inc()
                    raise lost.error from lost.__cause__
                reason = lost.reason
            RETRIES.labels(reason).inc()
            await asyncio.sleep(random.uniform(0.0, 0.1 * 2 ** min(attempts, 3)))

    async def _attempt(self, unit: _Unit[T]) -> T:
        limits = self.pool.limits
        token = operation.set(unit.name)
        try:
            # The span has the wait for a connection in it, the histogram has not.
            with tracing.step(unit.name, database="postgresql", operation=unit.name):
                async with self.pool.place(self._wait_s):
                    with OPERATIONS.labels(unit.name).time():
                        async with asyncio.timeout(limits.transaction_s):
                            return await self._transaction(unit)
        except TimeoutError as fault:
            if unit.asked:
                raise _Unknown from fault
            raise _away(unit.name, "took too long in all") from fault
        finally:
            operation.reset(token)

    async def _transaction(self, unit: _Unit[T]) -> T:
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self.engine.connect())
            except (sa.exc.DBAPIError, sa.exc.InvalidRequestError, psycopg.Error, OSError) as fault:
                raise _Lost("away", _away(unit.name, repr(fault)), counted=False) from fault
            try:
                await self._tell_limits(connection)
                if unit.commit_id and not await self._is_new(connection, unit):
                    return cast(T, unit.result)  # of the attempt that happened
                result = await unit.work(connection)
            except sa.exc.DBAPIError as fault:
                await self._judge(connection, unit.name, fault)
            unit.result, unit.asked = result, True
            await self._commit(connection, unit)
            return result

    async def _tell_limits(self, connection: AsyncConnection) -> None:
        if self.pool.address.pooled:
            # The session belongs to PgBouncer: limits hold for this transaction only.
            settings = self.pool.limits.server_settings()
            calls = [sa.func.set_config(name, str(value), True) for name, value in settings.items()]
            await connection.execute(sa.select(*calls))

    async def _is_new(self, connection: AsyncConnection, unit: _Unit[T]) -> bool:
        # An attempt whose fate is unknown may be under way still: the insert waits until it is over.
        noted = (await connection.execute(_REMEMBER, {"id": unit.commit_id})).first() is not None
        if unit.asked:
            UNKNOWN.labels("rolled_back" if noted else "committed").inc()
            unit.asked = False
        return noted

    async def _judge(self, connection: AsyncConnection, name: str, fault: sa.exc.DBAPIError) -> NoReturn:
        """Raise what a failure before COMMIT means: that nothing has happened, and whether it may be tried again."""
        state = getattr(fault.orig, "sqlstate", None)
        if state in _AGAIN:
            raise _Lost(_AGAIN[state], _away(name, _AGAIN[state]), counted=True) from fault
        if _is_gone(fault):
            # One that takes no writes is still open, and would be handed out again.
            await connection.invalidate()
            raise _Lost("lost", _away(name, repr(fault.orig)), counted=True) from fault
        raise _as_app_error(name, fault) from fault

    async def _commit(self, connection: AsyncConnection, unit: _Unit[T]) -> None:
        try:
            await connection.commit()
        except sa.exc.DBAPIError as fault:
            if _is_gone(fault):
                raise _Unknown from fault
            unit.asked = False  # the server said no, as it does when a deferred constraint fails
            await self._judge(connection, unit.name, fault)

    async def ping(self) -> None:
        """Make a round trip; raises if there is none. A pool that is full is busy, not gone."""
        try:
            async with self.pool.place(0.5), self.engine.connect() as connection:
                await connection.execute(sa.text("select 1"))
        except AppError:
            if not self.pool.full:
                raise

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """Open a connection outside of the pool, one session of the server: to listen on, to hold a lock by."""
        async with await self.pool.address.connect_directly(self.pool.limits) as connection:
            yield connection

    async def notified(self, channel: str, poll_s: float) -> AsyncIterator[None]:
        """Yield after each NOTIFY on the channel, and at least every `poll_s` seconds. Survives a lost connection."""
        while True:
            try:
                async with self.dedicated() as connection:
                    await connection.execute(f"LISTEN {channel}")  # a constant of the caller
                    yield
                    while True:
                        # One notification is enough to wake; more that wait are one wake-up.
                        async for _ in connection.notifies(timeout=poll_s, stop_after=1):
                            pass
                        yield
            except (psycopg.Error, OSError) as fault:
                log.info("listening connection lost", fault=type(fault).__name__)
                await asyncio.sleep(min(poll_s, 1.0))
                yield

    async def reset(self) -> None:
        """Replace all connections: idle ones at once, those in use when their transaction ends."""
        await self.pool.reset()

    async def reset_by(self, controls: Controls) -> None:
        """Do that each time that the control `pool.<database>` is given another value; for the life of the process."""
        name, wanted = f"pool.{self.pool.name}", asyncio.Event()
        controls.watch(lambda control, value: wanted.set() if control == name and value else None)
        while True:
            await wanted.wait()
            wanted.clear()
            await self.reset()


def _is_gone(fault: sa.exc.DBAPIError) -> bool:
    state = getattr(fault.orig, "sqlstate", None)
    return (
        state in _GONE or fault.connection_invalidated or (state is None and isinstance(fault, sa.exc.OperationalError))
    )


def _away(name: str, why: str) -> AppError:
    return AppError(Kind.UNAVAILABLE, "The database does not answer.", log=f"{name}: {why}")


def _as_app_error(name: str, fault: sa.exc.DBAPIError) -> Exception:
    state = getattr(fault.orig, "sqlstate", None)
    if state == "57014":
        return AppError(Kind.TIMEOUT, "The database took too long.", log=f"{name}: statement timeout")
    if state == "55P03":
        return AppError(Kind.UNAVAILABLE, "The record is busy.", log=f"{name}: lock timeout")
    if isinstance(fault, sa.exc.OperationalError):
        return _away(name, repr(fault.orig))
    return fault


@asynccontextmanager
async def database(
    url: str, *, direct_url: str = "", production: bool = False, limits: Limits | None = None
) -> AsyncIterator[Database]:
    """Open a database (for `direct_url` see chassis.pool.Address) and close it at the end."""
    chosen = limits or (PRODUCTION if production else DEVELOPMENT)
    pool = Pool(Address(url, direct_url), chosen)
    try:
        yield Database(pool, chosen.wait_s)
    finally:
        await pool.close()
