"""What the tests of the meetings service stand on: a real database with the real schema, a real broker."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

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
from services.meetings.api_keys_store import ApiKeysStore
from services.meetings.devices import Devices
from services.meetings.entries_store import EntriesStore
from services.meetings.guards import Rules, Slowing, Window
from services.meetings.guards_store import Guards
from services.meetings.login import Login
from services.meetings.logins_store import Lives, LoginsStore
from services.meetings.meetings_store import MeetingsStore
from services.meetings.paging import Cursors
from services.meetings.passwords import Passwords
from services.meetings.segments_store import SegmentsStore
from services.meetings.store import idempotency_keys
from services.meetings.tasks_store import TasksStore
from services.meetings.tokens import AccessTokens, RefreshTokens, derived
from services.meetings.transcript_store import TranscriptStore

__all__ = ["nats_server", "postgres_server"]

KEY = "a key that only tests use, long enough"
LIVES = Lives(refresh=dt.timedelta(days=1), login=dt.timedelta(days=3), grace=dt.timedelta(seconds=10))
_QUARTER = dt.timedelta(minutes=15)
RULES = Rules(
    address=Window(5, _QUARTER),
    pair=Slowing(5, first=dt.timedelta(minutes=1), longest=dt.timedelta(days=1)),
    account=Window(20, _QUARTER),
    device=Window(5, _QUARTER),
    registration=Window(3, dt.timedelta(hours=1)),
    guess=Window(5, _QUARTER),
)


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


class Calendar:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = dt.datetime.now(dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now

    def wait(self, **time: float) -> None:
        """Let time pass."""
        self.now += dt.timedelta(**time)


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
def accounts(database: Database, cursors: Cursors) -> AccountsStore:
    return AccountsStore(database, cursors)


@pytest.fixture
def logins(database: Database) -> LoginsStore:
    return LoginsStore(database, LIVES)


@pytest.fixture
def api_keys(database: Database, cursors: Cursors) -> ApiKeysStore:
    return ApiKeysStore(database, cursors)


@pytest.fixture
def guards(database: Database, calendar: Calendar) -> Guards:
    """Guards that count as they do by default."""
    return new_guards(database, calendar)


def new_guards(database: Database, calendar: Callable[[], dt.datetime], rules: Rules = RULES) -> Guards:
    return Guards(database, rules, derived(KEY, "tries"), Devices(derived(KEY, "devices"), calendar), calendar)


@pytest.fixture
def login(
    accounts: AccountsStore, logins: LoginsStore, quick_passwords: Passwords, guards: Guards, private_pem: str,
    calendar: Calendar,
) -> Login:  # fmt: skip
    signing = AccessTokens(private_pem, 900, lambda: calendar().timestamp())
    renewing = RefreshTokens(derived(KEY, "refresh tokens"))
    return Login(accounts, logins, quick_passwords, guards, signing, renewing, clock=calendar)


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
