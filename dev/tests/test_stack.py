"""A stack with real PostgreSQL, NATS and Redis; small programs stand in the places of the services."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import psutil
import psycopg
import pytest

from dev.keys import Keys
from dev.plan import SERVICES, Plan
from dev.ports import HOST, PortBusyError, Ports
from dev.runner import ProcessDiedError
from dev.servers import find_or_install_nats
from dev.settings import ROOT
from dev.stack import AlreadyRunningError, Stack, running_state

NO_SERVICES = dict.fromkeys(SERVICES, 0)
SERVICE = """
import http.server, json, os, pathlib, signal, sys
name = __spec__.name.split(".")[1]
folder = pathlib.Path(os.environ["VERBATIM_DATA_DIR"])
if sys.argv[1:] == ["migrate"]:
    (folder / f"migrated-{name}").touch()
    sys.exit()
(folder / f"env-{os.environ['INTERNAL_PORT']}.json").write_text(json.dumps(dict(os.environ)))
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.HTTPServer(("127.0.0.1", int(os.environ["INTERNAL_PORT"])), Ready).serve_forever()
"""

SQUATTER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's tmp_path: only its owner may pass that, and PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="verbatim-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def code(folder: Path) -> Path:
    for service in SERVICES:
        package = folder / "code" / "services" / service
        package.mkdir(parents=True)
        (package / "__main__.py").write_text(SERVICE)
    return folder / "code"


@pytest.fixture
async def servers(folder: Path) -> AsyncIterator[Stack]:
    stack = Stack(Plan(folder / "data", Ports.free(), replicas=NO_SERVICES))
    await stack.start()
    yield stack
    await stack.stop()


async def published(stack: Stack) -> int:
    """Publish one durable message and give its sequence."""
    client = await nats.connect(stack.plan.nats_url)
    jetstream = client.jetstream()
    await jetstream.add_stream(name="kept", subjects=["kept.>"])
    ack = await jetstream.publish("kept.one", b"word")
    await client.close()
    return ack.seq


async def select(stack: Stack, service: str, query: str) -> object:
    conninfo = stack.database_url(service).replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        row = await (await connection.execute(query)).fetchone()
        return row and row[0]


@pytest.mark.req("R-RUN-1")
async def test_servers_start_keep_their_data_and_leave_no_process(folder: Path) -> None:
    plan = Plan(folder / "data", Ports.free(), replicas=NO_SERVICES)
    stack = Stack(plan)
    await stack.start()
    try:
        assert await published(stack) == 1
        assert await select(stack, "meetings", "SELECT current_database()::text") == "meetings"
        started = [stack.runner.pid(name) for name in ("postgres", "nats", "redis")]
    finally:
        await stack.stop()
    assert not any(pid is None or psutil.pid_exists(pid) for pid in started)

    again = Stack(Plan(folder / "data", Ports.free(), replicas=NO_SERVICES))
    await again.start()
    try:
        assert await published(again) == 2
    finally:
        await again.stop()


async def test_no_service_may_enter_the_database_of_another(servers: Stack) -> None:
    own = servers.database_url("insights").replace("+psycopg", "")
    url = own.removesuffix("/insights") + "/meetings"
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        await psycopg.AsyncConnection.connect(url)


async def test_servers_listen_on_loopback_only(servers: Stack) -> None:
    addresses = {
        connection.laddr.ip
        for name in ("postgres", "nats", "redis")
        for connection in psutil.Process(servers.runner.pid(name)).net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {HOST}


async def test_a_killed_broker_comes_back_with_what_it_had_acknowledged(servers: Stack) -> None:
    assert await published(servers) == 1
    servers.kill("nats")
    await servers.runner.ended("nats", 5)
    await servers.restart("nats")
    assert await published(servers) == 2


@pytest.mark.parametrize("version", [(2, 9), (2, 12)])
async def test_both_versions_of_nats_keep_a_stream(folder: Path, version: tuple[int, int]) -> None:
    binary = nats_binary(version)
    stack = Stack(Plan(folder / "data", Ports.free(), replicas=NO_SERVICES, nats_server=str(binary)))
    await stack.start()
    try:
        assert await published(stack) == 1
    finally:
        await stack.stop()


def nats_binary(version: tuple[int, int]) -> Path:
    """Find a nats-server of a version; where it cannot be had the test says so."""
    built = ROOT / ".run" / "bin" / "nats-server"
    named = os.environ.get("VERBATIM_NATS_SERVER_2_9" if version == (2, 9) else "VERBATIM_NATS_SERVER")
    for candidate in (named, "/usr/sbin/nats-server", str(built)):
        if candidate and Path(candidate).exists():
            found = find_or_install_nats(ROOT / ".run" / "bin", print, candidate)
            if found.version[:2] == version:
                return found.binary
    return pytest.skip(f"no nats-server {version[0]}.{version[1]} on this machine")


@pytest.mark.long
async def test_the_second_stack_gets_its_own_ports_and_data(servers: Stack, folder: Path) -> None:
    second = Stack(Plan(folder / "second", Ports.free(), replicas=NO_SERVICES))
    await second.start()
    try:
        assert second.plan.ports.of("nats") != servers.plan.ports.of("nats")
        assert await published(servers) == 1
        assert await published(second) == 1
    finally:
        await second.stop()


async def test_a_data_folder_in_use_is_refused_with_the_pid_of_its_user(servers: Stack) -> None:
    second = Stack(Plan(servers.plan.data_folder, Ports.free(), replicas=NO_SERVICES))
    with pytest.raises(AlreadyRunningError, match=rf"pid {os.getpid()}\b"):
        await second.start()
    assert running_state(servers.plan.data_folder) is not None, "the refused one must not disturb the first"


def test_a_busy_port_is_reported_with_its_owner_and_what_to_do() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SQUATTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as squatter:
        assert squatter.stdin is not None
        assert squatter.stdout is not None
        port = int(squatter.stdout.readline())
        with pytest.raises(PortBusyError) as caught:
            Ports.fixed(port).check()
        squatter.stdin.close()
    message = str(caught.value)
    assert f"port {port} (gateway)" in message
    assert "in use by python" in message
    assert f"(pid {squatter.pid})" in message
    assert f"PORT={port + 100} make run" in message


def test_a_claimed_block_of_ports_is_given_to_nobody_else() -> None:
    plans = [Ports.free() for _ in range(5)]
    assert len({plan.of("gateway") for plan in plans}) == 5
    for plan in plans:
        plan.release()


def test_fixed_ports_move_with_the_public_one() -> None:
    one, other = Ports.fixed(8000), Ports.fixed(8100)
    assert (one.of("gateway"), other.of("gateway")) == (8000, 8100)
    assert {one.of(f"{n}") for n in range(40)}.isdisjoint({other.of(f"{n}") for n in range(40)})
    assert Ports.fixed(65_000).of("nats") < 65_536


@pytest.mark.req("R-RUN-1")
async def test_services_get_what_their_settings_name(folder: Path, code: Path) -> None:
    plan = Plan(
        folder / "data",
        Ports.free(),
        replicas={"transcriber": 2, "meetings": 2},
        extra_env={"*": {"LOG_LEVEL": "DEBUG"}, "gateway": {"RATE_LIMIT": "off"}},
        passed_on={"LOG_LEVEL": "WARNING", "WHISPER_MODEL": "large"},
        code=code,
    )
    stack = Stack(plan)
    await stack.start()
    try:
        seen = {
            name: json.loads(
                (plan.data_folder / "scratch" / f"env-{plan.ports.of(name + ' internal')}.json").read_text()
            )
            for name in plan.names()
        }
        assert (plan.data_folder / "scratch" / "migrated-meetings").exists()
        assert (plan.data_folder / "scratch" / "migrated-insights").exists()
    finally:
        await stack.stop()
    assert list(seen) == [
        "gateway",
        "transcriber",
        "transcriber-2",
        "meetings",
        "meetings-2",
        "insights",
        "janitor",
    ]
    gateway = seen["gateway"]
    assert gateway["TRANSCRIBER_TARGETS"] == ",".join(
        f"{HOST}:{seen[name]['GRPC_PORT']}" for name in ("transcriber", "transcriber-2")
    )
    assert gateway["MEETINGS_TARGET"] == (
        f"ipv4:{HOST}:{seen['meetings']['GRPC_PORT']},{HOST}:{seen['meetings-2']['GRPC_PORT']}"
    )
    assert gateway["INSIGHTS_TARGET"] == f"{HOST}:{seen['insights']['GRPC_PORT']}"
    assert stack.url == f"http://{gateway['HOST']}:{gateway['PORT']}"
    assert gateway["RATE_LIMIT"] == "off"
    assert gateway["AUTH_PUBLIC_KEY"].startswith("-----BEGIN PUBLIC KEY-----")
    assert "AUTH_PRIVATE_KEY" not in gateway
    assert seen["meetings"]["AUTH_PRIVATE_KEY"].startswith("-----BEGIN PRIVATE KEY-----")
    assert seen["insights"]["DATABASE_URL_INSIGHTS"].startswith("postgresql+psycopg://insights:")
    for env in seen.values():
        assert env["LOG_LEVEL"] == "DEBUG"
        assert env["WHISPER_MODEL"] == "large"
        assert len(bytes.fromhex(env["SERVICE_AUTH_KEY"])) == 32


async def test_a_service_that_falls_is_named_and_can_be_restarted(folder: Path, code: Path) -> None:
    stack = Stack(Plan(folder / "data", Ports.free(), code=code))
    await stack.start()
    try:
        pid = stack.runner.pid("insights")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        death = await stack.died()
        assert death.name == "insights"
        assert "SIGKILL" in str(death)
        await stack.restart("insights")
        assert stack.runner.pid("insights") is not None
    finally:
        await stack.stop()


async def test_a_start_that_fails_stops_what_it_had_started(folder: Path, code: Path) -> None:
    (code / "services" / "janitor" / "__main__.py").write_text("raise SystemExit('no such variable: NATS_URL')")
    stack = Stack(Plan(folder / "data", Ports.free(), code=code))
    with pytest.raises(ProcessDiedError, match="janitor") as caught:
        await stack.start()
    assert "no such variable" in caught.value.tail
    assert stack.runner.running() == []
    assert running_state(folder / "data") is None


def test_secrets_are_made_once_and_for_their_owner_only(folder: Path) -> None:
    keys = Keys.kept_in(folder / "keys")
    assert Keys.kept_in(folder / "keys") == keys
    assert Keys.kept_in(folder / "other") != keys
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder / "keys").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700


STACK_SCRIPT = """
import asyncio, sys
from pathlib import Path
from dev.plan import SERVICES, Plan
from dev.ports import Ports
from dev.stack import Stack

async def main() -> None:
    stack = Stack(Plan(Path(sys.argv[1]), Ports.fixed(int(sys.argv[2])), replicas=dict.fromkeys(SERVICES, 0)))
    await stack.start()
    print(*(stack.runner.pid(name) for name in stack.runner.running()), flush=True)
    await asyncio.sleep(120)

asyncio.run(main())
"""


@pytest.mark.req("R-RUN-1")
def test_a_stack_killed_with_sigkill_leaves_nothing_and_starts_again_at_once(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = str(probe.getsockname()[1])
    argv = [sys.executable, "-c", STACK_SCRIPT, str(folder / "data"), port]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        pids = [int(pid) for pid in first.stdout.readline().split()] if first.stdout else []
        everything = [child for pid in pids for child in (psutil.Process(pid), *psutil.Process(pid).children())]
        first.kill()
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as second:
        assert second.stdout is not None
        assert len(second.stdout.readline().split()) == 3
        deadline = time.monotonic() + 10
        while any(process.is_running() for process in everything) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(pids) == 3
        assert not any(process.is_running() for process in everything)
        second.kill()
