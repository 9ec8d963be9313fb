"""A few seconds of the bench: that it measures, and that nothing has become slower by an order of magnitude."""

from __future__ import annotations

from pathlib import Path

from tests.bench.figures import page
from tests.bench.load import quantile_ms
from tests.bench.run import run

SESSIONS = 20
# The bare socket acknowledges frames and does nothing else. Seen: eight times at this load; a starved machine more.
CPU_OF_BARE_MAX = 40.0


async def test_the_live_path_costs_a_bounded_multiple_of_a_bare_socket(
    stack_folder: Path, nats_binary: str | None
) -> None:
    rounds, broker = await run([SESSIONS], 4.0, stack_folder / "bench", nats_binary)
    ours, bare = rounds[0].platform, rounds[0].bare
    assert ours.load.dropped == 0
    assert ours.load.frames > SESSIONS * 20
    assert quantile_ms(ours.load.acks_s, 0.5) < 3_000
    assert ours.load.segments_s
    assert ours.relay_s
    assert ours.cpu_s("gateway", "transcriber") < CPU_OF_BARE_MAX * bare.cpu_s("limit")
    assert "JetStream alone" in page(rounds, broker, "This machine.")
