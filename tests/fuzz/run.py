"""One run of the fuzzer against a running platform, and what came of it."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from dev.people import ADMIN
from dev.plan import Plan
from dev.ports import Ports
from dev.settings import ROOT
from dev.stack import Stack
from tests.limits import ONE_ENGINE, OPEN_TO_MANY, RAISED

HERE = Path(__file__).parent
# Of one process, whatever it was sent: labels are bounded.
SERIES_MAX = 2000
ALL_PHASES = "examples,coverage,fuzzing,stateful"
# A busy machine is no failure of the platform; and nobody has to wait for what is said next.
PATIENT = {"CALL_TIMEOUT_S": "60", "LOGIN_TIMEOUT_S": "60", "REQUEST_TIMEOUT_S": "300", "VIEWER_LIFE_S": "0.5"}


@dataclass(frozen=True)
class Outcome:
    """What a run found. `requests` and `broken` are counted by the gateway, `cases` by the fuzzer; `series` are what
    each process tells Prometheus when it is over."""

    cases: int
    operations: int
    requests: int
    broken: int
    failures: tuple[str, ...]
    errors: tuple[str, ...]
    said: str
    series: dict[str, int]


def stack(folder: Path, nats_server: str | None) -> Stack:
    """Return a platform to be fuzzed: nobody is put off, by a limit or by the machine."""
    env = {"gateway": RAISED | PATIENT, "meetings": OPEN_TO_MANY | {"LOGIN_TRIES_OF_ACCOUNT": "1000"}}
    env["transcriber"] = ONE_ENGINE
    return Stack(Plan(folder, Ports.free(), people=(ADMIN,), extra_env=env, nats_server=nats_server))


async def fuzz(
    running: Stack, folder: Path, *, seed: int, max_time_s: int, examples: int, phases: str = ALL_PHASES
) -> Outcome:
    """Let the fuzzer at a platform. Raises TimeoutError if it does not end long after its time."""
    report = folder / "report.json"
    before = await _answered(running)
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")),
        *("--config-file", str(HERE / "schemathesis.toml"), "run", f"{running.url}/openapi.json", "--no-color"),
        *("--phases", phases, "--checks", "all", "--seed", str(seed), "--max-time", str(max_time_s)),
        *("--max-examples", str(examples), "--report", "json", "--report-json-path", str(report)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(3 * max_time_s + 120):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    after = await _answered(running)
    told: dict[str, Any] = json.loads(report.read_text())
    return Outcome(
        cases=told["test_cases"]["generated"],
        operations=told["operations"]["tested"],
        requests=sum(after.values()) - sum(before.values()),
        broken=sum(count - before.get(status, 0) for status, count in after.items() if status >= "500"),
        failures=tuple(f"{one['code']} {one['title']}: {one['operations']}" for one in told["failures"]),
        errors=tuple(f"{one['title']}: {one['count']}" for one in told["errors"]),
        said=said.decode(errors="replace"),
        series=await _series(running),
    )


async def _series(running: Stack) -> dict[str, int]:
    """Return how many series each process tells."""
    found = {}
    async with httpx2.AsyncClient(timeout=60) as http:
        for name in running.plan.names():
            text = (await http.get(f"{running.internal_url(name)}/metrics")).text
            found[name] = sum(not line.startswith("#") for line in text.splitlines())
    return found


async def _answered(running: Stack) -> dict[str, int]:
    """Return how many requests the gateway has answered, by status."""
    async with httpx2.AsyncClient(timeout=60) as http:
        text = (await http.get(f"{running.internal_url('gateway')}/metrics")).text
    counts: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "http_server_responses_total":
                status = sample.labels["http_response_status_code"]
                counts[status] = counts.get(status, 0) + int(sample.value)
    return counts
