"""One run of the bench: the platform, the bare socket, and a few loads on both in turn."""

from __future__ import annotations

import asyncio
import os
import platform as computer
import re
import sys
import time
from pathlib import Path

import httpx2
import nats

from dev import probes
from dev.environment import plain_environment
from dev.ports import HOST
from dev.runner import Program, Runner
from dev.settings import ROOT
from tests.bench.figures import Broker, Figures, Round, line
from tests.bench.load import Crowd
from tests.bench.probe import Probe
from tests.bench.processes import usage
from tests.chaos.platform import Platform

SETTLE_S = 3.0
PUBLISHES = 4000
PUBLISH_WINDOW = 64
MESSAGE = bytes(6400 + 8)
ONE_OF_EACH = {"gateway": 1, "transcriber": 1, "meetings": 1}
TRANSCRIBER_ENV = {"SOFT_CAP_MS": "12000", "HARD_CAP_MS": "28000"}  # as they ship; the fault tests cut earlier
MEASURED = ("gateway", "transcriber", "nats", "meetings", "postgres")


class Bench:
    """What the loads run on."""

    def __init__(self, platform: Platform, bare: Runner, limit_port: int, token: str) -> None:
        stack = platform.stack
        self._url, self._token = stack.ws_url, token
        self._limit_url = f"ws://{HOST}:{limit_port}/"
        self._metrics_url = stack.internal_url("transcriber") + "/metrics"
        self._pids = {name: stack.runner.pid(name) or 0 for name in MEASURED}
        self._pids |= {"speech API": platform.oracle_pid, "load": os.getpid()}
        self._limit_pids = {"limit": bare.pid("limit") or 0}
        self._empty = {name: usage(pid).rss_bytes for name, pid in (self._pids | self._limit_pids).items()}

    async def round(self, sessions: int, seconds: float) -> Round:
        """Put one load on the platform, then the same on the bare socket for half as long."""
        return Round(await self.load_platform(sessions, seconds), await self.load_limit(sessions, seconds / 2))

    async def load_platform(self, sessions: int, seconds: float) -> Figures:
        """Measure the platform."""
        probe = Probe(self._url, self._token)
        crowd = Crowd(self._url, self._token, sessions)
        figures = await self._measure(crowd, self._pids, seconds, probe)
        figures.relay_s.extend(probe.answers_s)
        return figures

    async def load_alone(self, sessions: int, seconds: float) -> Figures:
        """Measure what the platform uses; nobody looks at how soon it answers."""
        return await self._measure(Crowd(self._url, self._token, sessions), self._pids, seconds)

    async def load_limit(self, sessions: int, seconds: float) -> Figures:
        """Measure the bare socket."""
        return await self._measure(Crowd(self._limit_url, None, sessions), self._limit_pids, seconds)

    async def _measure(self, crowd: Crowd, pids: dict[str, int], seconds: float, probe: Probe | None = None) -> Figures:
        await crowd.start()
        await asyncio.sleep(SETTLE_S)
        before = {name: usage(pid) for name, pid in pids.items()}
        began = time.perf_counter()
        probing = asyncio.create_task(probe.run(seconds)) if probe else None
        load = await crowd.measure(seconds)
        took = time.perf_counter() - began
        after = {name: usage(pid) for name, pid in pids.items()}
        audio = await self._audio_bytes() if probe else 0.0
        if probing:
            await probing
        await crowd.stop()
        grown = {name: after[name].rss_bytes - self._empty[name] for name in pids}
        return Figures(load, took, {name: after[name] - before[name] for name in pids}, grown, audio)

    async def _audio_bytes(self) -> float:
        async with httpx2.AsyncClient() as http:
            text = (await http.get(self._metrics_url)).text
        found = re.search(r"^session_buffer_bytes (\S+)", text, re.MULTILINE)
        assert found is not None
        return float(found[1])


async def run(counts: list[int], seconds: float, folder: Path, nats_server: str | None) -> tuple[list[Round], Broker]:
    """Measure everything, telling each round as it is done."""
    async with Platform(
        folder,
        replicas=ONE_OF_EACH,
        nats_server=nats_server,
        through_proxies=False,
        env={"transcriber": TRANSCRIBER_ENV},
    ) as platform:
        await platform.script(latency_s=0.0, deaf=True)
        runner = Runner(platform.plan.log_folder)
        port = platform.plan.ports.of("limit")
        try:
            await runner.start(limit(port))
            async with await platform.new_client() as client:
                assert client.access_token is not None
                bench = Bench(platform, runner, port, client.access_token)
                rounds = []
                for count in counts:
                    rounds.append(await bench.round(count, seconds))
                    print(line(rounds[-1]), flush=True)
            return rounds, await _publish(platform.plan.nats_url)
        finally:
            await runner.stop()


async def _publish(url: str) -> Broker:
    client = await nats.connect(url)
    jet = client.jetstream(publish_async_max_pending=PUBLISH_WINDOW)
    await jet.add_stream(name="BENCH", subjects=["bench"], max_bytes=256 * 1024 * 1024)
    try:
        times = []
        for _ in range(PUBLISHES // 4):
            began = time.perf_counter()
            await jet.publish("bench", MESSAGE)
            times.append(time.perf_counter() - began)
        began = time.perf_counter()
        futures = [await jet.publish_async("bench", MESSAGE) for _ in range(PUBLISHES)]
        await asyncio.gather(*futures)
        windowed = PUBLISHES / (time.perf_counter() - began)
    finally:
        await jet.delete_stream("BENCH")
        await client.close()
    times.sort()
    p50, p99 = (1000 * times[int(share * len(times))] for share in (0.5, 0.99))
    return Broker(p50, p99, len(times) / sum(times), windowed, PUBLISH_WINDOW)


def machine() -> str:
    """Say what the figures come from."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cores = len(os.sched_getaffinity(0))
    return f"{cores} shared cores ({model[1] if model else 'unknown'}), Python {computer.python_version()}."


def limit(port: int) -> Program:
    """Return the bare socket as a program."""
    python_path = os.pathsep.join(str(ROOT / part) for part in (".", "build/gen", "sdk"))
    return Program(
        name="limit",
        argv=[sys.executable, "-m", "tests.bench.limit", str(port)],
        env=plain_environment() | {"PYTHONPATH": python_path},
        cwd=ROOT,
        ready=probes.http(port, "/"),
    )
