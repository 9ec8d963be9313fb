"""Connections to Postgres: how many, for how long, to which host; found dead before they are used, and counted."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
from prometheus_client import Counter, Gauge, Histogram
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from chassis import telemetry
from chassis.errors import AppError, Kind
from chassis.settings import DatabaseSettings

log = telemetry.logger(__name__)

_NAME = "db_client_connection_pool_name"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

CONNECTIONS = Gauge("db_client_connection_count", "Connections by state.", [_NAME, "db_client_connection_state"])
CONNECTIONS_MAX = Gauge("db_client_connection_max", "Most connections the pool opens.", [_NAME])
PENDING = Gauge("db_client_connection_pending_requests", "Transactions that wait for a connection.", [_NAME])
TIMEOUTS = Counter("db_client_connection_timeouts_total", "Transactions that got no connection in time.", [_NAME])
WAIT = Histogram(
    "db_client_connection_wait_time_seconds", "How long a connection was waited for.", [_NAME], buckets=_SECONDS
)
FOUND_DEAD = Counter("db_client_connection_dead_total", "Connections that did not answer before their use.", [_NAME])
RESETS = Counter("db_client_connection_resets_total", "Times that all connections were replaced by order.", [_NAME])
SLOW = Counter("db_slow_queries_total", "Statements slower than the limit, by transaction.", ["db_operation_name"])

# The name of the transaction that the current task is in: what its statements are called in logs and metrics.
operation: contextvars.ContextVar[str] = contextvars.ContextVar("operation", default="unnamed")


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections, and how long each thing about them may take (seconds).

    `wait_s` is how long a call waits for a connection, or for a database that is away, before it is refused: somebody
    waits for the answer. `patience_s` is the same for work in the background, which nobody waits for.
    """

    size: int = 5
    most: int = 10
    waiting_max: int = 500
    recycle_s: float = 300.0
    wait_s: float = 1.0
    patience_s: float = 30.0
    connect_s: float = 3.0
    ping_s: float = 1.0
    statement_s: float = 5.0
    lock_s: float = 3.0
    idle_in_transaction_s: float = 15.0
    transaction_s: float = 17.0
    slow_s: float = 1.0

    def server_settings(self) -> dict[str, int]:
        """Return what the server is told of this, in its unit (milliseconds)."""
        return {
            "statement_timeout": int(self.statement_s * 1000),
            "lock_timeout": int(self.lock_s * 1000),
            "idle_in_transaction_session_timeout": int(self.idle_in_transaction_s * 1000),
        }

    @classmethod
    def of(cls, settings: DatabaseSettings) -> Limits:
        """Return the limits that the settings ask for."""
        usual = PRODUCTION if settings.production else DEVELOPMENT
        most = settings.db_pool_max or max(usual.most, settings.db_pool_size)
        return cls(
            size=settings.db_pool_size or min(usual.size, most),
            most=most,
            recycle_s=settings.db_pool_recycle_s,
            wait_s=settings.db_pool_wait_s,
            patience_s=settings.db_connection_timeout_s,
            statement_s=settings.db_statement_timeout_s,
            lock_s=settings.db_lock_timeout_s,
            idle_in_transaction_s=settings.db_idle_in_transaction_s,
            transaction_s=settings.db_statement_timeout_s + _AROUND_S,
            slow_s=settings.db_slow_query_s,
        )


# What a transaction may take beyond its longest statement: a frozen server answers a cancel after some seconds.
_AROUND_S = 12.0
DEVELOPMENT = Limits()
PRODUCTION = Limits(size=30, most=90)


