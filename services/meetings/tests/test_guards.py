"""What may be tried how often: the rules alone."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meetings.guards import NOTHING, Place, Slot, Slowing, Window

NOON = dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC)
WINDOW = Window(5, dt.timedelta(minutes=15))
SLOWING = Slowing(5, first=dt.timedelta(minutes=1), longest=dt.timedelta(days=1))


def after(seconds: float) -> dt.datetime:
    return NOON + dt.timedelta(seconds=seconds)


@pytest.mark.req("R-AUTH-3")
@given(st.lists(st.floats(0, 600), max_size=60))
def test_no_stretch_of_a_quarter_of_an_hour_has_more_than_five_tries(pauses: list[float]) -> None:
    slot, at_s, admitted = NOTHING, 0.0, []
    for pause in pauses:
        at_s += pause
        if WINDOW.wait_s(slot, after(at_s)) == 0:
            slot = WINDOW.taken(slot, after(at_s))
            admitted.append(at_s)
    for begin in admitted:
        assert sum(begin <= at < begin + 900 for at in admitted) <= 5


@pytest.mark.req("R-AUTH-3")
def test_window_tells_how_long_to_wait_and_a_forgiven_try_does_not_count() -> None:
    slot = NOTHING
    for second in range(5):
        slot = WINDOW.taken(slot, after(second))
    assert WINDOW.wait_s(slot, after(60)) == 840
    assert WINDOW.wait_s(slot, after(900)) == 0
    slot = WINDOW.forgiven(slot, after(0))
    assert WINDOW.wait_s(slot, after(60)) == 0
    assert WINDOW.forgiven(slot, after(0)) == slot
    # Of two at the same moment one was forgiven.
    twice = WINDOW.taken(WINDOW.taken(NOTHING, NOON), NOON)
    assert len(WINDOW.forgiven(twice, NOON).tried_at) == 1


@pytest.mark.req("R-AUTH-3")
def test_pauses_grow_with_every_failure_up_to_a_day() -> None:
    slot, at, pauses = NOTHING, NOON, []
    for _ in range(20):
        slot = SLOWING.taken(slot, at)
        wait_s = SLOWING.wait_s(slot, at)
        pauses.append(wait_s / 60)
        at += dt.timedelta(seconds=wait_s)
    assert pauses[:10] == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32]
    assert pauses[-1] == 24 * 60
    assert SLOWING.forgiven(slot, at) == NOTHING


@pytest.mark.req("R-AUTH-3")
def test_an_absurd_number_of_failures_overflows_nothing() -> None:
    assert SLOWING.taken(Slot(failures=2**31 - 2), NOON).locked_until == NOON + dt.timedelta(days=1)


@pytest.mark.req("R-AUTH-3")
@pytest.mark.parametrize(
    ("address", "host", "network"),
    [
        ("192.0.2.77", "192.0.2.77/32", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.77/32", "192.0.2.0/24"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::2", "2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("", "unknown", "unknown"),
        ("somewhere", "unknown", "unknown"),
    ],
)
def test_addresses_are_counted_by_host_and_by_network(address: str, host: str, network: str) -> None:
    place = Place(address)
    assert (place.host, place.network) == (host, network)
