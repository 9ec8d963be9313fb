"""A slice of the fuzzer; `make fuzz` has more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.run import SERIES_MAX, fuzz, stack

# Beside other tests a machine of two cores came to 74 cases in twenty.
MAX_TIME_S = 45


@pytest.mark.req("R-VAL-1", "R-ERR-1", "R-OBS-1")
@pytest.mark.timeout(420)
async def test_whatever_is_sent_the_platform_answers_as_its_document_says(
    stack_folder: Path, nats_binary: str | None
) -> None:
    running = stack(stack_folder / "fuzz", nats_binary)
    await running.start()
    try:
        found = await fuzz(running, stack_folder, seed=1, max_time_s=MAX_TIME_S, examples=10)
    finally:
        await running.stop()
    assert found.broken == 0, found.said
    assert found.failures == found.errors == (), found.said
    assert found.cases > 100
    assert max(found.series.values()) < SERIES_MAX, found.series
