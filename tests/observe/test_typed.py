"""Every command line that a runbook or the handbook quotes is typed, as it stands, and works on a running platform.

Where a page says `<id>` there is one. `kubectl` does to local processes what it would do to pods (`cluster.py`).
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import nats
import orjson
import pytest
import pytest_asyncio

from chassis import dead_letters, ids
from dev.people import ADMIN
from dev.plan import Plan
from dev.ports import Ports
from dev.stack import Stack
from tests.alerts.watch import available, watched
from tests.limits import ONE_ENGINE, OPEN_TO_MANY, RAISED, WEBHOOKS_HERE
from tests.observe.cluster import Cluster, Terminal
from tests.observe.test_runbooks import commands

pytestmark = [
    pytest.mark.req("R-RUN-7", "R-HEAL-1"),
    pytest.mark.timeout(900),
    pytest.mark.long,
    pytest.mark.skipif(not available(), reason="Prometheus and Alertmanager are not installed (Debian packages)"),
]

# What only a cluster has, or what would take the platform away; parsed by kubectl and Helm in test_runbooks.py.
ELSEWHERE = re.compile(
    r"helm |nats |curl |kubectl (port-forward|patch|delete (pvc|secret)|get certificate|describe certificate"
    r"|scale deployment --all|get cronjob|get pods --all)|verbatim (restore|verify|backup|doctor --every)"
    r"|kubectl rollout restart deployment/verbatim-probe"
)
# A letter can be taken care of once, a webhook be made but once: each has its own.
LINES = sorted({line for _, line in commands() if not ELSEWHERE.match(line)})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def terminal(stack_folder: Path, nats_binary: str | None) -> AsyncIterator[Terminal]:
    folder = stack_folder / "typed"
    plan = Plan(
        folder, Ports.free(), people=(ADMIN,), nats_server=nats_binary,
        extra_env={
            "gateway": RAISED, "transcriber": ONE_ENGINE,
            "meetings": OPEN_TO_MANY | WEBHOOKS_HERE | {"ACCESS_TOKEN_LIFE_S": "3600"},
        },
    )  # fmt: skip
    stack = Stack(plan)
    await stack.start()
    async with AsyncExitStack() as exits:
        exits.push_async_callback(stack.stop)
        await exits.enter_async_context(watched(stack, folder / "watch"))
        prometheus = f"http://127.0.0.1:{plan.ports.of('prometheus')}"
        yield await exits.enter_async_context(
            Cluster(stack, folder / "operator").typing(PROMETHEUS_URL=prometheus, VERBATIM_PROMETHEUS_URL=prometheus)
        )


@pytest.mark.parametrize("line", LINES)
async def test_the_line_works(line: str, terminal: Terminal) -> None:
    replica = f"{socket.gethostname()}-{terminal.stack.runner.pid('insights')}"
    fill = {"service": "insights", "name": "rate_limits", "replica": replica, "pod": "verbatim-insights"}
    if "dlq" in line and "<id>" in line:
        fill["id"] = await letter(terminal)
    elif "webhooks" in line:
        url = "http://127.0.0.1:9999/none"
        made = await terminal.type(f"verbatim webhooks create {url} --json")
        fill["id"] = orjson.loads(made.splitlines()[0])["id"]
    try:
        said = await (told(line, terminal) if line.startswith("verbatim slo") else terminal.type(line, **fill))
    except AssertionError as fault:
        # grep found nothing, and says so: nothing of the kind was logged.
        if "grep" not in line or str(fault).strip().count("\n"):
            raise
        said = ""
    print(f"$ {line}\n{said[:400]}")
    runner = terminal.stack.runner
    if line.endswith("<replica> --do"):
        assert await runner.ended("insights", 60.0) == 0
    for name in terminal.stack.plan.names():
        if name not in runner.running():
            await terminal.stack.restart(name)


async def told(line: str, terminal: Terminal) -> str:
    """Type what asks Prometheus until that has recorded something."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await terminal.type(line)
            except AssertionError as fault:
                if "has not recorded" not in str(fault):
                    raise
            await asyncio.sleep(1)


async def letter(terminal: Terminal) -> str:
    """Make a dead letter and return its id."""
    broker = await nats.connect(terminal.stack.plan.nats_url)
    try:
        one = dead_letters.letter(
            ids.new_id(), kind="strange", subject="events.meeting.unheard_of", payload=b"{}", error="It cannot be read."
        )
        await broker.jetstream().publish(one.subject, one.payload, headers={"ce-id": one.id})
    finally:
        await broker.close()
    found = await terminal.type("verbatim dlq list --json")
    return str(orjson.loads(found.splitlines()[0])["id"])
