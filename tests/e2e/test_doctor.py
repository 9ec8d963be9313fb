"""`verbatim doctor` against the whole platform, and against one that is not well."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dev.ports import Ports
from dev.stack import Stack
from tests.e2e.test_cli import Cli, ended

pytestmark = pytest.mark.req("R-UI-2", "R-RUN-2")


async def test_a_healthy_platform_passes_every_check(stack: Stack, tmp_path: Path) -> None:
    result = await Cli(stack.url, tmp_path).run("doctor", "--throwaway", "--json")
    verdicts = {finding["check"]: finding["verdict"] for finding in result.objects}
    assert list(verdicts) == [
        "gateway", "readiness", "account", "clock", "parts", "transcription", "storage", "clean-up",
    ]  # fmt: skip
    assert set(verdicts.values()) <= {"ok", "warn", "skipped"}, result.out
    assert verdicts["transcription"] == verdicts["storage"] == "ok"
    assert result.code == 0, result.err


async def test_what_is_broken_comes_first_with_what_mends_it(tmp_path: Path) -> None:
    nobody = Cli(f"http://127.0.0.1:{Ports.free().of('nobody')}", tmp_path)
    result = await nobody.run("doctor", "--throwaway", "--json")
    assert result.code == 1
    assert "gateway is broken" in result.err
    first, *others = result.objects
    assert (first["check"], first["verdict"]) == ("gateway", "fail")
    assert "make run" in first["fix"]
    assert {finding["verdict"] for finding in others} == {"skipped"}


@pytest.mark.req("R-OBS-1")
@pytest.mark.parametrize("well", [True, False])
async def test_the_probe_goes_on_and_tells_prometheus_what_its_rounds_came_to(
    well: bool, stack: Stack, tmp_path: Path
) -> None:
    ports = Ports.free()
    listen = f"127.0.0.1:{ports.of('probe')}"
    url = stack.url if well else f"http://127.0.0.1:{ports.of('nobody')}"
    probe = await Cli(url, tmp_path).start("doctor", "--throwaway", "--every", "1s", "--listen", listen)
    try:
        async with httpx2.AsyncClient(base_url=f"http://{listen}", timeout=10) as http, asyncio.timeout(100):
            figures: dict[str, float] = {}
            while figures.get("synthetic_probe_runs_total", 0) < 2:
                with suppress(httpx2.TransportError):
                    families = text_string_to_metric_families((await http.get("/metrics")).text)
                    samples = [sample for family in families for sample in family.samples]
                    wanted = {"result": "ok" if well else "failed"}
                    figures = {
                        one.name: one.value for one in samples if one.labels in ({}, wanted, {"check": "gateway"})
                    }
                await asyncio.sleep(0.1)
        assert figures["synthetic_probe_success"] == well
        assert abs(time.time() - figures["synthetic_probe_last_run_timestamp_seconds"]) < 60
        assert (figures["synthetic_probe_failures_total"] == 0) == well
    finally:
        probe.terminate()
        result = await ended(probe)
    assert result.code == 0, "it ends when it is asked to"


async def test_without_a_login_it_says_how_to_get_one(stack: Stack, tmp_path: Path) -> None:
    result = await Cli(stack.url, tmp_path).run("doctor")
    assert result.code == 1
    assert "verbatim login" in result.out
