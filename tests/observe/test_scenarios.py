"""Fault, alert, page, the runbook's own lines typed as they stand, resolution: with real Prometheus and Alertmanager.

All rules are as shipped but for their times, which are a tenth (`watched`). `make alerts` plays all of them and
writes the table.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from verbatim_client import VerbatimClient

from dev import probes
from dev.environment import plain_environment
from dev.people import ADMIN
from dev.plan import Plan
from dev.ports import Ports
from dev.runner import Program
from dev.settings import ROOT
from dev.stack import Stack
from tests.alerts.test_rules import ALERTS
from tests.alerts.watch import Page, Pager, available, watched
from tests.chaos.disk import Disk, may_mount
from tests.e2e.conftest import PASSWORD
from tests.limits import ONE_ENGINE, OPEN_TO_MANY, RAISED
from tests.observe.cluster import PYTHON_PATH, Cluster
from tests.observe.faults import Fault, Site
from tests.observe.receivers import Receiver, Vendor
from tests.observe.scenarios import SCENARIOS, Scenario

pytestmark = [
    pytest.mark.req("R-OBS-2", "R-HEAL-1", "R-RUN-7"),
    pytest.mark.timeout(900),
    pytest.mark.long,
    pytest.mark.skipif(not available(), reason="Prometheus and Alertmanager are not installed (Debian packages)"),
]

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
FASTER = 10.0
QUIET_WITHIN_S = 300.0
TYPED_AGAIN_S = 5.0

GATEWAY = RAISED | {"RATE_LIMITS_ROUTES": "POST /api/auth/login=120/min"}
MEETINGS = OPEN_TO_MANY | {
    "DB_POOL_SIZE": "2", "DB_POOL_MAX": "4", "UPLOAD_ATTEMPTS_MAX": "1", "ACCESS_TOKEN_LIFE_S": "3600"
}  # fmt: skip
JANITOR = {
    "DISK_EVERY_S": "1", "DEAD_LETTERS_EVERY_S": "1", "BACKUPS_EVERY_S": "1", "SESSIONS_EVERY_S": "5",
    "UPLOADS_EVERY_S": "5",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table. Seconds from the fault to the page, and from the last line typed to its resolution."""

    scenario: Scenario
    alert: str
    paged_s: float
    resolved_s: float

    def __str__(self) -> str:
        shipped = ALERTS[self.alert].get("for", "0s")
        one = self.scenario
        return (
            f"| {one.row} | {one.fault} | [{self.alert}](../runbooks/{self.alert}.md) | {shipped} | {self.paged_s:.0f} "
            f"| {one.repaired} | {self.resolved_s:.0f} |"
        )


@dataclass
class Shift:
    """A platform, its pager, and what has been noted."""

    site: Site
    pager: Pager
    prometheus: str
    rows: list[Row]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shift(stack_folder: Path, nats_binary: str | None) -> AsyncIterator[Shift]:
    folder, vendor, rows = stack_folder / "alerted", Vendor(), list[Row]()
    async with AsyncExitStack() as exits:
        models = Receiver(vendor.take, lambda: vendor.latency_s)
        await exits.enter_async_context(models.running())
        disk = Disk(stack_folder / "volume")
        if not may_mount():
            exits.enter_context(disk)
        speech = {
            "OPENAI_API_KEY": "scripted", "OPENAI_BASE_URL": f"{models.url}/v1", "SPEECH_RETRY_MIN_S": "0.1",
            "BREAKER_OPEN_S": "600", **ONE_ENGINE,
        }  # fmt: skip
        plan = Plan(
            folder, Ports.free(), people=(ADMIN,), nats_server=nats_binary,
            extra_env={
                "gateway": GATEWAY, "meetings": MEETINGS, "transcriber": speech,
                "insights": {"LLM_MODEL": ""},
                "janitor": JANITOR | ({} if may_mount() else {"DISK_FOLDERS": str(disk.folder)}),
            },
        )  # fmt: skip
        stack = Stack(plan)
        await stack.start()
        exits.push_async_callback(stack.stop)
        terminal = await exits.enter_async_context(Cluster(stack, folder / "operator", disk).typing())
        client = await exits.enter_async_context(VerbatimClient(stack.url))
        await client.register("alerted@verbatim.example", "alerted", PASSWORD)
        await client.login("alerted@verbatim.example", PASSWORD)
        site = Site(stack, terminal, vendor, disk, client)
        probe = f"127.0.0.1:{plan.ports.of('probe')}"
        await stack.runner.start(_probe(stack, probe, client.access_token or ""))
        watching = watched(stack, folder / "watch", faster=FASTER, beside={"probe": probe})
        pager = await exits.enter_async_context(watching)
        yield Shift(site, pager, f"http://127.0.0.1:{plan.ports.of('prometheus')}", rows)
    print(page(rows))
    if out := os.environ.get("VERBATIM_ALERTS_OUT"):
        await asyncio.to_thread(Path(out).write_text, page(rows))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.alerts[0])
