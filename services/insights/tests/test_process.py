"""The service as a process: its settings, its migrations, its work, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from verbatim.insights.v1 import insights_pb2, insights_pb2_grpc
from verbatim.meetings.v1 import events_pb2, meetings_pb2_grpc

from chassis import bus, ids, rpc
from chassis.errors import AppError, Kind
from chassis.outbox import EVENTS
from chassis.tests.servers import NatsServer
from services.insights.events import COMPLETED
from services.insights.tests.conftest import eventually
from services.insights.tests.fakes import KEY, FakeMeetings, serving

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.req("R-SVC-7")


def environment(**values: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "build" / "gen")])
    return {"PATH": os.environ["PATH"], "PYTHONPATH": path, "SERVICE_AUTH_KEY": KEY, **values}


async def start(env: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.insights", *arguments, env=env, cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


def free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


async def ready(port: int) -> bool:
    def ask() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    return await asyncio.to_thread(ask)


async def test_a_missing_setting_is_named_and_ends_the_process() -> None:
    process = await start(environment())
    _, stderr = await process.communicate()
    assert process.returncode == 2
    assert b"DATABASE_URL_INSIGHTS" in stderr


async def test_the_process_migrates_works_and_leaves_quietly(database_url: str, nats_server: NatsServer) -> None:
    async with serving(
        meetings_pb2_grpc.add_MeetingsServiceServicer_to_server,
        meetings := FakeMeetings(),  # type: ignore[abstract]
    ) as door:
        grpc_port, internal_port = free_ports(2)
        env = environment(
            DATABASE_URL_INSIGHTS=database_url, NATS_URL=nats_server.url, MEETINGS_TARGET=door.target,
            GRPC_PORT=str(grpc_port), INTERNAL_PORT=str(internal_port), OPENAI_API_KEY="",
        )  # fmt: skip
        for _ in range(2):  # migrating again changes nothing
            migration = await start(env, "migrate")
            assert await migration.wait() == 0
        process = await start(env)
        try:
            await eventually(lambda: ready(internal_port))
            owner_id, meeting_id = meetings.add(["anna will send the budget by friday"])
            event = events_pb2.MeetingCompleted(meeting_id=meeting_id, owner_id=owner_id, day="2026-11-25")
            async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
                await broker.declare(EVENTS)  # the service may be ready before it has met the broker
                await broker.publish(COMPLETED, event.SerializeToString(), message_id=ids.new_id())

            async with rpc.peer(f"127.0.0.1:{grpc_port}", rpc.Identity("test", KEY)) as peer:
                stub = insights_pb2_grpc.InsightsServiceStub(peer.channel)
                asked = insights_pb2.GetInsightsRequest(owner_id=owner_id, meeting_id=meeting_id)

                async def there() -> bool:
                    try:
                        answer = await peer.call(stub.GetInsights, asked, timeout_s=5.0)
                    except AppError as fault:
                        assert fault.kind is Kind.NOT_FOUND
                        return False
                    return bool(answer.insights.status == "ready")

                await eventually(there)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 15.0) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
