"""One database out to files and back in: rows by COPY from one snapshot, the schema by our own migrations.

Not `pg_dump`: what we write can be read into any version of PostgreSQL, and needs no client of the server's version.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import psycopg
from psycopg import sql

from chassis.migrations import migrate
from recovery.manifest import BackupUnusable, DatabaseCopy, TableCopy, seen

_CHUNK_BYTES = 256 * 1024
_COMPRESSION = 1  # most of the gain for little of the time
_CONNECT_S = 10
# Tables that a migration fills are emptied first; this one is the migrations' own.
_VERSIONS = "alembic_version"

_TABLES = """
    SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND c.relname <> %s
    GROUP BY c.relname ORDER BY c.relname
"""
_REFERENCES = """
    SELECT DISTINCT f.relname, t.relname FROM pg_constraint k
    JOIN pg_class f ON f.oid = k.conrelid JOIN pg_class t ON t.oid = k.confrelid
    WHERE k.contype = 'f' AND k.connamespace = 'public'::regnamespace AND f.oid <> t.oid
"""
_SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1"
_OTHERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


def dump(conninfo: str, folder: Path, name: str, *, table_s: float) -> DatabaseCopy:
    """Write every row of a database, as it is at one moment, below `folder`. Nobody is kept waiting.

    Raises psycopg.Error, OSError, BackupUnusable if the database has no schema yet.
    """
    (folder / name).mkdir(mode=0o700)
    with closing(_connect(conninfo, table_s)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            revision = _revision(connection)
            if revision is None:
                raise BackupUnusable(f"the database {name} has no schema yet: there is nothing to back up")
            tables = {
                table: _dump_table(connection, folder, f"{name}/{table}.copy.gz", table, columns)
                for table, columns in _tables(connection).items()
            }
            # Read last, and never older than the rows: sequences stand outside of transactions.
            sequences: dict[str, int | None] = dict(connection.execute(_SEQUENCES).fetchall())
    return DatabaseCopy(revision, tables, sequences)


def load(
    conninfo: str, migrate_url: str, migrations: Path, folder: Path, copy: DatabaseCopy, *, table_s: float
) -> None:
    """Make a database what it was: its schema of then, its rows, then the schema of today. What is in it goes.

    The rows come in one transaction. Raises psycopg.Error, OSError, BackupUnusable.
    """
    if not list(migrations.glob(f"versions/{copy.revision}_*.py")):
        raise BackupUnusable(f"the backup is of a newer release: this one does not know the schema {copy.revision}")
    migrate(migrate_url, migrations, revision="base")
    migrate(migrate_url, migrations, revision=copy.revision)
    with closing(_connect(conninfo, table_s)) as connection, connection.transaction():
        there = _tables(connection)
        if strange := copy.tables.keys() - there.keys():
            raise BackupUnusable(f"the schema {copy.revision} has no tables {', '.join(sorted(strange))}")
        names = sql.SQL(", ").join(map(sql.Identifier, there))
        connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(names))
        for table in in_order(copy.tables, connection.execute(_REFERENCES).fetchall()):
            _load_table(connection, folder, table, copy.tables[table])
        for sequence, value in copy.sequences.items():
            if value is not None:
                connection.execute("SELECT setval(%s::regclass, %s)", (f'public."{sequence}"', value))
    migrate(migrate_url, migrations)


def filled_tables(conninfo: str) -> int:
    """Count the tables that hold anything; 0 for a database that is empty or has no schema. Raises psycopg.Error."""
    with closing(_connect(conninfo, 60.0)) as connection:
        filled = 0
        for table in _tables(connection):
            query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(table))
            filled += bool((connection.execute(query).fetchone() or (False,))[0])
        return filled


def others_in(conninfo: str) -> int:
    """Count who else is connected to a database. Raises psycopg.Error."""
    with closing(_connect(conninfo, 60.0)) as connection:
        return int((connection.execute(_OTHERS).fetchone() or (0,))[0])


def in_order(tables: Iterable[str], references: Iterable[tuple[str, ...]]) -> list[str]:
    """Return tables such that each comes after those that it refers to. Raises BackupUnusable for a circle."""
    left = {table: {to for of, to in references if of == table} for table in sorted(tables)}
    ordered: list[str] = []
    while left:
        ready = [table for table, needs in left.items() if not needs & left.keys()]
        if not ready:
            raise BackupUnusable(f"tables refer to each other in a circle: {', '.join(left)}")
        ordered += ready
        for table in ready:
            del left[table]
    return ordered


def _connect(conninfo: str, table_s: float) -> psycopg.Connection:
    limits = {
        "statement_timeout": int(table_s * 1000),
        "lock_timeout": 10_000,
        "idle_in_transaction_session_timeout": 0,
    }
    options = " ".join(f"-c {name}={value}" for name, value in limits.items())
    return psycopg.connect(conninfo, autocommit=True, connect_timeout=_CONNECT_S, options=options, keepalives_idle=10)


def _revision(connection: psycopg.Connection) -> str | None:
    there = connection.execute("SELECT to_regclass('public.alembic_version')").fetchone()
    if there is None or there[0] is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def _tables(connection: psycopg.Connection) -> dict[str, tuple[str, ...]]:
    """Return the columns of each table that rows are written to; those that are computed compute themselves again."""
    return {name: tuple(columns) for name, columns in connection.execute(_TABLES, (_VERSIONS,)).fetchall()}


def _dump_table(
    connection: psycopg.Connection, folder: Path, path: str, table: str, columns: tuple[str, ...]
) -> TableCopy:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(names, sql.Identifier(table))
    rows = 0
    with (
        gzip.open(folder / path, "wb", compresslevel=_COMPRESSION) as file,
        connection.cursor() as cursor,
        cursor.copy(query) as copied,
    ):
        for data in copied:
            file.write(data)
            rows += bytes(data).count(b"\n")  # one ends each row; those in the text are escaped
    return TableCopy(columns, rows, seen(folder / path, path))


def _load_table(connection: psycopg.Connection, folder: Path, table: str, copy: TableCopy) -> None:
    name = sql.Identifier(table)
    columns = sql.SQL(", ").join(map(sql.Identifier, copy.columns))
    # What triggers made of the rows is among the rows of other tables.
    connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(name))
    query = sql.SQL("COPY {} ({}) FROM STDIN").format(name, columns)
    with (
        gzip.open(folder / copy.part.path, "rb") as file,
        connection.cursor() as cursor,
        cursor.copy(query) as copied,
    ):
        while data := file.read(_CHUNK_BYTES):
            copied.write(data)
    rows = (connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone() or (0,))[0]
    if rows != copy.rows:
        raise BackupUnusable(f"{table}: {rows} rows of {copy.rows} came back")
    connection.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(name))
