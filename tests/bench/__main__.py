"""Measure the live path beside the raw limits of the same machine in the same minute.

python -m tests.bench [--sessions 1,50,200] [--seconds 15]

The speech engine answers at once. CPU is that of whole processes per hour of audio; memory is resident growth per
session.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2
import nats
import uvloop

from dev import probes
from dev.environment import plain_environment
from dev.ports import HOST
from dev.runner import Program, Runner
from dev.settings import ROOT
from tests.bench.load import Crowd, Load
from tests.bench.processes import Usage, usage
from tests.chaos.platform import Platform

SETTLE_S = 4.0
PUBLISHES = 4000
PUBLISH_WINDOW = 64
MESSAGE = bytes(6400 + 8)
ONE_OF_EACH = {"gateway": 1, "transcriber": 1, "meetings": 1}


@dataclass(frozen=True)
class Figures:
    """One load's figures. `overhead_p95_ms` is the upper edge of the histogram's bucket."""

    load: Load
    seconds: float
    used: dict[str, Usage]
    grown: dict[str, float]
    overhead_p95_ms: float | None = None

    def per_audio_hour(self, name: str) -> float:
        """CPU seconds per hour of audio."""
        return self.used[name].cpu_s / (self.load.sessions * self.seconds / 3600)


async def run(counts: list[int], seconds: float, folder: Path) -> str:
    """Measure everything and return the page."""
    rows: list[tuple[str, Figures]] = []
    nats_server = os.environ.get("VERBATIM_NATS_SERVER") or None
    async with Platform(folder, replicas=ONE_OF_EACH, nats_server=nats_server, through_proxies=False) as platform:
        await platform.script(latency_s=0.0, deaf=True)
        runner = Runner(platform.plan.log_folder)
        port = platform.plan.ports.of("limit")
        try:
            await runner.start(_limit(port))
            client = await platform.new_client()
            pids = {name: platform.stack.runner.pid(name) or 0 for name in ("gateway", "transcriber", "nats")}
            empty = {name: usage(pid).rss_bytes for name, pid in pids.items()}
            for count in counts:
                crowd = Crowd(platform.stack.ws_url, client.access_token, count)
                metrics = platform.stack.internal_url("transcriber") + "/metrics"
                rows.append(("platform", await _measure(crowd, pids, empty, seconds, metrics)))
                print(_line(*rows[-1]), flush=True)
                limit_pids = {"limit": runner.pid("limit") or 0}
                limit_empty = {"limit": usage(limit_pids["limit"]).rss_bytes}
                raw = Crowd(f"ws://{HOST}:{port}/", None, count)
                rows.append(("bare socket", await _measure(raw, limit_pids, limit_empty, seconds / 2)))
                print(_line(*rows[-1]), flush=True)
            await client.__aexit__(None, None, None)
            published = await _publish(platform.plan.nats_url)
        finally:
            await runner.stop()
    return _page(rows, published)


async def _measure(
    crowd: Crowd, pids: dict[str, int], empty: dict[str, int], seconds: float, metrics: str | None = None
) -> Figures:
    await crowd.start()
    await asyncio.sleep(SETTLE_S)
    overhead = await _overhead(metrics) if metrics else {}
    before = {name: usage(pid) for name, pid in pids.items()}
    began = time.perf_counter()
    load = await crowd.measure(seconds)
    took = time.perf_counter() - began
    after = {name: usage(pid) for name, pid in pids.items()}
    p95 = _p95(overhead, await _overhead(metrics)) if metrics else None
    await crowd.stop()
    grown = {name: (after[name].rss_bytes - empty[name]) / load.sessions / 1e6 for name in pids}
    return Figures(load, took, {name: after[name] - before[name] for name in pids}, grown, p95)


async def _overhead(url: str) -> dict[float, float]:
    async with httpx2.AsyncClient() as http:
        text = (await http.get(url)).text
    found = re.findall(r'segment_overhead_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    return {float(edge.replace("+Inf", "inf")): float(count) for edge, count in found}


def _p95(before: dict[float, float], after: dict[float, float]) -> float | None:
    counts = {edge: after[edge] - before.get(edge, 0.0) for edge in sorted(after)}
    total = counts.get(float("inf"), 0.0)
    return next((1000 * edge for edge, count in counts.items() if total and count >= 0.95 * total), None)


async def _publish(url: str) -> tuple[float, float, float, float]:
    """Return raw JetStream figures: serial p50 and p99 in ms, serial and windowed messages per second."""
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
    return 1000 * times[len(times) // 2], 1000 * times[int(0.99 * len(times))], len(times) / sum(times), windowed


def _line(what: str, figures: Figures) -> str:
    load = figures.load
    cpu = ", ".join(f"{name} {figures.per_audio_hour(name):.1f}" for name in figures.used)
    grown = ", ".join(f"{name} {megabytes:.2f}" for name, megabytes in figures.grown.items())
    overhead = "" if figures.overhead_p95_ms is None else f" · segment overhead p95 <= {figures.overhead_p95_ms:g} ms"
    return (
        f"{load.sessions:>4} sessions, {what:<11}: ack p50 {load.latency_ms(0.5):.1f} ms, "
        f"p99 {load.latency_ms(0.99):.1f} ms · CPU s per audio hour: {cpu} · MB per session: {grown} · "
        f"frames {load.frames}, segments {load.segments}, "
        f"dropped {load.dropped}, generator late at most {1000 * load.late_s_max:.0f} ms{overhead}"
    )


def _page(rows: list[tuple[str, Figures]], published: tuple[float, float, float, float]) -> str:
    lines = [
        "",
        "| sessions | what | ack p50 / p99 ms | CPU s per audio hour | MB per session | segment overhead p95 ms |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for what, figures in rows:
        load = figures.load
        cpu = ", ".join(f"{name} {figures.per_audio_hour(name):.1f}" for name in figures.used)
        grown = ", ".join(f"{name} {megabytes:.2f}" for name, megabytes in figures.grown.items())
        overhead = "–" if figures.overhead_p95_ms is None else f"<= {figures.overhead_p95_ms:g}"
        ack = f"{load.latency_ms(0.5):.1f} / {load.latency_ms(0.99):.1f}"
        lines.append(f"| {load.sessions} | {what} | {ack} | {cpu} | {grown} | {overhead} |")
    p50, p99, serial, windowed = published
    lines.append(
        f"\nJetStream alone, 6.4 kB: one by one p50 {p50:.2f} ms, p99 {p99:.2f} ms, {serial:,.0f}/s; "
        f"{PUBLISH_WINDOW} under way {windowed:,.0f}/s."
    )
    lines.append(
        "Targets (at 400 sessions): durable ack p99 <= 350 ms; gateway and transcriber together <= 6 CPU s per audio "
        "hour; <= 0.2 MB per session beyond the audio; end of speech to segment p95 <= 60 ms beyond silence and engine."
    )
    return "\n".join(lines)


def _limit(port: int) -> Program:
    python_path = os.pathsep.join(str(ROOT / part) for part in (".", "build/gen", "sdk"))
    return Program(
        name="limit",
        argv=[sys.executable, "-m", "tests.bench.limit", str(port)],
        env=plain_environment() | {"PYTHONPATH": python_path},
        cwd=ROOT,
        ready=probes.http(port, "/"),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--sessions", default="1,50,200")
    parser.add_argument("--seconds", type=float, default=15.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        counts = [int(count) for count in chosen.sessions.split(",")]
        print(uvloop.run(run(counts, chosen.seconds, Path(name) / "stack")))


if __name__ == "__main__":
    main()
