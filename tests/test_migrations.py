"""The schema of every database: up, down, up again, step by step, by one process at a time, under nobody's feet."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import alembic.config
import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from chassis import postgres
from chassis.errors import AppError
from chassis.migrations import Schema, SchemaMissing, UnfitDatabase, migrate
from chassis.tests.servers import PostgresServer
from services.insights import __main__ as insights
from services.insights import store as insights_store
from services.meetings import __main__ as meetings
from services.meetings import columns as meetings_columns
from services.meetings import store as meetings_store

pytestmark = pytest.mark.req("R-DB-5")


@dataclass(frozen=True)
class Owner:
    """A service with a database."""

    name: str
    folder: Path
    metadata: sa.MetaData
    revision: str

    def revisions(self) -> list[str]:
        """Return all revisions, the first one first."""
        found = [script.revision for script in _scripts(self.folder).walk_revisions()]
        return found[::-1]


OWNERS = [
    Owner("meetings", meetings.MIGRATIONS, meetings_columns.METADATA, meetings_store.REVISION),
    Owner("insights", insights.MIGRATIONS, insights_store.METADATA, insights_store.REVISION),
]
each = pytest.mark.parametrize("owner", OWNERS, ids=[owner.name for owner in OWNERS])


def _scripts(folder: Path) -> ScriptDirectory:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(folder))
    return ScriptDirectory.from_config(config)


def tables(url: str) -> set[str]:
    return set(sa.inspect(sa.create_engine(url)).get_table_names()) - {"alembic_version"}


@each
def test_migrations_go_up_down_and_up_again_step_by_step(postgres_server: PostgresServer, owner: Owner) -> None:
    url, revisions = postgres_server.create_database(), owner.revisions()
    for revision in revisions:
        migrate(url, owner.folder, revision=revision)
    assert tables(url) == set(owner.metadata.tables)
    for revision in [*revisions[-2::-1], "base"]:
        migrate(url, owner.folder, revision=revision)
    assert tables(url) == set()
    for _ in range(2):
        migrate(url, owner.folder)
    assert tables(url) == set(owner.metadata.tables)


@each
def test_migrations_make_the_tables_that_the_code_describes(postgres_server: PostgresServer, owner: Owner) -> None:
    url = postgres_server.create_database()
    migrate(url, owner.folder)
    with sa.create_engine(url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": False})
        assert compare_metadata(context, owner.metadata) == []


@each
def test_the_newest_migration_is_the_one_that_the_code_asks_for(owner: Owner) -> None:
    assert _scripts(owner.folder).get_current_head() == owner.revision == owner.revisions()[-1]


@each
def test_several_processes_migrate_at_once_and_one_does_it(postgres_server: PostgresServer, owner: Owner) -> None:
    url, faults = postgres_server.create_database(), []

    def run() -> None:
        try:
            migrate(url, owner.folder)
        except Exception as fault:  # noqa: BLE001 - told by the assertion
            faults.append(fault)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert tables(url) == set(owner.metadata.tables)


def test_a_migration_that_meets_a_busy_table_gives_up_and_holds_nobody_up(postgres_server: PostgresServer) -> None:
    """While it waits for the table everybody else queues behind it: so it does not wait for long."""
    owner = OWNERS[1]
    url = postgres_server.create_database()
    migrate(url, owner.folder, revision=owner.revisions()[0])
    with psycopg.connect(url.replace("+psycopg", "")) as busy:
        busy.execute("SELECT count(*) FROM outbox")  # a reader that does not end
        began = time.monotonic()
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            migrate(url, owner.folder)
        assert time.monotonic() - began < 10.0
    migrate(url, owner.folder)
    assert tables(url) == set(owner.metadata.tables)


def test_who_cannot_have_the_lock_of_migrations_says_so(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(1986359906)")
        with pytest.raises(TimeoutError, match="migrates"):
            migrate(url, OWNERS[0].folder, wait_s=0.5)


@each
async def test_a_service_waits_for_the_schema_that_it_needs(postgres_server: PostgresServer, owner: Owner) -> None:
    url = postgres_server.create_database()
    async with postgres.database(url) as database:
        schema = Schema(database, owner.revision)
        with pytest.raises(SchemaMissing):
            await schema.check()
        await asyncio.to_thread(migrate, url, owner.folder, revision=owner.revisions()[0])
        with pytest.raises(SchemaMissing):
            await schema.check()
        waiting = asyncio.create_task(schema.wait())
        await asyncio.to_thread(migrate, url, owner.folder)
        async with asyncio.timeout(10):
            await waiting
        await schema.check()


async def test_code_works_on_a_schema_that_is_newer(postgres_server: PostgresServer) -> None:
    owner = OWNERS[0]
    url = postgres_server.create_database()
    await asyncio.to_thread(migrate, url, owner.folder)
    async with postgres.database(url) as database:
        async with database.engine.begin() as connection:
            await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        await Schema(database, owner.revision).check()


async def test_a_database_that_is_away_is_unavailable() -> None:
    async with postgres.database("postgresql+psycopg://nobody@127.0.0.1:1/none") as away:
        with pytest.raises(AppError) as caught:
            await Schema(away, "0001").check()
    assert caught.value.kind == "service_unavailable"


def test_a_database_that_cannot_keep_every_language_is_refused_in_a_word(postgres_server: PostgresServer) -> None:
    """As that of a server set up without a locale: our texts would come back as bytes."""
    url = postgres_server.create_database()
    plain = sa.make_url(url).set(database="plain_ascii")
    with psycopg.connect(postgres_server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE plain_ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(UnfitDatabase, match="plain_ascii has the encoding SQL_ASCII"):
        migrate(plain.render_as_string(hide_password=False), OWNERS[0].folder)
