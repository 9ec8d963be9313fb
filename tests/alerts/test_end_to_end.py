"""A fault, and the page that tells of it: real Prometheus, real Alertmanager, the shipped rules and routes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dev.plan import Plan
from dev.ports import Ports
from dev.stack import Stack
from tests.alerts.watch import SCRAPE_S, Page, available, watched
from tests.limits import ONE_ENGINE
from tests.observe.cluster import Cluster

pytestmark = [
    pytest.mark.req("R-OBS-2"),
    pytest.mark.timeout(240),
    pytest.mark.skipif(not available(), reason="Prometheus and Alertmanager are not installed (Debian packages)"),
]

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
BROKER_FOR_S = 30.0
TOLD_WITHIN_S = 10.0  # two scrapes, a reconnecting client's notice, a group's second


async def test_a_lost_broker_pages_once_and_its_runbook_ends_it(stack_folder: Path, nats_binary: str | None) -> None:
    stack = Stack(
        Plan(stack_folder / "alerts", Ports.free(), extra_env={"transcriber": ONE_ENGINE}, nats_server=nats_binary)
    )
    await stack.start()
    try:
        async with watched(stack, stack_folder / "alerts" / "watch") as pager:
            await pager.until(lambda page: page.alert == "Watchdog", 60.0)
            assert [page.alert for page in pager.pages if page.receiver == "pager"] == []

            stack.kill("nats")
            began = time.monotonic()
            page = await pager.until(_is("BrokerDisconnected", "firing"), BROKER_FOR_S + 2 * SCRAPE_S + TOLD_WITHIN_S)
            assert page.at - began >= BROKER_FOR_S
            assert page.annotations["runbook_url"] == "docs/runbooks/BrokerDisconnected.md"

            back = time.monotonic()
            line = "kubectl rollout restart statefulset/verbatim-nats"
            assert line in (RUNBOOKS / "BrokerDisconnected.md").read_text()
            async with Cluster(stack, stack_folder / "alerts" / "operator").typing() as terminal:
                await terminal.type(line)
            over = await pager.until(_is("BrokerDisconnected", "resolved"), 60.0)
            print(f"paged {page.at - began:.1f} s after the fault, told of its end {over.at - back:.1f} s after it")
            others = {page.alert for page in pager.pages if page.receiver == "pager"} - {"BrokerDisconnected"}
            assert others == set(), "one fault, one page"
    finally:
        await stack.stop()


def _is(alert: str, status: str) -> Callable[[Page], bool]:
    def holds(page: Page) -> bool:
        return (page.alert, page.status, page.receiver) == (alert, status, "pager")

    return holds
