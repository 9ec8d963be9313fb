"""Transactions against real servers that fail in their midst: none half, none lost, none twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import ids, outbox, postgres
from chassis.errors import AppError, Kind
from chassis.pool import Limits
from chassis.postgres import Database
from chassis.tests.servers import PostgresServer

pytestmark = pytest.mark.req("R-DB-3")

METADATA = sa.MetaData()
outbox.inbox_table(METADATA)
# Without a key that would refuse a second row: what happened twice is to be seen.
ENTRIES = sa.Table("entries", METADATA, sa.Column("seq", sa.Integer, sa.Identity()), sa.Column("key", sa.Text))
QUICK = Limits(wait_s=1.0, patience_s=20.0, connect_s=2.0, statement_s=5.0)


@asynccontextmanager
async def opened(url: str, limits: Limits = QUICK) -> AsyncIterator[Database]:
    async with postgres.database(url, limits=limits) as database:
        async with database.engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as made:
        yield made


def adding(key: str) -> postgres.Work[str]:
    async def work(connection: AsyncConnection) -> str:
        await connection.execute(ENTRIES.insert().values(key=key))
        return key

    return work


async def entries(database: Database) -> list[str]:
    async def work(connection: AsyncConnection) -> list[str]:
        return list((await connection.execute(sa.select(ENTRIES.c.key).order_by(ENTRIES.c.seq))).scalars())

    return await database.patient().run("entries", work)


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_failure_leaves_nothing_of_its_transaction(database: Database) -> None:
    async def work(connection: AsyncConnection) -> None:
        await adding("half")(connection)
        raise KeyError("a bug")

    for way in (database.run, database.once):
        with pytest.raises(KeyError):
            await way("work", work)
    assert await entries(database) == []


async def test_a_cancelled_transaction_leaves_nothing_and_gives_its_connection_back(database: Database) -> None:
    async def work(connection: AsyncConnection) -> None:
        await adding("half")(connection)
        await connection.execute(sa.text("SELECT pg_sleep(30)"))

    for _ in range(12):  # more than there are connections
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await database.run("work", work)
    await database.run("after", adding("after"))
    assert await entries(database) == ["after"]


async def test_a_serialization_failure_is_run_again(database: Database) -> None:
    async def make(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("CREATE TABLE one (n int); INSERT INTO one VALUES (0)"))

    async def add(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        number = (await connection.execute(sa.text("SELECT n FROM one"))).scalar_one()
        await asyncio.sleep(0.05)
        await connection.execute(sa.text("UPDATE one SET n = :n"), {"n": number + 1})

    await database.run("make", make)
    before = count("db_transaction_retries_total", reason="serialization")
    await asyncio.gather(*(database.run("add", add) for _ in range(2)))

    async def read(connection: AsyncConnection) -> int:
        return int((await connection.execute(sa.text("SELECT n FROM one"))).scalar_one())

    assert await database.run("read", read) == 2
    assert count("db_transaction_retries_total", reason="serialization") > before


async def test_a_deadlock_is_run_again(database: Database) -> None:
    async def make(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("CREATE TABLE two (id int PRIMARY KEY, n int)"))
        await connection.execute(sa.text("INSERT INTO two VALUES (1, 0), (2, 0)"))

    def crossing(first: int, second: int) -> postgres.Work[None]:
        async def work(connection: AsyncConnection) -> None:
            for row in (first, second):
                await connection.execute(sa.text("UPDATE two SET n = n + 1 WHERE id = :i"), {"i": row})
                await asyncio.sleep(0.2)

        return work

    await database.run("make", make)
    before = count("db_transaction_retries_total", reason="deadlock")
    await asyncio.gather(database.run("there", crossing(1, 2)), database.run("back", crossing(2, 1)))

    async def read(connection: AsyncConnection) -> list[int]:
        return list((await connection.execute(sa.text("SELECT n FROM two"))).scalars())

    assert await database.run("read", read) == [2, 2]
    assert count("db_transaction_retries_total", reason="deadlock") == before + 1


async def test_a_connection_lost_before_commit_costs_another_attempt(database: Database) -> None:
    attempts = 0

    async def work(connection: AsyncConnection) -> None:
        nonlocal attempts
        attempts += 1
        await adding(f"attempt {attempts}")(connection)
        if attempts == 1:
            await connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    await database.run("work", work)
    assert await entries(database) == ["attempt 2"]


async def test_a_connection_that_is_lost_each_time_is_given_up(database: Database) -> None:
    attempts = 0

    async def work(connection: AsyncConnection) -> None:
        nonlocal attempts
        attempts += 1
        await connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(AppError) as caught:
        await database.run("work", work)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert attempts == 3


async def test_a_write_to_a_server_that_takes_none_goes_to_another_connection(database: Database) -> None:
    attempts: list[int] = []

    async def work(connection: AsyncConnection) -> None:
        attempts.append((await connection.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one())
        if len(attempts) == 1:
            await connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        await adding("written")(connection)

    await database.run("work", work)
    assert len(set(attempts)) == 2
    assert await entries(database) == ["written"]


Cut = Literal["nothing", "commit", "answer"]


class Wire:
    """A wire to a server that is cut at the next COMMIT: before it has arrived, or before its answer is back."""

    def __init__(self, port: int) -> None:
        self.cut: Cut = "nothing"
        self.cuts = 0
        self._upstream = port
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)

        async def down() -> None:
            while data := await up_reader.read(65536):
                writer.write(data)

        downward = asyncio.create_task(down())
        with suppress(OSError):
            while data := await reader.read(65536):
                cut = self.cut if b"COMMIT" in data else "nothing"
                if cut == "nothing":
                    up_writer.write(data)
                    continue
                self.cut = "nothing"
                self.cuts += 1
                downward.cancel()
                await asyncio.wait([downward])
                if cut == "answer":
                    up_writer.write(data)
                    await up_reader.read(65536)
                break
        downward.cancel()
        for end in (writer, up_writer):
            end.close()


@asynccontextmanager
async def behind_a_wire(postgres_server: PostgresServer, url: str) -> AsyncIterator[tuple[Database, Wire]]:
    wire = Wire(postgres_server.port)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    async with server, opened(url.replace(f":{postgres_server.port}/", f":{wire.port}/")) as database:
        yield database, wire


@pytest.mark.parametrize("cut", ["commit", "answer"])
async def test_a_commit_without_an_answer_happens_once(
    postgres_server: PostgresServer, database_url: str, cut: Cut
) -> None:
    """Row 30 of the fault table, one commit at a time."""
    async with behind_a_wire(postgres_server, database_url) as (database, wire):
        known = count("db_commits_unknown_total", outcome="committed")
        for number in range(5):
            wire.cut = cut
            assert await database.once("add", adding(f"{number}")) == f"{number}"
        assert wire.cuts == 5
        assert await entries(database) == [f"{number}" for number in range(5)]
        assert count("db_commits_unknown_total", outcome="committed") - known == (5 if cut == "answer" else 0)


async def test_without_an_id_a_commit_without_an_answer_is_told_and_not_repeated(
    postgres_server: PostgresServer, database_url: str
) -> None:
    async with behind_a_wire(postgres_server, database_url) as (database, wire):
        wire.cut = "answer"
        with pytest.raises(AppError) as caught:
            await database.run("add", adding("a"))
        assert caught.value.kind is Kind.UNAVAILABLE
        assert await entries(database) == ["a"]


async def test_control_whoever_repeats_such_a_commit_blindly_has_it_twice(
    postgres_server: PostgresServer, database_url: str
) -> None:
    async with behind_a_wire(postgres_server, database_url) as (database, wire):
        wire.cut = "answer"
        for _ in range(2):
            with suppress(AppError):
                await database.run("add", adding("a"))
                break
        assert await entries(database) == ["a", "a"]


async def test_writers_through_crashes_of_the_server_lose_and_double_nothing(own_postgres: PostgresServer) -> None:
    """Row 30: eight writers while the server is stopped at once, again and again."""
    own_postgres.crash()
    own_postgres.start(fsync="on")  # the point is what outlives a crash
    acknowledged: list[str] = []
    refused: list[str] = []
    stop = asyncio.Event()
    unresolved = count("db_commits_unknown_total", outcome="unresolved")
    async with opened(own_postgres.create_database()) as database:

        async def write() -> None:
            while not stop.is_set():
                key = ids.new_id()
                try:
                    acknowledged.append(await database.once("add", adding(key)))
                except AppError:
                    refused.append(key)
                    await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(write())
            recovered_s = []
            for _ in range(4):
                already = len(acknowledged)
                while len(acknowledged) < already + 150:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(own_postgres.crash)
                await asyncio.to_thread(own_postgres.start)
                began, already = time.monotonic(), len(acknowledged)
                while len(acknowledged) == already:
                    await asyncio.sleep(0.01)
                recovered_s.append(time.monotonic() - began)
            stop.set()
        found = Counter(await entries(database))
    assert {key for key in acknowledged if found[key] != 1} == set()
    assert {key for key in found if found[key] != 1} == set()
    # One that was refused may be there only if nobody could be asked for seconds.
    assert sum(found[key] for key in refused) <= count("db_commits_unknown_total", outcome="unresolved") - unresolved
    assert max(recovered_s) < 3.0
