"""What the tests of the meetings service stand on: a real database with the real schema, a real broker."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import argon2
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from psycopg import sql

from chassis import ids, postgres
from chassis.idempotency import IdempotencyKeys
from chassis.migrations import migrate
from chassis.postgres import Database
from chassis.tests.servers import PostgresServer, nats_server, postgres_server
from services.meetings.__main__ import MIGRATIONS
from services.meetings.accounts_store import AccountsStore
from services.meetings.entries_store import EntriesStore
from services.meetings.meetings_store import MeetingsStore
from services.meetings.paging import Cursors
from services.meetings.passwords import Passwords
from services.meetings.segments_store import SegmentsStore
from services.meetings.store import idempotency_keys
from services.meetings.tasks_store import TasksStore
from services.meetings.transcript_store import TranscriptStore

__all__ = ["nats_server", "postgres_server"]

KEY = "a key that only tests use, long enough"


@pytest.fixture(scope="session")
def template(postgres_server: PostgresServer) -> str:
    """Migrate one database, of which every test gets a copy."""
    url = postgres_server.create_database()
    migrate(url, MIGRATIONS)
    return url.rsplit("/", 1)[1]


@pytest.fixture
def database_url(postgres_server: PostgresServer, template: str) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex}"
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    with psycopg.connect(postgres_server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(copy)
        yield postgres_server.conninfo(name).replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with postgres.database(database_url, production=False) as opened:
        yield opened


@pytest.fixture
def cursors() -> Cursors:
    return Cursors(KEY)


@pytest.fixture
def accounts(database: Database) -> AccountsStore:
    return AccountsStore(database)


@pytest.fixture
def meetings(database: Database, cursors: Cursors) -> MeetingsStore:
    return MeetingsStore(database, cursors)


@pytest.fixture
def segments(database: Database, cursors: Cursors) -> SegmentsStore:
    return SegmentsStore(database, cursors)


@pytest.fixture
def entries(database: Database) -> EntriesStore:
    return EntriesStore(database)


@pytest.fixture
def tasks(database: Database, cursors: Cursors) -> TasksStore:
    return TasksStore(database, cursors)


@pytest.fixture
def keys(database: Database) -> IdempotencyKeys:
    return IdempotencyKeys(database, idempotency_keys)


@pytest.fixture
def transcripts(database: Database) -> TranscriptStore:
    return TranscriptStore(database)


@pytest.fixture
def owner() -> str:
    return ids.new_id()


@pytest.fixture
def quick_passwords() -> Iterator[Passwords]:
    """Argon2 with the least work it allows: what is tested is not how hard it is."""
    hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    opened = Passwords(hasher, workers=2, queue_max=100)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def signing_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def private_pem(signing_key: Ed25519PrivateKey) -> str:
    return signing_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
