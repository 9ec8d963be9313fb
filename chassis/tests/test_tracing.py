"""A receiver of traces that is away costs no call its time, and the process no more than seconds at its end."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Iterator

import pytest

from chassis import tracing

pytestmark = [pytest.mark.req("R-OBS-4"), pytest.mark.timeout(240)]

# What may differ without meaning anything on a busy machine. A call that waited for the receiver would take seconds.
NOISE_MS = 250.0


@pytest.fixture
def blackhole() -> Iterator[str]:
    """A port that takes connections into its backlog and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


async def measured(endpoint: str) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chassis.tests.traced_calls", endpoint, stdout=asyncio.subprocess.PIPE
    )
    found: dict[str, float] = json.loads((await process.communicate())[0])
    assert process.returncode == 0
    return found


async def test_a_receiver_that_never_answers_delays_no_call_and_holds_up_no_end(blackhole: str) -> None:
    without, with_it = await measured("-"), await measured(blackhole)
    assert with_it["p99_ms"] < 3 * without["p99_ms"] + NOISE_MS
    assert with_it["close_s"] < 2 * tracing._FLUSH_S + 1.0


async def test_a_receiver_that_refuses_is_as_harmless() -> None:
    assert (await measured("http://127.0.0.1:9"))["close_s"] < 2 * tracing._FLUSH_S + 1.0


def test_what_is_not_traced_makes_no_span_and_carries_nothing() -> None:
    with tracing.step("nothing") as span:
        assert not span.is_recording()
        assert tracing.carried() == {}
        assert tracing.exemplar() is None
