"""A task that is held to a share of the processor."""

import pytest

from services.transcriber.pace import Pace


class Clocks:
    """Time and processor time, which pass as the test says."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.used_s = 5.0

    def pace(self) -> Pace:
        return Pace(share=0.1, burst_s=2.0, clock=lambda: self.now_s, processor_clock=lambda: self.used_s)

    def work(self, pace: Pace, used_s: float) -> float:
        with pace.work():
            self.used_s += used_s
            self.now_s += used_s
        return pace.rest_s()


def test_a_burst_is_free_and_then_work_is_paid_for_with_rest() -> None:
    clocks = Clocks()
    pace = clocks.pace()
    assert clocks.work(pace, 1.9) == 0.0
    rest_s = clocks.work(pace, 1.0)
    assert rest_s == pytest.approx((2.9 - 0.29 - 2.0) / 0.1, rel=0.01)
    clocks.now_s += rest_s
    assert pace.rest_s() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.req("R-WS-2")
def test_who_always_has_work_gets_the_share_and_no_more() -> None:
    clocks = Clocks()
    pace = clocks.pace()
    begun_at, used_before = clocks.now_s, clocks.used_s
    for _ in range(1000):
        clocks.now_s += clocks.work(pace, 0.05)
    assert (clocks.used_s - used_before - 2.0) / (clocks.now_s - begun_at) == pytest.approx(0.1, rel=0.02)


def test_who_rests_may_burst_again() -> None:
    clocks = Clocks()
    pace = clocks.pace()
    assert clocks.work(pace, 3.0) > 0
    clocks.now_s += 60.0
    assert clocks.work(pace, 1.9) == 0.0
