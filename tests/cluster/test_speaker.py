"""The people of `make cluster-test`, on a platform of local processes: their verdict is right, also through a kill."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dev.settings import ROOT
from tests.chaos.platform import Platform

pytestmark = [pytest.mark.req("R-RUN-2"), pytest.mark.long, pytest.mark.timeout(900)]

SESSIONS = 2


def read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    told: dict[str, Any] = json.loads(file.read_text())
    return told


async def further(state: Path) -> None:
    """Wait until each session has been acknowledged something new."""
    before = read(state)
    async with asyncio.timeout(120):
        while not (
            len(now := read(state)) == SESSIONS and all(offset > before.get(one, 0) for one, offset in now.items())
        ):
            await asyncio.sleep(0.2)


async def test_people_of_the_cluster_test_lose_nothing_when_a_gateway_is_killed(
    stack_folder: Path, nats_binary: str | None, tmp_path: Path
) -> None:
    one = dict.fromkeys(("gateway", "transcriber", "meetings"), 1)
    async with Platform(stack_folder / "speaker", replicas=one, nats_server=nats_binary) as platform:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.cluster.speaker", platform.url, str(SESSIONS), str(tmp_path)),
            cwd=ROOT,
        )
        try:
            await further(tmp_path / "state.json")
            platform.stack.kill("gateway")
            await platform.stack.restart("gateway")
            await further(tmp_path / "state.json")
            (tmp_path / "enough").touch()
            assert await asyncio.wait_for(process.wait(), 600) == 0
        finally:
            if process.returncode is None:
                process.kill()
        verdict = read(tmp_path / "verdict.json")
        assert verdict["clean"], verdict
        assert verdict["sessions"] == SESSIONS and verdict["acknowledged"] > 0 and verdict["lost"] == 0
