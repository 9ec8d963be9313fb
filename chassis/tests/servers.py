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

import psycopg
import pytest
from psycopg import sql

_ROOT = Path(__file__).resolve().parents[2]
_READY_S = 20.0


class NatsServer:
    """One nats-server that can be killed and started again on the same port with the same data."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"nats://127.0.0.1:{port}"
        self._folder = folder
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it listens."""
        arguments = ["-js", "-sd", str(self._folder), "-a", "127.0.0.1", "-p", str(self._port)]
        self._process = _process([_program("nats-server"), *arguments], None)
        _until(lambda: _listens(self._port), self._process)

    def kill(self) -> None:
        """Kill it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None


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
    """One PostgreSQL cluster that makes empty databases."""

    def __init__(self, port: int) -> None:
        self._port = port

    def conninfo(self, database: str) -> str:
        """Return how psycopg reaches a database."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    def create_database(self) -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.conninfo(name).replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Run one cluster for all tests of the session."""
    user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
    with _scratch() as folder:
        if user:
            shutil.chown(folder, user)
        data, port = folder / "data", _free_port()
        initdb = [
            _program("initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
            "--locale=C",
            "-E",
            "UTF8",
        ]
        subprocess.run(
            initdb, check=True, capture_output=True, timeout=120, user=user, extra_groups=[] if user else None, cwd="/"
        )
        options = ["-h", "127.0.0.1", "-p", str(port), "-k", "", "-F", "-c", "max_connections=200"]
        process = _process([_program("postgres"), "-D", str(data), *options], user)
        try:
            server = PostgresServer(port)
            _until(lambda: _answers(server), process)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=30)


@pytest.fixture
def nats_server() -> Iterator[NatsServer]:
    """Run a broker of its own for one test."""
    with _scratch() as folder:
        server = NatsServer(folder, _free_port())
        server.start()
        try:
            yield server
        finally:
            server.kill()


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


def _answers(server: PostgresServer) -> bool:
    try:
        psycopg.connect(server.conninfo("postgres"), connect_timeout=1).close()
    except psycopg.OperationalError:
        return False
    return True


def _until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_S
    while not holds():
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not start"
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
