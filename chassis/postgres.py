"""Postgres: a pool with limits, transactions that end, errors in the taxonomy, migrations under a lock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import alembic.command
import alembic.config
import psycopg
import sqlalchemy as sa
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from chassis import telemetry
from chassis.errors import AppError, Kind

log = telemetry.logger(__name__)

POOL = Gauge(
    "db_client_connection_count",
    "Connections by state.",
    ["db_client_connection_pool_name", "db_client_connection_state"],
)
POOL_MAX = Gauge("db_client_connection_max", "Most connections the pool opens.", ["db_client_connection_pool_name"])
POOL_TIMEOUTS = Counter("db_client_connection_timeouts_total", "Waits for a connection that ran out.")
RETRIES = Counter("db_transaction_retries_total", "Transactions begun again.", ["reason"])
OPERATIONS = Histogram(
    "db_client_operation_duration_seconds", "Time of a transaction.", ["db_operation_name"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)  # fmt: skip

# Serialization failure, deadlock: the whole transaction may be run again.
_AGAIN = frozenset({"40001", "40P01"})
# The server is going away, or is (still) a standby.
_AWAY = frozenset({"57P01", "57P02", "57P03", "25006", "08006", "08003", "08000", "53300"})
_ATTEMPTS = 3
_MIGRATION_LOCK = 0x7665_7262  # "verb"

T = TypeVar("T")


class Database:
    """The pool of one service. Every unit of work is a transaction of `run`."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        max_overflow: int,
        pool_timeout_s: float,
        statement_timeout_s: float,
    ) -> None:
        self.url = url
        self._budget_s = (
            statement_timeout_s + pool_timeout_s + 10.0
        )  # a frozen server answers a cancel after some seconds
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_pre_ping=True,
            pool_recycle=300,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=pool_timeout_s,
            pool_use_lifo=True,
            hide_parameters=True,
            connect_args={
                "connect_timeout": 3,
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 10000,
                "options": f"-c statement_timeout={int(statement_timeout_s * 1000)} -c lock_timeout=3000"
                " -c idle_in_transaction_session_timeout=15000",
            },
        )
        name = make_url(url).database or "main"
        pool: Any = self.engine.pool
        POOL_MAX.labels(name).set(pool_size + max_overflow)
        POOL.labels(name, "used").set_function(pool.checkedout)
        POOL.labels(name, "idle").set_function(pool.checkedin)

    async def run(self, name: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in a transaction and commit it; any exception rolls back.

        Serialization failures and deadlocks are run again, up to three attempts, so `work` must have no effect outside
        the transaction. A lost connection is not: its COMMIT may have happened. Raises AppError(UNAVAILABLE) when the
        database or a connection cannot be had, AppError(TIMEOUT) when a statement took too long.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with OPERATIONS.labels(name).time():
                    async with asyncio.timeout(self._budget_s), self.engine.begin() as connection:
                        return await work(connection)
            except sa.exc.TimeoutError as fault:
                POOL_TIMEOUTS.inc()
                raise AppError(Kind.UNAVAILABLE, "The database is busy.", log=f"{name}: {fault}") from fault
            except TimeoutError as fault:
                raise AppError(Kind.UNAVAILABLE, "The database does not answer.", log=name) from fault
            except sa.exc.DBAPIError as fault:
                state = getattr(fault.orig, "sqlstate", None)
                if state in _AGAIN and attempt < _ATTEMPTS:
                    RETRIES.labels(state).inc()
                    await asyncio.sleep(random.uniform(0.0, 0.05 * 2**attempt))
                    continue
                raise _as_app_error(name, fault, state) from fault
        raise AssertionError("unreachable")

    async def ping(self) -> None:
        """Make a round trip; raises if there is none."""
        async with self.engine.connect() as connection:
            await connection.execute(sa.text("select 1"))

    async def notified(self, channel: str, poll_s: float) -> AsyncIterator[None]:
        """Yield after each NOTIFY on the channel, and at least every `poll_s` seconds. Survives a lost connection."""
        dsn = make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=3) as connection:
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

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def _as_app_error(name: str, fault: sa.exc.DBAPIError, state: str | None) -> Exception:
    if state == "57014":
        return AppError(Kind.TIMEOUT, "The database took too long.", log=f"{name}: statement timeout")
    if state == "55P03":
        return AppError(Kind.UNAVAILABLE, "The record is busy.", log=f"{name}: lock timeout")
    if state in _AWAY or fault.connection_invalidated or isinstance(fault, sa.exc.OperationalError):
        return AppError(Kind.UNAVAILABLE, "The database does not answer.", log=f"{name}: {fault.orig!r}")
    return fault


@asynccontextmanager
async def database(url: str, *, production: bool, statement_timeout_s: float = 5.0) -> AsyncIterator[Database]:
    """Open the pool (5 + 5 connections in development, 30 + 60 in production) and close it at the end."""
    pool_size, overflow = (30, 60) if production else (5, 5)
    db = Database(
        url,
        pool_size=pool_size,
        max_overflow=overflow,
        pool_timeout_s=2.0,
        statement_timeout_s=statement_timeout_s,
    )
    try:
        yield db
    finally:
        await db.close()


def migrate(url: str, folder: Path) -> None:
    """Bring the schema to the newest revision of `folder`, an Alembic script folder; one process at a time."""
    engine = sa.create_engine(url, connect_args={"connect_timeout": 3, "options": "-c lock_timeout=5000"})
    config = alembic.config.Config()
    config.set_main_option("script_location", str(folder))
    with engine.connect() as connection:
        connection.execute(sa.text("select pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
        connection.commit()
        try:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
            connection.commit()
        finally:
            connection.execute(sa.text("select pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
            connection.commit()
    engine.dispose()
