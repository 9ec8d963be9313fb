"""Real servers for tests: PostgreSQL, NATS with JetStream, and Redis, on free ports, their data in a scratch folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import LiteralString

import psutil
import psycopg
import pytest
from psycopg import sql

_ROOT = Path(__file__).resolve().parents[2]
_READY_S = 20.0
_POSTGRES_USER = "postgres" if os.geteuid() == 0 else None  # it does not run as root


class NatsServer:
    """One nats-server that can be killed and started again on the same port with the same data."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"nats://127.0.0.1:{port}"
        self._folder = folder / "data"
        self._saved = folder / "saved"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it listens."""
        arguments = ["-js", "-sd", str(self._folder), "-a", "127.0.0.1", "-p", str(self._port)]
        self._process = _process([_program("nats-server"), *arguments], None)
        _until(lambda: _listens(self._port), self._process)

    def damage(self, stream: str, where: float, bits: int = 3) -> int:
        """Flip bits in the blocks of a stream, at a part of their length, while it does not run. Returns in how many.

        The index goes too: the broker would believe it, and look into the block only when it is asked for a message.
        """
        blocks = sorted(self._folder.glob(f"jetstream/*/streams/{stream}/msgs/*.blk"))
        for block in blocks:
            data = bytearray(block.read_bytes())
            for bit in range(bits):
                data[min(int(len(data) * where) + bit, len(data) - 1)] ^= 1 << bit
            block.write_bytes(data)
        return len(blocks)

    def save(self) -> None:
        """Keep a copy of its data, while it does not run."""
        shutil.rmtree(self._saved, ignore_errors=True)
        shutil.copytree(self._folder, self._saved)

    def restore(self) -> None:
        """Put the copy back, while it does not run: what came after it is forgotten."""
        shutil.rmtree(self._folder)
        shutil.copytree(self._saved, self._folder)

    def kill(self) -> None:
        """Kill it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None

    def freeze(self) -> None:
        """Let it neither answer nor hang up."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class RedisServer:
    """One Redis that can be killed, frozen and started again on the same port with the same data."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it listens."""
        settings = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(self._folder), "save": "", "appendonly": "yes",
            "appendfsync": "always",
        }  # fmt: skip
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self._process = _process([_program("redis-server"), *arguments], None)
        _until(lambda: _listens(self.port), self._process)

    def kill(self) -> None:
        """Kill it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None

    def lose_data(self) -> None:
        """Take what it has on disk away. While it does not run."""
        shutil.rmtree(self._folder)
        self._folder.mkdir()

    def freeze(self) -> None:
        """Let it neither answer nor hang up."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class PostgresServer:
    """One PostgreSQL cluster that makes empty databases, and can be crashed, frozen and copied."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.port = _free_port()
        self._settings: dict[str, str] = {"max_connections": "200", "fsync": "off"}
        self._process: subprocess.Popen[bytes] | None = None
        if _POSTGRES_USER:
            shutil.chown(folder, _POSTGRES_USER)

    def make(self) -> None:
        """Make an empty cluster."""
        _run(_program("initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C",
             "-E", "UTF8")  # fmt: skip

    def copy(self, folder: Path, name: str) -> PostgresServer:
        """Make a standby of this one, which is running, under a name for its primary to wait for; start it yourself."""
        standby = PostgresServer(folder)
        source = f"host=127.0.0.1 port={self.port} user=postgres application_name={name}"
        _run(_program("pg_basebackup"), "-D", str(standby.data), "-d", source, "-R", "-c", "fast")
        return standby

    def start(self, **settings: str) -> None:
        """Start and wait until it answers. `settings` are remembered for the next start."""
        self._settings |= settings
        given = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        options = ["-h", "127.0.0.1", "-p", str(self.port), "-k", "", *given]
        self._process = _process([_program("postgres"), "-D", str(self.data), *options], _POSTGRES_USER)
        _until(self._answers, self._process)

    def crash(self) -> None:
        """Stop it at once, without a checkpoint: what it has not written to its log is gone."""
        self._end(signal.SIGQUIT)

    def freeze(self) -> None:
        """Stop the clock for all of its processes: connections stay, nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def promote(self) -> None:
        """Make a primary of a standby."""
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def configure(self, name: str, value: str) -> None:
        """Change a setting of the running server."""
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
            connection.execute("SELECT pg_reload_conf()")

    def answer(self, query: LiteralString, database: str = "postgres") -> object:
        """Return the one value that a query asks for; None if there is no row."""
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            row = connection.execute(query).fetchone()
        return row[0] if row else None

    def conninfo(self, database: str) -> str:
        """Return how psycopg reaches a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.conninfo(name).replace("postgresql:", "postgresql+psycopg:")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.conninfo("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        # The one that starts the others first: else it would replace them.
        postmaster = psutil.Process(self._process.pid)
        for process in (postmaster, *postmaster.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self.thaw()
            self._process.send_signal(number)
            self._process.wait(timeout=30)
            self._process = None


@contextmanager
def postgres_cluster() -> Iterator[PostgresServer]:
    """Run a cluster of one's own."""
    with _scratch() as folder:
        server = PostgresServer(folder)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.crash()


@contextmanager
def standby_of(primary: PostgresServer, name: str) -> Iterator[PostgresServer]:
    """Run a streaming standby of a cluster."""
    with _scratch() as folder:
        server = primary.copy(folder, name)
        server.start()
        try:
            yield server
        finally:
            server.crash()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Run one cluster for all tests of the session."""
    with postgres_cluster() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """Run a cluster that one test may break."""
    with postgres_cluster() as server:
        yield server


@contextmanager
def nats_broker() -> Iterator[NatsServer]:
    """Run a broker of one's own."""
    with _scratch() as folder:
        server = NatsServer(folder, _free_port())
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def nats_server() -> Iterator[NatsServer]:
    """Run a broker of its own for one test."""
    with nats_broker() as server:
        yield server


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Run a Redis of its own for one test."""
    with _scratch() as folder:
        server = RedisServer(folder, _free_port())
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> str:
    """Make an empty database for one test."""
    return postgres_server.create_database()


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="verbatim-test-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _process(arguments: Sequence[str], user: str | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        user=user,
        extra_groups=[] if user else None,
    )


def _run(*arguments: str) -> None:
    subprocess.run(
        arguments,
        check=True,
        capture_output=True,
        timeout=120,
        user=_POSTGRES_USER,
        extra_groups=[] if _POSTGRES_USER else None,
        cwd="/",
    )


def _program(name: str) -> str:
    # Debian keeps servers where not everybody's PATH looks; `make run` puts a NATS server of its own below .run.
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    places = [_ROOT / ".run" / "bin", *os.environ["PATH"].split(":"), *debian, Path("/usr/sbin")]
    found = shutil.which(name, path=":".join(map(str, places)))
    assert found, f"{name} is not installed"
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_S
    while not holds():
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not start"
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
