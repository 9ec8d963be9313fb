"""A slice of `make chaos`: what it shows at length, in a minute. The table is docs/faults.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.bad_clients import bad_frames
from tests.chaos.books import closed
from tests.chaos.controls import PUBACK
from tests.chaos.fuzz import FuzzedWorkload
from tests.chaos.platform import Platform
from tests.chaos.process_faults import killed
from tests.chaos.rest import Logs
from tests.chaos.scene import Stage, play

NewFolder = Callable[[], Path]
BOTH_KILLED = killed(("gateway", "transcriber"), ("gateway-2", "transcriber-2"))


@pytest.mark.req("R-WS-2", "R-WS-3", "R-WS-4", "R-RUN-6")
async def test_nothing_acknowledged_is_lost_or_doubled(new_folder: NewFolder, nats_binary: str | None) -> None:
    async with Platform(new_folder(), nats_server=nats_binary) as platform:
        stage = Stage(platform, Logs(platform.plan.log_folder))
        crashed = await play(stage, BOTH_KILLED, sessions=8, speed=5.0, seed=1)
        garbled = await play(stage, bad_frames, sessions=4, speed=5.0, seed=2, workload_type=FuzzedWorkload)
        assert await closed(platform) == []
    for result in (crashed, garbled):
        assert result.verdict.clean, (result.verdict, result.failures)
        assert result.verdict.drafted == 0
        assert result.verdict.acknowledged > 1_000
        assert result.breaches == []
    assert crashed.reconnects > 0
    assert crashed.pause_max < 10.0


@pytest.mark.long
@pytest.mark.req("R-WS-4", "R-RUN-6")
async def test_acknowledging_before_the_broker_has_it_would_be_noticed(
    new_folder: NewFolder, nats_binary: str | None
) -> None:
    async with Platform(new_folder(), control=PUBACK, nats_server=nats_binary) as platform:
        stage = Stage(platform, Logs(platform.plan.log_folder))
        script = killed(("transcriber",), ("transcriber-2",))
        result = await play(stage, script, sessions=6, speed=5.0, seed=1, patience=0.3)
    assert not result.verdict.clean
