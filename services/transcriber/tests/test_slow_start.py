"""After an outage: how often the API is asked, second by second, while what waited is healed beside live speech.

Time is virtual (`chassis/tests/virtual_time.py`) and the API a program in the same process, so twenty minutes and
thousands of calls are exact, and the same in each run. The same over HTTP, on a small scale: `test_outage.py`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest

from chassis.tests import virtual_time
from chassis.tests.clocks import Clock
from services.transcriber.slow_start import SlowStart, SlowStartSettings
from services.transcriber.tests.virtual_outage import OUTAGE_S, SPEAKERS, UTTERANCE_EVERY_S, Course, course_of
from services.transcriber.vendor import VendorSettings

log = logging.getLogger(__name__)

SETTINGS = SlowStartSettings(hold_s=120.0, share=0.15, least_per_s=0.2, double_s=30.0, remembered_s=60.0)


# -- rule by rule --------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


def speak(pace: SlowStart, clock: Clock, *, per_s: float, for_s: float) -> None:
    for _ in range(int(per_s * for_s)):
        pace.heard_live()
        clock.pass_(1.0 / per_s)


@pytest.mark.req("R-STT-5")
def test_without_an_outage_nothing_is_held_back(clock: Clock) -> None:
    pace = SlowStart(SETTINGS, clock=clock)
    for _ in range(100):
        assert pace.admits
        pace.take()
    assert pace.per_s() == math.inf


@pytest.mark.req("R-STT-5")
def test_it_can_be_switched_off(clock: Clock) -> None:
    pace = SlowStart(replace(SETTINGS, hold_s=0.0), clock=clock)
    pace.begin()
    pace.take()
    assert pace.admits


@pytest.mark.req("R-STT-5")
def test_the_first_goes_at_once_and_in_quiet_times_the_next_five_seconds_later(clock: Clock) -> None:
    pace = SlowStart(SETTINGS, clock=clock)
    pace.begin()
    assert pace.admits
    pace.take()
    clock.pass_(4.9)
    assert not pace.admits
    clock.pass_(0.1)
    assert pace.admits


@pytest.mark.req("R-STT-5")
@pytest.mark.parametrize(
    ("after_s", "per_s"),
    [(0.0, 0.2), (15.0, 0.3), (30.0, 0.6), (119.0, 0.6), (150.0, 1.2), (180.0, 2.4), (240.0, 9.6), (451.0, math.inf)],
)
def test_where_much_is_said_it_is_a_share_of_that_and_doubles_in_the_end(
    clock: Clock, after_s: float, per_s: float
) -> None:
    pace = SlowStart(SETTINGS, clock=clock)
    speak(pace, clock, per_s=4.0, for_s=600.0)
    pace.begin()
    speak(pace, clock, per_s=4.0, for_s=after_s)
    assert pace.per_s() == pytest.approx(per_s, rel=0.05)


@pytest.mark.req("R-STT-5")
def test_what_came_late_is_made_up_for_but_saved_time_is_no_burst(clock: Clock) -> None:
    pace = SlowStart(replace(SETTINGS, least_per_s=1.0), clock=clock)
    pace.begin()
    taken = 0
    for _ in range(100):  # looked at each 0.3 s
        if pace.admits:
            pace.take()
            taken += 1
        clock.pass_(0.3)
    assert taken in (30, 31)
    clock.pass_(60.0)
    burst = 0
    while pace.admits:
        pace.take()
        burst += 1
    assert burst == 1


# -- twenty minutes without the API --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def course() -> Course:
    found = virtual_time.run(lambda clock: course_of(clock, SlowStartSettings()))
    log.info("%s", found)
    return found


@pytest.mark.req("R-STT-3", "R-STT-4", "R-STT-5")
def test_twenty_minutes_without_the_api_lose_no_word_and_heal_in_order(course: Course) -> None:
    assert course.drafted >= SPEAKERS * OUTAGE_S / UTTERANCE_EVERY_S
    assert (course.lost, course.disordered) == (0, 0), course
    assert course.healed_after_s < OUTAGE_S / 2, f"healed slower than twice real time: {course}"


@pytest.mark.req("R-STT-2", "R-STT-3")
def test_the_api_that_is_away_is_asked_to_find_out_and_no_more(course: Course) -> None:
    assert course.opened_after_s < 10.0, course
    assert course.asked_until_open <= 5 + SPEAKERS, course
    assert course.probes_most <= 2, course
    # One look a minute, by two probes at most.
    assert course.asked_while_away <= course.asked_until_open + 2 * OUTAGE_S / 60.0, course


@pytest.mark.req("R-STT-3", "R-STT-5")
def test_the_api_that_is_back_meets_no_herd(course: Course) -> None:
    """Steady is what live speech asked before the outage; the peak counts everything, in any ten seconds."""
    assert course.steady_per_s == pytest.approx(SPEAKERS / UTTERANCE_EVERY_S, rel=0.05)
    assert course.peak <= 1.2, course
    assert course.reopened == 0, course
    assert course.running_most <= VendorSettings().concurrency_max, course


@pytest.mark.req("R-STT-5")
def test_without_the_slow_start_there_is_a_herd() -> None:
    """The negative control of the test above."""
    course = virtual_time.run(lambda clock: course_of(clock, SlowStartSettings(hold_s=0.0)))
    assert course.peak > 1.5, course