class Address:
    """Where a database is. `url` may name several hosts; the one that takes writes is used.

    `direct_url` is the database itself when `url` is a PgBouncer that hands out connections by transaction.
    """

    def __init__(self, url: str, direct_url: str = "") -> None:
        self.pooled = bool(direct_url)
        self._conninfo = _conninfo(url)
        self._direct = _conninfo(direct_url) if direct_url else self._conninfo
        self.name = str(conninfo_to_dict(self._conninfo).get("dbname") or "main")

    async def connect(self, limits: Limits) -> psycopg.AsyncConnection:
        """Open a connection for transactions."""
        if self.pooled:
            # PgBouncer passes neither these on nor the names of prepared statements.
            return await self._open(self._conninfo, limits, prepare_threshold=None)
        options = " ".join(f"-c {name}={value}" for name, value in limits.server_settings().items())
        given = conninfo_to_dict(self._conninfo).get("options")
        return await self._open(self._conninfo, limits, options=f"{given} {options}" if given else options)

    async def connect_directly(self, limits: Limits) -> psycopg.AsyncConnection:
        """Open a connection that is one session of the server: to listen on, to hold a lock by."""
        return await self._open(self._direct, limits, autocommit=True)

    async def _open(self, conninfo: str, limits: Limits, **options: Any) -> psycopg.AsyncConnection:
        return await psycopg.AsyncConnection.connect(
            conninfo,
            connect_timeout=max(2, round(limits.connect_s)),  # of each host; libpq takes whole seconds from two on
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=10_000,
            **options,
        )


def direct_conninfo(url: str, direct_url: str = "") -> str:
    """Return how libpq reaches the database itself."""
    return _conninfo(direct_url or url)


def _conninfo(url: str) -> str:
    """Return an address as libpq takes it, from a URL as SQLAlchemy or libpq writes it."""
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme.startswith("postgres"):
        raise ValueError("an address of Postgres begins with postgresql://")
    parts: dict[str, Any] = {**conninfo_to_dict(f"postgresql://{rest}")}
    if "," in str(parts.get("host", "")):
        # Of a primary and its standbys: whichever is the primary now.
        parts.setdefault("target_session_attrs", "read-write")
    return make_conninfo(**parts)


class Pool:
    """The connections of one process to one database.

    Raises AppError(UNAVAILABLE) when there is no place in time; SQLAlchemy's errors when the server is away.
    """

    def __init__(self, address: Address, limits: Limits) -> None:
        self.address = address
        self.limits = limits
        self.name = address.name
        self.engine = _engine(address, limits)
        self._places = asyncio.Semaphore(limits.most)
        self._used = self._waiting = 0
        CONNECTIONS_MAX.labels(self.name).set(limits.most)
        CONNECTIONS.labels(self.name, "used").set_function(lambda: self._used)
        # The pool is another one after a reset.
        CONNECTIONS.labels(self.name, "idle").set_function(lambda: _idle(self.engine))
        PENDING.labels(self.name).set_function(lambda: self._waiting)
        for counter in (TIMEOUTS, FOUND_DEAD, RESETS):
            counter.labels(self.name)

    @asynccontextmanager
    async def place(self, wait_s: float) -> AsyncIterator[None]:
        """Have one of the places for connections, first come first served, after waiting at most `wait_s`."""
        began = time.monotonic()
        if self._waiting >= self.limits.waiting_max:
            raise self._busy(f"{self._waiting} wait already")
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await self._places.acquire()
        except TimeoutError:
            raise self._busy(f"no connection within {wait_s} s") from None
        finally:
            self._waiting -= 1
            WAIT.labels(self.name).observe(time.monotonic() - began)
        self._used += 1
        try:
            yield
        finally:
            self._used -= 1
            self._places.release()

    @property
    def full(self) -> bool:
        return self._places.locked()

    async def reset(self) -> None:
        """Replace all connections: idle ones at once, those in use when their transaction ends."""
        RESETS.labels(self.name).inc()
        log.warning("pool reset", pool=self.name, used=self._used)
        await self.engine.dispose()

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    def _busy(self, why: str) -> AppError:
        TIMEOUTS.labels(self.name).inc()
        return AppError(Kind.UNAVAILABLE, "The database is busy.", log=f"{self.name}: {why}")