async def test_the_fault_pages_and_its_runbook_repairs_it(scenario: Scenario, shift: Shift) -> None:
    if scenario.alerts[0] == "DiskFillingUp" and (why := may_mount()):
        pytest.skip(why)
    for page_name, line in scenario.repairs:
        assert line in (RUNBOOKS / f"{page_name}.md").read_text(), f"{page_name} says nothing of the kind"
    site, pager = shift.site, shift.pager
    await quiet(shift, scenario)
    pager.pages.clear()
    began = time.monotonic()
    async with scenario.inject(site) as fault:
        told = await asyncio.gather(
            *(until(pager, alert, "firing", scenario.fires_within_s) for alert in scenario.alerts)
        )
        mended = await repair(scenario, fault, site)
        over = await asyncio.gather(
            *(until(pager, alert, "resolved", scenario.resolves_within_s) for alert in scenario.alerts)
        )
    for alert, first, last in zip(scenario.alerts, told, over, strict=True):
        shift.rows.append(Row(scenario, alert, first.at - began, max(0.0, last.at - mended)))
        print(shift.rows[-1])
        assert first.annotations["runbook_url"] == f"docs/runbooks/{alert}.md"
    woken = {one.alert for one in pager.pages if one.receiver == "pager" and one.status == "firing"}
    assert woken <= {*scenario.alerts, *scenario.also}, "nobody else's fault"


async def repair(scenario: Scenario, fault: Fault, site: Site) -> float:
    """Type the lines and return when the last one was typed.

    What PostgreSQL is asked to end may not be old enough yet: it is asked again.
    """
    await fault.outside()
    began = time.monotonic()
    for _, line in scenario.repairs:
        async with asyncio.timeout(180):
            began = time.monotonic()
            while not (said := await site.terminal.type(line, **fault.fill)) and line.startswith("SELECT"):
                await asyncio.sleep(TYPED_AGAIN_S)
                began = time.monotonic()
        print(f"$ {line}\n{said}")
    return began


async def until(pager: Pager, alert: str, status: str, within_s: float) -> Page:
    """Wait until whoever has to be told by its severity is told of it."""
    receiver = {"P1": "pager", "P2": "chat", "ticket": "mail"}[ALERTS[alert]["labels"]["severity"]]
    try:
        return await pager.until(
            lambda one: (one.alert, one.status, one.receiver) == (alert, status, receiver), within_s
        )
    except TimeoutError:
        told = sorted({(page.alert, page.status) for page in pager.pages})
        raise AssertionError(f"{alert} {status}: not within {within_s:g} s; told: {told}") from None


async def quiet(shift: Shift, scenario: Scenario) -> None:
    """Give back what was set, start what is gone, and wait until nobody is told anything that matters here.

    On a busy machine some alerts of slowness are true.
    """
    site = shift.site
    for name in ("postgres", "nats", "redis", *site.stack.plan.names()):
        if name not in site.stack.runner.running():
            await site.stack.restart(name)
    names = (await site.terminal.type("verbatim admin controls list --json")).splitlines()
    for name in {line.split('"name": "')[1].split('"')[0] for line in names if '"name": "' in line}:
        await site.terminal.type(f'verbatim admin controls unset {name} --why "the drill is over"')
    async with asyncio.timeout(QUIET_WITHIN_S), httpx2.AsyncClient(base_url=shift.prometheus) as http:
        while True:
            alerts = (await http.get("/api/v1/alerts")).json()["data"]["alerts"]
            firing = {one["labels"]["alertname"] for one in alerts}
            if not {name for name in firing if name in scenario.alerts or ALERTS[name]["labels"]["severity"] == "P1"}:
                return
            print("still", firing)
            await asyncio.sleep(2)


def _probe(stack: Stack, listen: str, token: str) -> Program:
    every = ["doctor", "--every", "10s", "--listen", listen]
    return Program(
        name="probe",
        argv=[sys.executable, "-m", "verbatim_client", "--url", stack.url, *every],
        env=plain_environment() | {"PYTHONPATH": PYTHON_PATH, "VERBATIM_TOKEN": token},
        cwd=ROOT,
        ready=probes.http(int(listen.rpartition(":")[2]), "/healthz"),
    )


def page(rows: list[Row]) -> str:
    """Return the page of the handbook."""
    head = (RUNBOOKS.parent / "operations" / "alerts.md").read_text().partition("\n| row |")[0]
    table = (
        "| row | fault | alert | `for` | paged after s | repaired by | over after s |\n|---|---|---|---|---|---|---|\n"
    )
    return f"{head}\n{table}" + "\n".join(map(str, rows)) + "\n"
