"""Real Prometheus and Alertmanager with the shipped rules and routes, beside a stack; and who is paged."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dev import probes
from dev.environment import plain_environment
from dev.plan import service_of
from dev.ports import HOST
from dev.runner import Program
from dev.stack import Stack

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "deploy" / "alerts").glob("*.yaml"))
ALERTMANAGER = ROOT / "deploy" / "alertmanager"
SCRAPE_S = 1
# With scaled rules: a busy machine answers a scrape later than within a second.
SCALED_SCRAPE_S = 2
FOR_S_MAX = 20.0
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BODY_BYTES_MAX = 4 * 1024 * 1024
READY_WITHIN_S = 60.0


@dataclass
class Page:
    """One notification of one alert."""

    receiver: str
    alert: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]
    at: float


@dataclass
class Pager:
    """A webhook receiver that keeps what it is told."""

    pages: list[Page] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of Alertmanager."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        receiver = head.split(" ", 2)[1].strip("/")
        length = next(int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:"))
        told: dict[str, Any] = json.loads(await reader.readexactly(min(length, BODY_BYTES_MAX)))
        for alert in told["alerts"]:
            labels = alert["labels"]
            page = Page(receiver, labels["alertname"], alert["status"], labels, alert["annotations"], time.monotonic())
            self.pages.append(page)
        self.news.set()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def until(self, holds: Callable[[Page], bool], within_s: float) -> Page:
        """Return the first page for which it holds. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while True:
                self.news.clear()
                for page in self.pages:
                    if holds(page):
                        return page
                await self.news.wait()


@asynccontextmanager
async def watched(
    stack: Stack, folder: Path, *, faster: float = 1.0, beside: Mapping[str, str] | None = None
) -> AsyncIterator[Pager]:
    """Watch a running stack until the end. Only intervals and receivers are other than shipped.

    `faster` divides every window, pause and `for` of the rules (and no `for` is longer than FOR_S_MAX then); thresholds
    stay what they are, those in seconds too. `beside` are addresses of other things to watch, by what they are.
    """
    pager = Pager()
    server = await asyncio.start_server(pager.take, HOST, 0)
    pager.url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    ports = stack.plan.ports
    prometheus, alertmanager = ports.of("prometheus"), ports.of("alertmanager")
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(_routes(pager.url)))
    shutil.copy(ALERTMANAGER / "templates.tmpl", folder)
    rules, scrape_s = (RULES, SCRAPE_S) if faster == 1.0 else (scaled(folder, faster), SCALED_SCRAPE_S)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(_scrapes(stack, alertmanager, rules, scrape_s, beside or {})))
    programs = [
        Program(
            name="alertmanager",
            argv=[
                _program("prometheus-alertmanager", "alertmanager"),
                f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alertmanager",
                f"--web.listen-address={HOST}:{alertmanager}", "--cluster.listen-address=",
            ],
            env=plain_environment(), cwd=folder,
            ready=probes.http(alertmanager, "/-/ready"), ready_within_s=READY_WITHIN_S,
        ),
        Program(
            name="prometheus",
            argv=[
                _program("prometheus"),
                f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
                f"--web.listen-address={HOST}:{prometheus}", "--rules.alert.resend-delay=2s",
                "--enable-feature=exemplar-storage",
            ],
            env=plain_environment(), cwd=folder,
            ready=probes.http(prometheus, "/-/ready"), ready_within_s=READY_WITHIN_S,
        ),
    ]  # fmt: skip
    try:
        await stack.runner.start(*programs)
        yield pager
    finally:
        server.close()
        await server.wait_closed()


def available() -> bool:
    """Tell whether both programs are on this machine."""
    return bool(shutil.which("prometheus")) and bool(_which("prometheus-alertmanager", "alertmanager"))


def _which(*names: str) -> str | None:
    return next((found for name in names if (found := shutil.which(name))), None)


def _program(*names: str) -> str:
    found = _which(*names)
    assert found is not None, names
    return found


def _routes(url: str) -> dict[str, Any]:
    """Return the shipped configuration with every receiver here, and nobody waiting to be told."""
    shipped: dict[str, Any] = yaml.safe_load((ALERTMANAGER / "alertmanager.yml").read_text())
    shipped["receivers"] = [
        {"name": told["name"], "webhook_configs": [{"url": f"{url}/{told['name']}", "send_resolved": True}]}
        for told in shipped["receivers"]
    ]
    del shipped["global"]
    for route in [shipped["route"], *shipped["route"]["routes"]]:
        route["group_wait"], route["group_interval"] = "1s", "1s"
    return shipped


def scaled(folder: Path, faster: float) -> list[Path]:
    """Write the shipped rules with shorter times, and return where."""
    for path in RULES:
        shipped = yaml.safe_load(path.read_text())
        for group in shipped["groups"]:
            if "interval" in group:
                group["interval"] = _shorter(group["interval"], faster, SCALED_SCRAPE_S)
            for rule in group["rules"]:
                windows = re.compile(r"(?<=\[)(\d+[smhd])(?=\])")
                rule["expr"] = windows.sub(lambda found: _shorter(found[1], faster, 12.0), rule["expr"])
                for name in ("for", "keep_firing_for"):
                    if name in rule:
                        rule[name] = _shorter(rule[name], faster, 1.0, FOR_S_MAX)
        (folder / path.name).write_text(yaml.safe_dump(shipped, sort_keys=False))
    return [folder / path.name for path in RULES]


def seconds(span: str) -> float:
    """Return how long `5m` and the like are."""
    return int(span[:-1]) * _UNITS_S[span[-1]]


def _shorter(span: str, faster: float, least_s: float, most_s: float = float("inf")) -> str:
    return f"{round(1000 * min(most_s, max(least_s, seconds(span) / faster)))}ms"


def _scrapes(
    stack: Stack, alertmanager: int, rules: list[Path], scrape_s: int, beside: Mapping[str, str]
) -> dict[str, Any]:
    targets = [
        {
            "targets": [stack.internal_url(name).removeprefix("http://")],
            "labels": {"service": service_of(name), "instance": name},
        }
        for name in stack.plan.names()
    ]
    targets += [{"targets": [at], "labels": {"service": name, "instance": name}} for name, at in beside.items()]
    return {
        "global": {
            "scrape_interval": f"{scrape_s}s", "scrape_timeout": f"{scrape_s}s", "evaluation_interval": f"{SCRAPE_S}s",
        },
        "rule_files": [str(path) for path in rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"{HOST}:{alertmanager}"]}]}]},
        "scrape_configs": [{"job_name": "verbatim", "static_configs": targets}],
    }  # fmt: skip
