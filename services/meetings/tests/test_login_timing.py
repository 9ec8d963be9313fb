"""A login takes as long for an address that nobody has as for one whose password is wrong."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence

import argon2
import pytest

from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.meetings.accounts_store import AccountsStore
from services.meetings.guards import Place
from services.meetings.login import Login
from services.meetings.logins_store import LoginsStore
from services.meetings.passwords import Passwords
from services.meetings.tests.conftest import KEY, Calendar, new_guards
from services.meetings.tests.test_brute_force import HOME, NO_RULES, PASSWORD, WRONG
from services.meetings.tokens import AccessTokens, RefreshTokens, derived

# Of each kind; LOGIN_SAMPLES=1000 is the long version.
SAMPLES = int(os.environ.get("LOGIN_SAMPLES") or 100)
P_MIN = 0.01
# By chance one series in a hundred is called different; three in a row are not.
SERIES = 3

LoginWith = Callable[[Passwords], Login]


class HastyPasswords(Passwords):
    """What the platform does not do: says no at once where there is nothing to compare with."""

    async def matches(self, kept: str | None, password: str) -> bool:
        return kept is not None and await super().matches(kept, password)


@pytest.fixture
def login_with(
    accounts: AccountsStore, logins: LoginsStore, database: Database, private_pem: str, calendar: Calendar
) -> LoginWith:
    def make(passwords: Passwords) -> Login:
        guards = new_guards(database, calendar, NO_RULES)
        signing, renewing = AccessTokens(private_pem, 900), RefreshTokens(derived(KEY, "refresh tokens"))
        return Login(accounts, logins, passwords, guards, signing, renewing, clock=calendar)

    return make


# Less work than in production (0.2 s): what is left of a difference beside it weighs more.
def hasher() -> argon2.PasswordHasher:
    return argon2.PasswordHasher(time_cost=1, memory_cost=4096, parallelism=1)


@pytest.mark.long
@pytest.mark.req("R-AUTH-3")
async def test_a_login_takes_as_long_for_nobody_as_for_somebody(login_with: LoginWith) -> None:
    passwords = Passwords(hasher(), workers=1, queue_max=4)
    login = login_with(passwords)
    await login.register("ann@example.com", "ann", PASSWORD, HOME)
    chances = []
    for _ in range(SERIES):
        known, unknown = await timed(login, SAMPLES)
        chances.append(chance_of_one_kind(known, unknown))
        if chances[-1] > P_MIN:
            break
    passwords.close()
    assert max(chances) > P_MIN, chances


@pytest.mark.long
@pytest.mark.req("R-AUTH-3")
async def test_an_answer_without_the_work_would_be_noticed(login_with: LoginWith) -> None:
    passwords = HastyPasswords(hasher(), workers=1, queue_max=4)
    login = login_with(passwords)
    await login.register("ann@example.com", "ann", PASSWORD, HOME)
    known, unknown = await timed(login, SAMPLES)
    passwords.close()
    assert chance_of_one_kind(known, unknown) < P_MIN**SERIES


def test_the_comparison_tells_kinds_apart_and_leaves_one_kind_alone() -> None:
    even, odd = [float(number) for number in range(0, 400, 2)], [float(number) for number in range(1, 400, 2)]
    assert chance_of_one_kind(even, odd) > 0.5
    assert chance_of_one_kind(even, [one + 100 for one in odd]) < 1e-6
    assert chance_of_one_kind([1.0] * 50, [1.0] * 50) == 1.0


async def timed(login: Login, samples: int) -> tuple[list[float], list[float]]:
    """Return seconds of failed logins, to an account and to none, by turns."""
    took: dict[str, list[float]] = {"ann@example.com": [], "bob@example.com": []}
    numbers = itertools.count()
    for _ in range(samples):
        for email, seconds in took.items():
            number = next(numbers)
            place = Place(f"10.{number >> 14}.{number >> 7 & 127}.{number & 127}")
            started = time.perf_counter()
            with pytest.raises(AppError) as caught:
                await login.login(email, WRONG, place)
            seconds.append(time.perf_counter() - started)
            assert caught.value.kind is Kind.UNAUTHORIZED
    return took["ann@example.com"], took["bob@example.com"]


def chance_of_one_kind(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how likely samples of one and the same kind differ at least as much: Mann-Whitney U, two-sided, normal."""
    marked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    ranks, ties, place = 0.0, 0.0, 0
    while place < len(marked):
        end = place
        while end < len(marked) and marked[end][0] == marked[place][0]:
            end += 1
        ranks += sum((place + 1 + end) / 2 for _, which in marked[place:end] if which == 0)
        ties += (end - place) ** 3 - (end - place)
        place = end
    m, n, total = len(first), len(second), len(marked)
    u = ranks - m * (m + 1) / 2
    spread = math.sqrt(m * n / 12 * (total + 1 - ties / (total * (total - 1))))
    return math.erfc(abs(u - m * n / 2) / spread / math.sqrt(2)) if spread else 1.0
