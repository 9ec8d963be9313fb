"""The database moves: a standby is promoted while we write; and PgBouncer stands between."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import ids, outbox, postgres
from chassis.errors import AppError
from chassis.pool import Limits
from chassis.postgres import Database
from chassis.tests.servers import PostgresServer, _free_port, _scratch, standby_of

METADATA = sa.MetaData()
outbox.inbox_table(METADATA)
ENTRIES = sa.Table("entries", METADATA, sa.Column("key", sa.Text))


def adding(key: str) -> postgres.Work[str]:
    async def work(connection: AsyncConnection) -> str:
        await connection.execute(ENTRIES.insert().values(key=key))
        return key

    return work


async def entries(database: Database) -> Counter[str]:
    async def work(connection: AsyncConnection) -> Counter[str]:
        return Counter((await connection.execute(sa.select(ENTRIES.c.key))).scalars())

    return await database.patient().run("entries", work)


@asynccontextmanager
async def opened(url: str, direct_url: str = "", limits: Limits | None = None) -> AsyncIterator[Database]:
    async with postgres.database(url, direct_url=direct_url, limits=limits) as database:
        yield database


async def make_tables(url: str) -> None:
    async with opened(url) as database, database.engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)


async def until(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.mark.req("R-DB-3")
@pytest.mark.req("R-HEAL-2")
async def test_writes_follow_the_primary_to_a_promoted_standby_and_none_is_lost(own_postgres: PostgresServer) -> None:
    """Row 31 of the fault table, with a standby that the primary waits for. The control is a client that knows the old
    primary only: it finds nobody."""
    url = own_postgres.create_database()
    await make_tables(url)
    with standby_of(own_postgres, "heir") as standby:
        own_postgres.configure("synchronous_standby_names", "heir")
        await until(lambda: own_postgres.answer("SELECT sync_state FROM pg_stat_replication") == "sync")
        both = url.replace(f":{own_postgres.port}/", f":{own_postgres.port},127.0.0.1:{standby.port}/")
        acknowledged: list[str] = []
        refused: list[str] = []
        stop = asyncio.Event()
        async with opened(both) as database:

            async def write() -> None:
                while not stop.is_set():
                    key = ids.new_id()
                    try:
                        acknowledged.append(await database.once("add", adding(key)))
                    except AppError:
                        refused.append(key)
                        await asyncio.sleep(0.02)

            async with asyncio.TaskGroup() as tasks:
                for _ in range(4):
                    tasks.create_task(write())
                await until(lambda: len(acknowledged) >= 200)
                await asyncio.to_thread(own_postgres.crash)
                began = time.monotonic()
                await asyncio.to_thread(standby.promote)
                before = len(acknowledged)
                await until(lambda: len(acknowledged) >= before + 200)
                moved_s = time.monotonic() - began
                stop.set()
            found = await entries(database)
        async with opened(url) as control:
            with pytest.raises(AppError):
                await control.once("add", adding("nowhere"))
    assert {key for key in acknowledged if found[key] != 1} == set()
    assert all(times == 1 for times in found.values())
    assert moved_s < 15.0


@pytest.mark.req("R-DB-3")
async def test_connections_of_a_frozen_primary_move_too(own_postgres: PostgresServer) -> None:
    url = own_postgres.create_database()
    name = url.rsplit("/", 1)[1]
    await make_tables(url)
    with standby_of(own_postgres, "heir") as standby:
        both = url.replace(f":{own_postgres.port}/", f":{own_postgres.port},127.0.0.1:{standby.port}/")
        async with opened(both, limits=Limits(connect_s=2.0)) as database:
            await database.once("add", adding("before"))
            await until(lambda: standby.answer("SELECT count(*) FROM entries", name) == 1)
            own_postgres.freeze()
            await asyncio.to_thread(standby.promote)
            began = time.monotonic()
            await database.patient().once("add", adding("after"))
            assert time.monotonic() - began < 15.0
            assert await entries(database) == Counter(["before", "after"])


@contextmanager
def pgbouncer(server: PostgresServer) -> Iterator[int]:
    """Run PgBouncer, as Debian packs it, in transaction mode with two connections; yield its port."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    user = "postgres" if os.geteuid() == 0 else None
    with _scratch() as folder:
        port = _free_port()
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\n"
            f"auth_file = {folder / 'users'}\n"
            f"pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 100\nunix_socket_dir =\n"
        )
        (folder / "users").write_text('"postgres" ""\n')
        if user:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, user)
        process = subprocess.Popen(
            [program, str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
            user=user, extra_groups=[] if user else None,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 10
            while True:
                with suppress(psycopg.OperationalError):
                    psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", connect_timeout=2).close()
                    break
                assert process.poll() is None, "pgbouncer ended"
                assert time.monotonic() < deadline
            yield port
        finally:
            process.kill()
            process.wait(timeout=10)


@pytest.mark.req("R-DB-1")
@pytest.mark.req("R-DB-2")
async def test_through_pgbouncer_limits_hold_and_sessions_are_not_shared(
    postgres_server: PostgresServer, database_url: str
) -> None:
    await make_tables(database_url)
    with pgbouncer(postgres_server) as port:
        through = database_url.replace(f":{postgres_server.port}/", f":{port}/")
        async with opened(through, direct_url=database_url, limits=Limits(statement_s=0.5)) as database:

            async def shown(connection: AsyncConnection) -> str:
                return str((await connection.execute(sa.text("SHOW statement_timeout"))).scalar_one())

            assert await database.run("show", shown) == "500ms"
            # Many times: prepared statements would be another connection's by then.
            await asyncio.gather(*(database.once("add", adding(f"{number}")) for number in range(60)))
            assert sum((await entries(database)).values()) == 60

            async def notify(connection: AsyncConnection) -> None:
                await connection.execute(sa.text("NOTIFY hello"))

            heard = database.notified("hello", poll_s=20.0)
            await anext(heard)
            began = time.monotonic()
            await database.run("notify", notify)
            await anext(heard)
            assert time.monotonic() - began < 5.0
            async with database.dedicated() as one, database.dedicated() as other:
                lock = "SELECT pg_try_advisory_lock(1)"
                answers = [await (await connection.execute(lock)).fetchone() for connection in (one, other)]
                assert answers == [(True,), (False,)]
