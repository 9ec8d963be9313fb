"""The pool against real servers: its size, its waits, its dead connections, its metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, lifecycle, postgres
from chassis.controls import Controls
from chassis.errors import AppError, Kind
from chassis.pool import DEVELOPMENT, PRODUCTION, Address, Limits, direct_conninfo
from chassis.postgres import Database
from chassis.settings import DatabaseSettings
from chassis.tests.servers import NatsServer, PostgresServer

SMALL = Limits(size=2, most=3, wait_s=0.5, patience_s=10.0, statement_s=2.0, lock_s=0.5, slow_s=0.3)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with postgres.database(database_url, limits=SMALL) as opened:
        yield opened


async def backend(connection: AsyncConnection) -> int:
    return int((await connection.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one())


def sleeping(seconds: float) -> postgres.Work[None]:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("SELECT pg_sleep(:s)"), {"s": seconds})

    return work


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def settings(**values: object) -> DatabaseSettings:
    return DatabaseSettings(service_auth_key="k" * 32, **values)  # type: ignore[arg-type]


@pytest.mark.req("R-DB-1")
def test_sizes_are_those_of_the_kind_of_installation_unless_named() -> None:
    development, production = Limits.of(settings()), Limits.of(settings(verbatim_env="production"))
    assert (development.size, development.most) == (DEVELOPMENT.size, DEVELOPMENT.most) == (5, 10)
    assert (production.size, production.most) == (PRODUCTION.size, PRODUCTION.most) == (30, 90)
    for limits in (development, production):
        assert (limits.recycle_s, limits.patience_s, limits.wait_s) == (300.0, 30.0, 1.0)
        assert (limits.statement_s, limits.slow_s) == (5.0, 1.0)
    own = Limits.of(settings(db_pool_size=3, db_pool_max=4, db_statement_timeout_s=2.0))
    assert (own.size, own.most, own.statement_s) == (3, 4, 2.0)
    assert Limits.of(settings(db_pool_size=50)).most == 50
    assert Limits.of(settings(db_pool_max=2)).size == 2


def test_a_pool_larger_than_its_most_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="DB_POOL_SIZE"):
        settings(db_pool_size=5, db_pool_max=4)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql+psycopg://u:p%40ss@h:5433/d", {"user": "u", "password": "p@ss", "host": "h", "port": "5433"}),
        ("postgres://u@h/d?sslmode=require", {"user": "u", "host": "h", "sslmode": "require"}),
        ("postgresql://u@a:1,b:2/d", {"user": "u", "host": "a,b", "port": "1,2", "target_session_attrs": "read-write"}),
        (
            "postgresql://u@a:1,b:2/d?target_session_attrs=primary",
            {"user": "u", "host": "a,b", "port": "1,2", "target_session_attrs": "primary"},
        ),
    ],
)
def test_an_address_is_read_as_sqlalchemy_and_libpq_write_it(url: str, wanted: dict[str, str]) -> None:
    assert psycopg.conninfo.conninfo_to_dict(direct_conninfo(url)) == {"dbname": "d", **wanted}
    assert Address(url).name == "d"


def test_an_address_of_something_else_is_refused_without_being_repeated() -> None:
    with pytest.raises(ValueError, match="postgresql://") as caught:
        Address("mysql://user:secret@host/name")
    assert "secret" not in str(caught.value)


@pytest.mark.req("R-DB-1")
async def test_an_exhausted_pool_refuses_calls_soon_and_takes_them_again_at_once(database: Database) -> None:
    """Row 2 of the fault table. The control is the patient caller, who is not refused."""
    name = database.pool.name
    holders = [asyncio.create_task(database.run("hold", sleeping(1.9))) for _ in range(3)]
    async with asyncio.timeout(5):
        while value("db_client_connection_count", **pool(name), db_client_connection_state="used") < 3:
            await asyncio.sleep(0.01)
    timeouts = value("db_client_connection_timeouts_total", **pool(name))

    async def refused() -> tuple[AppError, float]:
        began = time.monotonic()
        with pytest.raises(AppError) as caught:
            await database.run("call", backend)
        return caught.value, time.monotonic() - began

    patient = asyncio.create_task(database.patient().run("wait", backend))
    calls = asyncio.gather(*(refused() for _ in range(50)))
    await asyncio.sleep(0.1)
    assert value("db_client_connection_pending_requests", **pool(name)) == 51
    await database.ping()  # busy is not gone
    for error, took_s in await calls:
        assert error.kind is Kind.UNAVAILABLE
        assert error.codes.http == 503
        assert error.retry_after_s
        assert took_s < SMALL.wait_s + 0.7
    assert value("db_client_connection_timeouts_total", **pool(name)) - timeouts == 50 + 1  # and the ping
    await asyncio.gather(*holders)
    began = time.monotonic()
    await database.run("call", backend)
    assert time.monotonic() - began < 1.0
    assert await patient
    assert value("db_client_connection_count", **pool(name), db_client_connection_state="used") == 0
    assert value("db_client_connection_max", **pool(name)) == 3


async def test_no_more_than_a_limit_wait(database_url: str) -> None:
    async with postgres.database(database_url, limits=Limits(size=1, most=1, waiting_max=2)) as database:
        holder = asyncio.create_task(database.run("hold", sleeping(1.0)))
        await asyncio.sleep(0.2)
        waiting = [asyncio.create_task(database.patient().run("wait", backend)) for _ in range(2)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        with pytest.raises(AppError):
            await database.run("call", backend)
        assert time.monotonic() - began < 0.5
        await asyncio.gather(holder, *waiting)


@pytest.mark.req("R-DB-2")
async def test_a_statement_ends_at_its_limit_and_others_go_on(database: Database, database_url: str) -> None:
    """Row 3 of the fault table. The control is a pool with a longer limit, where such a statement goes on."""
    began = time.monotonic()
    slow = asyncio.create_task(database.run("slow", sleeping(30.0)))
    await database.run("other", backend)
    assert time.monotonic() - began < 1.0
    with pytest.raises(AppError) as caught:
        await slow
    assert caught.value.kind is Kind.TIMEOUT
    assert SMALL.statement_s <= time.monotonic() - began < SMALL.statement_s + 0.8
    async with postgres.database(database_url, limits=replace(SMALL, statement_s=30.0)) as control:
        await control.run("slow", sleeping(SMALL.statement_s + 0.2))


@pytest.mark.req("R-DB-2")
async def test_who_waits_for_a_lock_gives_up(database: Database) -> None:
    async def make(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("CREATE TABLE one (n int); INSERT INTO one VALUES (1)"))

    async def change(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("UPDATE one SET n = n + 1"))

    async def hold(connection: AsyncConnection) -> None:
        await change(connection)
        held.set()
        await sleeping(1.5)(connection)

    held = asyncio.Event()
    await database.run("make", make)
    holder = asyncio.create_task(database.run("hold", hold))
    await held.wait()
    began = time.monotonic()
    with pytest.raises(AppError) as caught:
        await database.run("change", change)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert SMALL.lock_s <= time.monotonic() - began < 1.4
    await holder


@pytest.mark.req("R-DB-2")
async def test_limits_hold_at_the_server(database: Database) -> None:
    async def shown(connection: AsyncConnection) -> list[str]:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        return [(await connection.execute(sa.text(f"SHOW {name}"))).scalar_one() for name in names]

    assert await database.run("show", shown) == ["2s", "500ms", "15s"]


@pytest.mark.req("R-DB-2")
async def test_a_slow_statement_is_counted_and_logged_by_name_without_values(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("SELECT 1"))
        await connection.execute(sa.text("SELECT pg_sleep(0.4), CAST(:w AS text)"), {"w": "secret words"})

    before = value("db_slow_queries_total", db_operation_name="find words")
    await database.run("quick", backend)
    await database.run("find words", work)
    assert value("db_slow_queries_total", db_operation_name="find words") == before + 1
    assert value("db_slow_queries_total", db_operation_name="quick") == 0
    printed = capsys.readouterr().out
    assert "slow query" in printed
    assert "find words" in printed
    assert "statement" in printed
    assert "secret" not in printed
    with pytest.raises(AppError):
        await database.run("find words", sleeping(30.0))
    assert value("db_slow_queries_total", db_operation_name="find words") == before + 2


@pytest.mark.req("R-DB-1")
async def test_connections_that_died_in_the_pool_are_not_handed_out(
    database: Database, postgres_server: PostgresServer
) -> None:
    pids = await asyncio.gather(*(database.run("pid", backend_slowly) for _ in range(2)))
    dead = value("db_client_connection_dead_total", **pool(database.pool.name))
    with psycopg.connect(postgres_server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", [list(pids)])
    again = await asyncio.gather(*(database.run("pid", backend_slowly) for _ in range(2)))
    assert not set(pids) & set(again)
    assert value("db_client_connection_dead_total", **pool(database.pool.name)) > dead


@pytest.mark.req("R-DB-1")
async def test_a_frozen_server_is_noticed_before_its_connections_are_used(own_postgres: PostgresServer) -> None:
    """The ping gives up after a second, and so does the connection attempt after three; without a limit to the ping the
    call hangs until the freeze ends."""
    limits = Limits(connect_s=2.0, ping_s=0.5, statement_s=2.0)
    async with postgres.database(own_postgres.create_database(), limits=limits) as database:
        await database.run("pid", backend)
        own_postgres.freeze()
        try:
            began = time.monotonic()
            with pytest.raises(AppError) as caught:
                await database.run("pid", backend)
            assert caught.value.kind is Kind.UNAVAILABLE
            assert time.monotonic() - began < 0.5 + 2.0 + 2.5
        finally:
            own_postgres.thaw()
        await database.patient().run("pid", backend)


@pytest.mark.req("R-DB-1")
@pytest.mark.req("R-HEAL-1")
async def test_reset_replaces_connections_without_harm_to_those_in_use(database: Database) -> None:
    before = await database.run("pid", backend)
    in_use = asyncio.create_task(database.run("hold", backend_slowly))
    await asyncio.sleep(0.1)
    await database.reset()
    held = await in_use
    after = [await database.run("pid", backend) for _ in range(3)]
    assert before not in after
    assert held not in after


@pytest.mark.req("R-HEAL-1")
async def test_a_control_resets_the_pool(database: Database, nats_server: NatsServer) -> None:
    name = database.pool.name
    async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
        controls = Controls(broker)
        tasks = [asyncio.create_task(work) for work in (controls.run(), database.reset_by(controls))]
        try:
            before = await database.run("pid", backend)
            for value_ in ("1", "2"):
                resets = value("db_client_connection_resets_total", **pool(name))
                await controls.put(f"pool.{name}", value_, who="ada", why="test")
                async with asyncio.timeout(10):
                    while value("db_client_connection_resets_total", **pool(name)) == resets:
                        await asyncio.sleep(0.01)
                after = await database.run("pid", backend)
                assert after != before
                before = after
        finally:
            await lifecycle.end(tasks)


@pytest.mark.req("R-DB-1")
async def test_connections_are_replaced_at_their_age(database_url: str) -> None:
    async with postgres.database(database_url, limits=Limits(recycle_s=1.0)) as database:
        first = await database.run("pid", backend)
        assert await database.run("pid", backend) == first
        await asyncio.sleep(1.2)
        assert await database.run("pid", backend) != first


async def backend_slowly(connection: AsyncConnection) -> int:
    """Two at once need a connection each."""
    await sleeping(0.25)(connection)
    return await backend(connection)


def pool(name: str) -> dict[str, str]:
    return {"db_client_connection_pool_name": name}
