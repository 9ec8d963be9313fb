from __future__ import annotations

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from chassis import postgres
from chassis.errors import AppError
from chassis.migrations import Schema, SchemaMissing, migrate
from chassis.postgres import Database
from chassis.tests.servers import PostgresServer
from services.meetings.__main__ import MIGRATIONS
from services.meetings.columns import METADATA
from services.meetings.store import REVISION


def migrate_to(url: str, revision: str) -> None:
    """Bring a database to a revision that is not the newest."""
    migrate(url, MIGRATIONS, revision=revision)


def tables(url: str) -> set[str]:
    return set(sa.inspect(sa.create_engine(url)).get_table_names()) - {"alembic_version"}


@pytest.mark.req("R-DB-5")
def test_migrations_go_up_and_down_and_up_again(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    migrate(url, MIGRATIONS)
    assert tables(url) == set(METADATA.tables)
    migrate(url, MIGRATIONS, revision="base")
    assert tables(url) == set()
    migrate(url, MIGRATIONS)
    migrate(url, MIGRATIONS)
    assert tables(url) == set(METADATA.tables)


@pytest.mark.req("R-DB-5")
def test_migrations_make_the_tables_that_the_code_describes(database_url: str) -> None:
    with sa.create_engine(database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": False})
        assert compare_metadata(context, METADATA) == []


def test_newest_migration_is_the_one_that_the_code_asks_for() -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


async def test_empty_database_is_not_ready(postgres_server: PostgresServer) -> None:
    async with postgres.database(postgres_server.create_database(), production=False) as empty:
        with pytest.raises(SchemaMissing):
            await Schema(empty, REVISION).check()


async def test_migrated_database_is_ready_also_for_older_code(database: Database) -> None:
    await Schema(database, REVISION).check()
    async with database.engine.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await Schema(database, REVISION).check()


async def test_database_that_is_away_is_unavailable() -> None:
    async with postgres.database("postgresql+psycopg://nobody@127.0.0.1:1/none", production=False) as away:
        with pytest.raises(AppError) as caught:
            await Schema(away, REVISION).check()
    assert caught.value.kind == "service_unavailable"
