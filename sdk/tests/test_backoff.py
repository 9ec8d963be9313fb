"""The reconnect rules, with a clock and dice of our own."""

from __future__ import annotations

from verbatim_client import Backoff


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def latest(_low: float, high: float) -> float:
    return high


def test_the_first_try_is_at_once_then_the_bound_doubles_to_ten_seconds() -> None:
    backoff = Backoff(Clock(), latest)
    waits = [backoff.lost() for _ in range(10)]
    assert waits == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, None]


def test_waits_are_drawn_from_the_whole_range() -> None:
    drawn: list[tuple[float, float]] = []

    def lowest(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    backoff = Backoff(Clock(), lowest)
    for _ in range(4):
        backoff.lost()
    assert drawn == [(0.0, 0.25), (0.0, 0.5), (0.0, 1.0)]


def test_what_the_platform_asks_for_wins() -> None:
    assert Backoff(Clock(), latest).lost(retry_after_s=7.5) == 7.5


def test_three_short_lives_are_enough() -> None:
    clock = Clock()
    backoff = Backoff(clock, latest)
    outcomes = []
    for _ in range(3):
        backoff.connected()
        clock.now += 4.9
        outcomes.append(backoff.lost())
    assert outcomes == [0.0, 0.25, None]


def test_ten_seconds_of_health_forgive_everything() -> None:
    clock = Clock()
    backoff = Backoff(clock, latest)
    for _ in range(9):
        backoff.lost()
    backoff.connected()
    clock.now += 10.0
    assert backoff.lost() == 0.0
    assert backoff.lost() == 0.25
