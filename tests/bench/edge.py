"""Measure what the edge costs: requests beside bare FastAPI, files beside the bare store, a limit beside a PING.

python -m tests.bench.edge [--requests 4000] [--megabytes 90] [--rounds 5] [--out docs/performance-edge.md]

All in one run, in turn. What a request costs is the processor time of the process that answers it, so that it does not
matter much what else the machine does; latencies do depend on that, and are told for the same minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import nats
import psutil
import redis.asyncio as redis
import uvloop

from chassis.cache import Cache, State
from chassis.limits import Charge, Limiter, Quota
from chassis.redis_lane import Lane
from dev import probes
from dev.environment import plain_environment
from dev.ports import HOST
from dev.runner import Program, Runner
from dev.settings import ROOT
from tests.bench.edge_figures import AT_ONCE, Measured, Served, Stored, page
from tests.bench.processes import usage
from tests.bench.run import ONE_OF_EACH
from tests.chaos.platform import Platform
from tests.chaos.rawhttp import Caller

CHECKS = 400
PIECE_BYTES = 256 * 1024
SAMPLE_S = 0.02
QUOTAS = (Quota("ip-minute", 10**6, 60.0), Quota("ip-hour", 10**7, 3600.0))
ACCOUNT_QUOTAS = (Quota("account-minute", 10**6, 60.0), Quota("account-hour", 10**7, 3600.0))


@dataclass(frozen=True)
class Target:
    """Whom to ask what."""

    name: str
    pid: int
    port: int
    path: str
    fields: dict[str, str]


async def serve(targets: list[Target], requests: int, rounds: int) -> dict[str, Served]:
    """Ask each target in turn, round by round."""
    served = {target.name: Served() for target in targets}
    for _ in range(rounds):
        for target in targets:
            await _ask(target, served[target.name], requests // rounds)
    return served


async def _ask(target: Target, served: Served, count: int) -> None:
    async def many() -> None:
        async with Caller(target.port, HOST) as caller:
            for _ in range(count // AT_ONCE):
                answer = await caller.ask("GET", target.path, fields=target.fields)
                # On a machine that is much too busy a call may meet its deadline: that is told, and costs nothing less.
                served.failed += answer.status != httpx2.codes.OK
                served.took_s.append(answer.took_s)

    before = usage(target.pid).cpu_s
    await asyncio.gather(*(many() for _ in range(AT_ONCE)))
    served.cpu_s += usage(target.pid).cpu_s - before


async def store(
    ways: Mapping[str, tuple[int, Callable[[int], Awaitable[None]]]], megabytes: int, rounds: int
) -> dict[str, Stored]:
    """Send a file by each way in turn; a way is the process that takes it, and how it is sent."""
    stored = {name: Stored() for name in ways}
    for _ in range(rounds):
        for name, (pid, send) in ways.items():
            one = stored[name]
            before = usage(pid)
            began = time.perf_counter()
            sending = asyncio.ensure_future(send(megabytes * 1_000_000))
            while not sending.done():
                await asyncio.wait([sending], timeout=SAMPLE_S)
                one.grown_bytes = max(one.grown_bytes, psutil.Process(pid).memory_info().rss - before.rss_bytes)
            await sending
            one.mb_per_s.append(megabytes / (time.perf_counter() - began))
            one.cpu_s += usage(pid).cpu_s - before.cpu_s
    return stored


def body(size: int) -> list[bytes]:
    """Return the pieces of a WAV file of silence."""
    data = size - 44
    head = (
        b"RIFF" + (size - 8).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little") + b"\x01\x00\x01\x00"
        + (16_000).to_bytes(4, "little") + (32_000).to_bytes(4, "little") + b"\x02\x00\x10\x00data"
        + data.to_bytes(4, "little")
    )  # fmt: skip
    whole, rest = divmod(data, PIECE_BYTES)
    return [head, *([bytes(PIECE_BYTES)] * whole), bytes(rest)]


async def put(port: int, path: str, fields: dict[str, str], size: int) -> bytes:
    """Send a file as a body; give the answer's body. Raises AssertionError if it is not taken."""
    reader, writer = await asyncio.open_connection(HOST, port)
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"PUT {path} HTTP/1.1\r\nHost: bench\r\n{head}Content-Length: {size}\r\n\r\n".encode())
    for piece in body(size):
        writer.write(piece)
        await writer.drain()
    answered = await reader.readuntil(b"\r\n\r\n")
    assert answered.split()[1] in {b"200", b"202"}, answered
    length = int(answered.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    told = await reader.readexactly(length)
    writer.close()
    return told


async def check_limits(url: str, checks: int, rounds: int) -> dict[str, list[float]]:
    """Return seconds of each PING and each limit check, in turn, one at a time."""
    cache = Cache(url, service="bench", replica="bench")
    limiter = Limiter(cache)
    running = asyncio.create_task(cache.run())
    while cache.state is not State.CONNECTED:
        await asyncio.sleep(0.01)
    lane = await Lane.open(url, stall_s=5.0, timeout_s=10.0)
    took: dict[str, list[float]] = {}
    two = [Charge(quota, "192.0.2.1") for quota in QUOTAS]
    four = [*two, *(Charge(quota, "an account") for quota in ACCOUNT_QUOTAS)]
    async with redis.Redis.from_url(url) as client:
        kinds: dict[str, Callable[[], Awaitable[object]]] = {
            "PING by redis-py": client.ping,
            "PING by our connection": lambda: lane.ask("PING"),
            "limit check, 2 quotas": lambda: limiter.take(*two),
            "limit check, 4 quotas": lambda: limiter.take(*four),
        }
        for _ in range(rounds):
            for name, ask in kinds.items():
                for _ in range(checks):
                    began = time.perf_counter()
                    await ask()
                    took.setdefault(name, []).append(time.perf_counter() - began)
    fallback = cache.statistics().fallback
    assert not fallback, f"memory answered {fallback} times: Redis was too slow to be measured"
    await lane.close()
    running.cancel()
    await asyncio.wait([running])
    return took


async def run(folder: Path, requests: int, megabytes: int, rounds: int) -> Measured:
    """Measure everything on one platform."""
    nats_server = os.environ.get("VERBATIM_NATS_SERVER") or None
    env = {"meetings": {"UPLOAD_BYTES_PER_ACCOUNT": str(10**11), "UPLOADS_PER_ACCOUNT": "10000"}}
    async with (
        Platform(folder, replicas=ONE_OF_EACH, nats_server=nats_server, through_proxies=False, env=env) as platform,
        _bare(platform) as (bare_pid, bare_port),
        await platform.new_client() as client,
    ):
        pid = platform.stack.runner.pid("gateway") or 0
        port = next(port for _, port in platform.gateways.values())
        who = {"Authorization": f"Bearer {client.access_token}"}
        for number in range(5):
            await client.create_meeting(f"Meeting {number}")
        served = await serve(
            [
                Target("bare FastAPI, `/healthz`", bare_pid, bare_port, "/healthz", {}),
                Target("gateway, `/healthz`", pid, port, "/healthz", {}),
                Target("bare FastAPI, `/v1/models`", bare_pid, bare_port, "/v1/models", {}),
                Target("gateway, `/v1/models` (token, limits in Redis, log)", pid, port, "/v1/models", who),
                Target("gateway, `/api/meetings` (and gRPC to meetings)", pid, port, "/api/meetings", who),
            ],
            requests,
            rounds,
        )
        checks = await check_limits(platform.plan.redis_url, CHECKS, rounds)
        broker = await nats.connect(platform.plan.nats_url)
        raw = await broker.jetstream().create_object_store("BENCH")

        async def to_gateway(size: int) -> None:
            told = await put(port, "/api/uploads/silence.wav", who, size)
            job = httpx2.Response(202, content=told).json()["job_id"]
            await client.call("POST", f"/api/jobs/{job}/cancel")

        async def to_bare(size: int) -> None:
            await put(bare_port, "/drop", {}, size)

        async def to_store(size: int) -> None:
            await raw.put("file", b"".join(body(size)))

        ways = {
            "bare FastAPI that drops the bytes": (bare_pid, to_bare),
            "JetStream's object store, by nats-py from memory": (os.getpid(), to_store),
            "gateway, `PUT /api/uploads`": (pid, to_gateway),
        }
        stored = await store(ways, megabytes, rounds)
        await broker.close()
        return Measured(served, stored, checks, megabytes, os.getloadavg()[0])


@asynccontextmanager
async def _bare(platform: Platform) -> AsyncIterator[tuple[int, int]]:
    port = platform.plan.ports.of("bare")
    runner = Runner(platform.plan.log_folder)
    python_path = os.pathsep.join(str(ROOT / part) for part in (".", "build/gen", "sdk"))
    program = Program(
        name="bare",
        argv=[sys.executable, "-m", "tests.bench.bare", str(port)],
        env=plain_environment() | {"PYTHONPATH": python_path},
        cwd=ROOT,
        ready=probes.http(port, "/healthz"),
    )
    await runner.start(program)
    try:
        yield runner.pid("bare") or 0, port
    finally:
        await runner.stop()


def main() -> None:
    """Print the page, and write it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.edge", description=__doc__)
    parser.add_argument("--requests", type=int, default=4000, help="of each kind")
    parser.add_argument("--megabytes", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where the page is written")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user when we are root
        found = uvloop.run(run(Path(name) / "stack", chosen.requests, chosen.megabytes, chosen.rounds))
    text = page(found)
    print(f"\n{text}")
    if chosen.out:
        chosen.out.write_text(text)


if __name__ == "__main__":
    main()
