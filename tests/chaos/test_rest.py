"""What processes hold at rest: a leak is told from memory that the allocator keeps of the greatest load it has seen."""

from __future__ import annotations

from tests.chaos.rest import Baseline, Holding, still_growing

MIB = 1 << 20


def held(*memory_mib: int, fds: int = 50, tasks: int = 40) -> dict[str, Holding]:
    names = ("transcriber", "transcriber-2")
    return {name: Holding(fds, tasks, mib * MIB) for name, mib in zip(names, memory_mib, strict=True)}


BEFORE = Baseline.from_holdings(held(150, 160))


def test_growth_beyond_what_is_allowed_is_seen_in_the_process_that_has_it() -> None:
    assert BEFORE.grown(held(192, 190)) == {}
    assert BEFORE.grown(held(193, 190)) == {"transcriber": 33 * MIB}


def test_memory_that_grows_again_with_a_second_load_is_a_leak() -> None:
    first = held(200, 170)
    grown = BEFORE.grown(first)
    assert still_growing(grown, first, held(219, 170)) == []
    assert still_growing(grown, first, held(221, 170)) == ["transcriber holds 200 MiB at rest, 221 after more load"]


def test_descriptors_and_tasks_that_stay_are_told() -> None:
    assert BEFORE.excess(held(150, 150, fds=74, tasks=43)) == []
    assert len(BEFORE.excess(held(150, 150, fds=75, tasks=44))) == 4
