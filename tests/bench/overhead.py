"""Measure what metrics, traces and logs cost on the live path: CPU per chunk with and without, in turn, in one run.

python -m tests.bench.overhead [--sessions 100] [--seconds 15] [--rounds 3] [--out docs/performance-overhead.md]

Two platforms run beside each other and are loaded in turn. One tells of itself as it ships: metrics (read every 5 s),
a tenth of all traces to a receiver, log lines from INFO. In the other the libraries count nothing and make no span, and
nothing below CRITICAL is logged (`unseen`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx2
import uvloop

from dev.runner import Runner
from tests.bench.run import ONE_OF_EACH, TRANSCRIBER_ENV, Bench, limit, machine
from tests.chaos.controls import WHOLE, Control
from tests.chaos.platform import Platform
from tests.observe.receivers import Collector, Receiver

PATH = ("gateway", "transcriber")
READ_EVERY_S = 5.0
TARGET = 0.10
UNSEEN = Control("being seen", modules={name: f"tests.bench.unseen.{name}" for name in PATH})

Costs = dict[str, list[float]]


@asynccontextmanager
async def bench(folder: Path, control: Control, everywhere: dict[str, str]) -> AsyncIterator[Bench]:
    """A platform that can be loaded; what it tells is read."""
    async with AsyncExitStack() as exits:
        platform = await exits.enter_async_context(
            Platform(
                folder, control=control, replicas=ONE_OF_EACH, through_proxies=False,
                nats_server=os.environ.get("VERBATIM_NATS_SERVER") or None,
                env={"transcriber": TRANSCRIBER_ENV, "*": everywhere},
            )
        )  # fmt: skip
        await platform.script(latency_s=0.0, deaf=True)
        runner = Runner(platform.plan.log_folder)
        exits.push_async_callback(runner.stop)
        port = platform.plan.ports.of("limit")
        await runner.start(limit(port))
        client = await exits.enter_async_context(await platform.new_client())
        assert client.access_token is not None
        reading = asyncio.create_task(_read([platform.stack.internal_url(name) for name in PATH]))
        try:
            yield Bench(platform, runner, port, client.access_token)
        finally:
            reading.cancel()
            await asyncio.wait([reading])


async def _read(urls: list[str]) -> None:
    async with httpx2.AsyncClient(timeout=5.0) as http:
        while True:
            for url in urls:
                with suppress(httpx2.TransportError):
                    await http.get(f"{url}/metrics", headers={"Accept": "application/openmetrics-text"})
            await asyncio.sleep(READ_EVERY_S)


async def run(sessions: int, seconds: float, rounds: int, folder: Path) -> Costs:
    """Return microseconds of CPU per chunk of every round, seen and unseen."""
    costs: Costs = {"seen": [], "unseen": []}
    async with AsyncExitStack() as exits:
        spans = await exits.enter_async_context(Receiver(Collector().take).running())
        seen = await exits.enter_async_context(
            bench(folder / "seen", WHOLE, {"OTEL_EXPORTER_OTLP_ENDPOINT": spans.url})
        )
        unseen = await exits.enter_async_context(bench(folder / "unseen", UNSEEN, {"LOG_LEVEL": "CRITICAL"}))
        for number in range(rounds + 1):
            order = (("seen", seen), ("unseen", unseen))
            for name, one in order if number % 2 else reversed(order):
                figures = await one.load_alone(sessions, seconds)
                cpu_us = 1e6 * sum(figures.used[part].cpu_s for part in PATH) / figures.load.frames
                print(f"{name:>7}: {cpu_us:.1f} µs of CPU per chunk, {figures.load.frames} chunks", flush=True)
                if number:  # the first round warms both up
                    costs[name].append(cpu_us)
    return costs


def page(costs: Costs, sessions: int, seconds: float) -> str:
    """Return the document."""
    seen, unseen = (statistics.median(costs[name]) for name in ("seen", "unseen"))
    rows = "\n".join(
        f"| {name} | {statistics.median(values):.1f} | {', '.join(f'{value:.1f}' for value in values)} |"
        for name, values in costs.items()
    )
    return f"""# What being seen costs

`python -m tests.bench.overhead` wrote this page: {sessions} live sessions in real time, chunks of 100 ms,
{seconds:g} s a round, the two platforms in turn. *seen* is as it ships: metrics, read every 5 s; a tenth of all
traces to a receiver; log lines from INFO. *unseen* counts nothing, makes no span, logs nothing. CPU of gateway and
transcriber together.

| | µs of CPU per chunk, median | rounds |
|---|---|---|
{rows}

Being seen costs {seen / unseen - 1:+.1%} (target: at most {TARGET:.0%}).

{machine()}
"""


def main() -> None:
    """Print the page, and write it if asked to. Exits with 1 if being seen costs more than the target."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overhead", description=__doc__)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user when we are root
        costs = uvloop.run(run(chosen.sessions, chosen.seconds, chosen.rounds, Path(name)))
    text = page(costs, chosen.sessions, chosen.seconds)
    print(f"\n{text}")
    if chosen.out:
        chosen.out.write_text(text)
    raise SystemExit(statistics.median(costs["seen"]) > (1 + TARGET) * statistics.median(costs["unseen"]))


if __name__ == "__main__":
    main()