def _engine(address: Address, limits: Limits) -> AsyncEngine:
    async def connect() -> psycopg.AsyncConnection:
        return await address.connect(limits)

    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=connect,
        pool_size=limits.size,
        max_overflow=limits.most - limits.size,
        pool_recycle=int(limits.recycle_s),
        pool_timeout=limits.wait_s,  # never waited for: there is a connection for each place
        pool_use_lifo=True,
        hide_parameters=True,
        use_native_hstore=False,
    )
    _ping_before_use(engine, address.name, limits.ping_s)
    _time_statements(engine, limits.slow_s)
    return engine


def _idle(engine: AsyncEngine) -> int:
    pool: Any = engine.pool
    return int(pool.checkedin())


def _ping_before_use(engine: AsyncEngine, name: str, within_s: float) -> None:
    """Make a round trip before a connection is handed out again; SQLAlchemy's own ping waits for ever."""

    def connected(_: Any, record: Any) -> None:
        record.info["fresh"] = True

    def checked_out(connection: Any, record: Any, _: Any) -> None:
        if record.info.pop("fresh", False):
            return
        try:
            connection.run_async(lambda raw: _round_trip(raw.pgconn, within_s))
        except (psycopg.Error, OSError, TimeoutError) as fault:
            # Closed the hard way: a server that does not answer does not hear a good-bye either.
            connection.driver_connection.pgconn.finish()
            FOUND_DEAD.labels(name).inc()
            raise sa.exc.InvalidatePoolError(f"ping: {type(fault).__name__}") from fault

    sa.event.listen(engine.sync_engine, "connect", connected)
    sa.event.listen(engine.sync_engine, "checkout", checked_out)


async def _round_trip(pgconn: pq.abc.PGconn, within_s: float) -> None:
    """Send an empty query and take its answer. Raises psycopg.Error, OSError, TimeoutError.

    On the level of libpq, because a query of psycopg's that is cancelled waits for the server to confirm that.
    """
    if pgconn.status != pq.ConnStatus.OK:
        raise psycopg.OperationalError("the connection is closed")
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    pgconn.send_query(b"")
    pgconn.flush()
    socket = pgconn.socket
    loop.add_reader(socket, readable.set)
    try:
        async with asyncio.timeout(within_s):
            while True:
                while not pgconn.is_busy():
                    if pgconn.get_result() is None:
                        return
                readable.clear()
                await readable.wait()
                pgconn.consume_input()
    finally:
        loop.remove_reader(socket)


def _time_statements(engine: AsyncEngine, slow_s: float) -> None:
    """Count and log slow statements: by the name of their transaction and their number in it, never their values."""

    def before(connection: Any, _cursor: Any, _statement: str, _values: Any, _context: Any, _many: bool) -> None:
        connection.info["began"] = time.monotonic()
        connection.info["number"] = connection.info.get("number", 0) + 1

    def after(connection: Any, *_: Any) -> None:
        _tell_if_slow(connection.info, slow_s)

    def failed(context: Any) -> None:
        if context.connection is not None and not context.connection.closed and not context.connection.invalidated:
            _tell_if_slow(context.connection.info, slow_s)

    def begun(connection: Any) -> None:
        connection.info["number"] = 0

    sa.event.listen(engine.sync_engine, "begin", begun)
    sa.event.listen(engine.sync_engine, "before_cursor_execute", before)
    sa.event.listen(engine.sync_engine, "after_cursor_execute", after)
    sa.event.listen(engine.sync_engine, "handle_error", failed)


def _tell_if_slow(info: dict[str, Any], slow_s: float) -> None:
    duration_s = time.monotonic() - info.pop("began", time.monotonic())
    if duration_s >= slow_s:
        name = operation.get()
        SLOW.labels(name).inc()
        log.warning("slow query", operation=name, statement=info["number"], duration_s=round(duration_s, 3))
