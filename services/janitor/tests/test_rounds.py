"""Rounds that fail, and the janitor as a process with and without a broker."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from chassis import bus
from chassis.dead_letters import DLQ
from chassis.tests.servers import NatsServer
from recovery import marks
from services.janitor.rounds import Round
from services.janitor.tests.test_sweep import made

pytestmark = pytest.mark.req("R-SVC-5")


def sample(name: str, task: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"task": task, **labels})


async def test_a_round_that_fails_is_counted_and_does_not_stop_the_next() -> None:
    outcomes: list[Exception | None] = [OSError("disk on fire"), RuntimeError("bug"), None]

    async def work() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    task = Round("flaky", work, every_s=1.0, deadline_s=1.0)
    assert [await task.once(), await task.once()] == [False, False]
    assert sample("janitor_last_run_success", "flaky") == 0.0
    assert await task.once()
    assert sample("janitor_last_run_success", "flaky") == 1.0
    assert sample("janitor_runs_total", "flaky", result="failed") == 2.0
    assert sample("janitor_runs_total", "flaky", result="done") == 1.0
    assert (sample("janitor_last_run_timestamp_seconds", "flaky") or 0.0) > 1.7e9
    assert sample("janitor_run_duration_seconds_count", "flaky") == 3.0


async def test_a_round_has_a_deadline() -> None:
    task = Round("endless", asyncio.Event().wait, every_s=1.0, deadline_s=0.05)  # type: ignore[arg-type]
    assert not await task.once()


class Janitor:
    """The service as a process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self._port = port

    async def get(self, path: str) -> str:
        def read() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=2) as answer:
                return str(answer.read().decode())

        try:
            return await asyncio.to_thread(read)
        except OSError:
            return ""

    async def value(self, metric: str) -> float | None:
        for line in (await self.get("/metrics")).splitlines():
            if line.startswith(f"{metric} "):
                return float(line.split()[-1])
        return None


@asynccontextmanager
async def running(data: Path, nats_url: str, **env: str) -> AsyncIterator[Janitor]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.janitor",
        cwd=Path(__file__).parents[3],
        stdout=asyncio.subprocess.DEVNULL,
        env=os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "VERBATIM_DATA_DIR": str(data), "INTERNAL_PORT": str(port), "NATS_URL": nats_url,
            "SERVICE_AUTH_KEY": "k" * 32,
            "UPLOADS_EVERY_S": "0.2", "DISK_EVERY_S": "0.2", "DEAD_LETTERS_EVERY_S": "0.2",
            **env,
        },
    )  # fmt: skip
    janitor = Janitor(process, port)
    try:
        await eventually(lambda: ready(janitor))
        yield janitor
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ready(janitor: Janitor) -> bool:
    return '"ready"' in await janitor.get("/readyz")


async def eventually(holds: Callable[[], Awaitable[bool]], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not await holds():
            await asyncio.sleep(0.05)


async def test_the_janitor_works_while_there_is_no_broker(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    left = made(tmp_path / "uploads", "upload_1", 7200.0)
    async with running(tmp_path, "nats://127.0.0.1:9") as janitor:

        async def gone() -> bool:
            return not left.exists()

        async def measured() -> bool:
            free, size = await janitor.value("disk_free_bytes"), await janitor.value("disk_size_bytes")
            failed = await janitor.value('janitor_last_run_success{task="dead letters"}')
            return bool(free) and bool(size) and failed == 0.0

        await eventually(gone)
        await eventually(measured)
        janitor.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(janitor.process.wait(), 10.0) == 0


async def test_the_janitor_counts_dead_letters_when_a_broker_comes(tmp_path: Path, nats_server: NatsServer) -> None:
    nats_server.kill()
    async with running(tmp_path, nats_server.url) as janitor:
        nats_server.start()
        async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
            await broker.declare(DLQ)
            for number in range(3):
                await broker.publish("dlq.sum", b"{}", message_id=str(number))

            async def counted() -> bool:
                return await janitor.value("dead_letters") == 3.0

            await eventually(counted)


async def test_backups_are_watched_where_they_are_expected(tmp_path: Path, nats_server: NatsServer) -> None:
    env = {"BACKUP_EXPECTED": "true", "BACKUPS_EVERY_S": "0.2"}
    metric = 'backup_last_success_timestamp_seconds{of="all"}'
    async with running(tmp_path, nats_server.url, **env) as janitor:

        async def is_none() -> bool:
            return await janitor.value(metric) == 0.0

        await eventually(is_none)
        async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
            await marks.note(broker, at_s=1_800_000_000.5, took_s=1.0, size=7, replicas=1)

        async def is_known() -> bool:
            return await janitor.value(metric) == 1_800_000_000.5

        await eventually(is_known)


async def test_beside_a_pod_the_janitor_does_only_what_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    left = made(tmp_path / "uploads", "upload_1", 7200.0)
    async with running(tmp_path, "nats://127.0.0.1:9", ROUNDS='["uploads", "memory"]') as janitor:

        async def done() -> bool:
            return bool(await janitor.value('janitor_last_run_success{task="memory"}')) and not left.exists()

        await eventually(done)
        page = await janitor.get("/metrics")
        assert 'task="sessions"' not in page
        assert 'task="disk"' not in page


async def test_a_dry_run_of_everything_tells_and_removes_nothing(tmp_path: Path, nats_server: NatsServer) -> None:
    (tmp_path / "uploads").mkdir()
    left = made(tmp_path / "uploads", "upload_1", 7200.0)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.janitor", "--dry-run",
        cwd=Path(__file__).parents[3], stdout=asyncio.subprocess.PIPE,
        env=os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path), "VERBATIM_DATA_DIR": str(tmp_path), "NATS_URL": nats_server.url,
            "SERVICE_AUTH_KEY": "k" * 32,
        },
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, left.exists()) == (0, True)
    assert b"would remove a left-over" in said


@pytest.mark.parametrize(
    ("env", "named"),
    [({"ROUNDS": '["sweep"]'}, b"ROUNDS"), ({"DISK_REFUSE_SHARE": "0.5"}, b"DISK_CLEAN_SHARE <= DISK_ALLOW_SHARE")],
)
async def test_settings_that_do_not_hold_are_named(tmp_path: Path, env: dict[str, str], named: bytes) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.janitor",
        cwd=Path(__file__).parents[3], stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "SERVICE_AUTH_KEY": "k" * 32, **env},
    )  # fmt: skip
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert named in said
