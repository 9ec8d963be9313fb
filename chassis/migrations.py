"""The schema of a database: brought up to date by one process at a time, awaited by the others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import alembic.command
import alembic.config
import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import telemetry
from chassis.errors import AppError
from chassis.pool import direct_conninfo
from chassis.postgres import Database

log = telemetry.logger(__name__)

_LOCK = 0x7665_7262  # "verb"
_LOCK_TIMEOUT_MS = 5000
_AGAIN_S = 1.0


class SchemaMissing(RuntimeError):
    """The database answers, but has not been migrated to what this code needs."""


class UnfitDatabase(SystemExit):
    """A database in which our texts cannot be kept. Ends the program that migrates, with its message and status 1."""


class Schema:
    """What a service needs of its database's schema: `revision` or a newer one, for releases migrate first.

    Revisions are numbers of migrations (0001, 0002, …), which compare as text.
    """

    def __init__(self, database: Database, revision: str) -> None:
        self._database = database
        self._revision = revision
        self._seen = False

    async def check(self) -> None:
        """Raise SchemaMissing until the schema is there, and AppError or another fault while the database is away."""
        if self._seen:
            await self._database.ping()
        else:
            await self._database.run("check schema", self._look)
            self._seen = True

    async def wait(self) -> None:
        """Wait until the schema is there; whoever migrates may come after us."""
        while not self._seen:
            try:
                await self.check()
            except (AppError, SchemaMissing) as fault:
                if isinstance(fault, AppError) and not fault.codes.retryable:
                    raise
                log.warning("waiting for the schema", fault=str(fault))
                await asyncio.sleep(_AGAIN_S)

    async def _look(self, connection: AsyncConnection) -> None:
        known = (await connection.execute(sa.text("SELECT to_regclass('alembic_version') IS NOT NULL"))).scalar_one()
        query = sa.text("SELECT version_num FROM alembic_version")
        found = (await connection.execute(query)).scalar() if known else None
        if found is None or found < self._revision:
            raise SchemaMissing(f"schema is at {found}, needs {self._revision}")


def migrate(url: str, folder: Path, *, revision: str = "head", wait_s: float = 300.0) -> None:
    """Bring the schema to a revision of `folder`, an Alembic script folder; one process at a time.

    Waits for another process that does the same. A statement that waits five seconds for a table fails: it is better
    run again than everybody is made to queue behind it. Raises TimeoutError, UnfitDatabase, psycopg.Error,
    sqlalchemy.exc.DBAPIError.
    """
    with _locked(url, wait_s) as connection:
        config = alembic.config.Config()
        config.set_main_option("script_location", str(folder))
        config.attributes["connection"] = connection
        there = sa.inspect(connection).has_table("alembic_version")
        connection.commit()
        if revision == "base" or (there and _is_older(config, connection, revision)):
            alembic.command.downgrade(config, revision)
        else:
            alembic.command.upgrade(config, revision)
        connection.commit()


def _is_older(config: alembic.config.Config, connection: sa.Connection, revision: str) -> bool:
    if revision == "head":
        return False
    current = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    connection.commit()
    return current is not None and revision < current


@contextmanager
def _locked(url: str, wait_s: float) -> Iterator[sa.Connection]:
    """Connect and hold the lock of migrations."""

    def connect() -> psycopg.Connection:
        opened = psycopg.connect(direct_conninfo(url), connect_timeout=3, options=f"-c lock_timeout={_LOCK_TIMEOUT_MS}")
        encoding = opened.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            name = opened.info.dbname
            opened.close()
            raise UnfitDatabase(
                f"error: the database {name} has the encoding {encoding}; people speak all languages: create it anew "
                "with ENCODING 'UTF8' TEMPLATE template0"
            )
        return opened

    engine = sa.create_engine("postgresql+psycopg://", creator=connect, poolclass=sa.NullPool)
    with engine.connect() as connection:
        deadline = time.monotonic() + wait_s
        # Asked for again and again: a statement that waits would run into the limit for tables.
        while not connection.execute(sa.select(sa.func.pg_try_advisory_lock(_LOCK))).scalar_one():
            connection.commit()
            if time.monotonic() > deadline:
                raise TimeoutError("another process migrates")
            threading.Event().wait(_AGAIN_S)
        connection.commit()
        try:
            yield connection
        finally:
            connection.rollback()
            connection.execute(sa.select(sa.func.pg_advisory_unlock(_LOCK)))
            connection.commit()
