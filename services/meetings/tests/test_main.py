from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from verbatim.meetings.v1 import meetings_pb2 as meetings_pb
from verbatim.meetings.v1.meetings_pb2_grpc import MeetingsServiceStub

from chassis import bus, ids, rpc
from chassis.bus import Stream
from chassis.errors import AppError
from chassis.rpc import Identity, Peer
from chassis.tests.servers import NatsServer, PostgresServer, _free_port
from services.meetings.tests.conftest import KEY
from services.meetings.tests.logbook import meeting_log

ROOT = Path(__file__).resolve().parents[3]
WITHIN_S = 30.0


class Service:
    """The service as a process of its own."""

    def __init__(self, database_url: str, nats_url: str, private_pem: str) -> None:
        self.grpc_port, self.internal_port = _free_port(), _free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'build/gen'}",
            "DATABASE_URL_MEETINGS": database_url,
            "NATS_URL": nats_url,
            "AUTH_PRIVATE_KEY": private_pem,
            "SERVICE_AUTH_KEY": KEY,
            "GRPC_PORT": str(self.grpc_port),
            "INTERNAL_PORT": str(self.internal_port),
            "DRAIN_S": "5",
        }

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the service's command line to its end."""
        return subprocess.run(
            [sys.executable, "-m", "services.meetings", *arguments],
            env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    @contextmanager
    def running(self, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Let the service run."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.meetings"], env=self.environment, cwd=ROOT, stdout=out, stderr=out
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait(timeout=10)

    def faults(self) -> dict[str, str] | None:
        """Return what keeps the service from being ready, or None if it does not answer at all."""
        url = f"http://127.0.0.1:{self.internal_port}/readyz"
        try:
            with urllib.request.urlopen(url, timeout=3) as answer:
                found: dict[str, str] = json.load(answer)["faults"]
        except urllib.error.HTTPError as unready:
            found = json.load(unready)["faults"]
        except OSError:
            return None
        return found

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a state."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                if await holds():
                    return
                await asyncio.sleep(0.05)

    async def until_faults(self, wanted: dict[str, str]) -> None:
        """Wait until exactly these faults are told."""

        async def holds() -> bool:
            return await asyncio.to_thread(self.faults) == wanted

        await self.until(holds)


async def meeting_count(peer: Peer, owner: str) -> int:
    request = meetings_pb.ListMeetingsRequest(owner_id=owner)
    return len((await peer.call(MeetingsServiceStub(peer.channel).ListMeetings, request, timeout_s=5)).meetings)


@pytest.mark.req("R-SVC-7")
async def test_service_starts_without_a_broker_catches_up_with_one_and_drains(
    database_url: str, nats_server: NatsServer, private_pem: str, tmp_path: Path, owner: str
) -> None:
    nats_server.kill()
    service = Service(database_url, nats_server.url, private_pem)
    with service.running(tmp_path / "log") as process:
        await service.until_faults({})
        async with rpc.peer(f"127.0.0.1:{service.grpc_port}", Identity("gateway", KEY)) as peer:
            assert await meeting_count(peer, owner) == 0
            nats_server.start()
            log = meeting_log(owner)
            async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
                await broker.declare(Stream("TRANSCRIPT", ("transcript.*",), max_bytes=1024**2))
                for entry in log.entries:
                    await broker.publish(f"transcript.{entry.session_id}", entry.SerializeToString())

                async def stored() -> bool:
                    return await meeting_count(peer, owner) == 1

                await service.until(stored)

                async def told() -> bool:
                    found = await broker.js.stream_info("EVENTS", subjects_filter="events.meeting.completed")
                    return bool(found.state.messages)

                await service.until(told)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 10) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines[-1]["event"] == "stopped"
    # What was said is nobody's business who reads logs.
    assert "Good morning" not in (tmp_path / "log").read_text()


@pytest.mark.req("R-SVC-7")
async def test_service_is_not_ready_before_its_schema_is_and_migrates_on_command(
    postgres_server: PostgresServer, nats_server: NatsServer, private_pem: str, tmp_path: Path
) -> None:
    service = Service(postgres_server.create_database(), nats_server.url, private_pem)
    with service.running(tmp_path / "log") as process:
        await service.until_faults({"database": "SchemaMissing"})
        assert service.command("migrate").returncode == 0
        await service.until_faults({})
        assert process.poll() is None


@pytest.mark.req("R-DB-3")
async def test_service_outlives_its_database_connections(
    database_url: str, nats_server: NatsServer, private_pem: str, tmp_path: Path, owner: str
) -> None:
    service = Service(database_url, nats_server.url, private_pem)
    with service.running(tmp_path / "log") as process:
        await service.until_faults({})
        async with rpc.peer(f"127.0.0.1:{service.grpc_port}", Identity("gateway", KEY)) as peer:
            assert await meeting_count(peer, owner) == 0
            with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )

            async def answers() -> bool:
                try:
                    return await meeting_count(peer, ids.new_id()) == 0
                except AppError as error:
                    assert error.kind == "service_unavailable"
                    return False

            await service.until(answers)
        await service.until_faults({})
        assert process.poll() is None


@pytest.mark.req("R-SVC-7")
def test_missing_setting_is_named_and_its_value_is_not() -> None:
    service = Service("postgresql+psycopg://nobody@127.0.0.1/none", "nats://127.0.0.1:1", "pem")
    del service.environment["AUTH_PRIVATE_KEY"]
    service.environment["SERVICE_AUTH_KEY"] = "too short"
    result = service.command()
    assert result.returncode == 2
    assert "AUTH_PRIVATE_KEY" in result.stderr
    assert "SERVICE_AUTH_KEY" in result.stderr
    assert "too short" not in result.stderr
