"""Guessing passwords: what the guards let through, and that they cannot be turned against the victim."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter

import argon2
import pytest

from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.meetings import metrics
from services.meetings.accounts_store import AccountsStore
from services.meetings.guards import Place, Rules, Slowing, Window
from services.meetings.login import Login
from services.meetings.logins_store import LoginsStore
from services.meetings.passwords import Passwords
from services.meetings.tests.conftest import KEY, RULES, Calendar, new_guards
from services.meetings.tokens import AccessTokens, RefreshTokens, derived

PASSWORD = "correct horse"
WRONG = "wrong one"
HOME = Place("198.51.100.10")
ELSEWHERE = Place("203.0.113.5")
NO_RULES = Rules(
    address=Window(10**6, dt.timedelta(minutes=15)),
    pair=Slowing(10**6, first=dt.timedelta(minutes=1), longest=dt.timedelta(days=1)),
    account=Window(10**6, dt.timedelta(minutes=15)),
    device=Window(10**6, dt.timedelta(minutes=15)),
    registration=Window(10**6, dt.timedelta(hours=1)),
    guess=Window(10**6, dt.timedelta(minutes=15)),
)


async def outcome(login: Login, place: Place, *, email: str = "ann@example.com", password: str = WRONG) -> str:
    try:
        await login.login(email, password, place)
    except AppError as error:
        assert (error.kind is Kind.RATE_LIMIT_EXCEEDED) == bool(error.retry_after_s)
        return error.kind.value
    return "in"


async def outcomes(login: Login, places: list[Place], **fields: str) -> Counter[str]:
    """Try from each place, twenty at a time."""
    counted: Counter[str] = Counter()
    for start in range(0, len(places), 20):
        part = await asyncio.gather(*(outcome(login, place, **fields) for place in places[start : start + 20]))
        counted.update(part)
    return counted


@pytest.fixture
async def victim(login: Login) -> str:
    """Ann has an account, and was in from home: the token of her device."""
    await login.register("ann@example.com", "ann", PASSWORD, HOME)
    return (await login.login("ann@example.com", PASSWORD, HOME)).device


@pytest.mark.req("R-AUTH-3")
async def test_hundreds_of_tries_from_one_address_are_five(login: Login, victim: str) -> None:
    refused = metrics.LOGIN_FAILURES.labels("too_many_tries")._value.get()
    assert await outcomes(login, [ELSEWHERE] * 300) == {"unauthorized": 5, "rate_limit_exceeded": 295}
    assert metrics.LOGIN_FAILURES.labels("too_many_tries")._value.get() == refused + 295
    # Also the right password: else the answer would tell which it is.
    assert await outcome(login, ELSEWHERE, password=PASSWORD) == "rate_limit_exceeded"


@pytest.mark.req("R-AUTH-3")
async def test_tries_from_hundreds_of_networks_are_twenty_and_the_victim_gets_in(login: Login, victim: str) -> None:
    storm = [Place(f"10.{number // 250}.{number % 250}.9") for number in range(300)]
    assert await outcomes(login, storm) == {"unauthorized": 20, "rate_limit_exceeded": 280}
    # Her device, wherever it is; and her network, without the token of the device.
    assert await outcome(login, Place("203.0.113.99", victim), password=PASSWORD) == "in"
    assert await outcome(login, Place("198.51.100.77"), password=PASSWORD) == "in"


@pytest.mark.req("R-AUTH-3")
async def test_without_the_rules_every_try_is_looked_at(
    accounts: AccountsStore, logins: LoginsStore, database: Database, quick_passwords: Passwords, private_pem: str,
    calendar: Calendar, victim: str,
) -> None:  # fmt: skip
    """The negative control: it is the rules that refuse."""
    login = Login(
        accounts, logins, quick_passwords, new_guards(database, calendar, NO_RULES), AccessTokens(private_pem, 900),
        RefreshTokens(derived(KEY, "refresh tokens")), clock=calendar,
    )  # fmt: skip
    assert await outcomes(login, [ELSEWHERE] * 100) == {"unauthorized": 100}


@pytest.mark.req("R-AUTH-3")
async def test_an_account_that_does_not_exist_is_refused_as_one_that_does(login: Login, victim: str) -> None:
    storm = [Place(f"10.9.{number}.9") for number in range(40)]
    known = [await outcome(login, place) for place in storm]
    unknown = [await outcome(login, Place(f"10.8.{number}.9"), email="nobody@example.com") for number in range(40)]
    assert known == unknown


@pytest.mark.req("R-AUTH-3")
async def test_trying_many_accounts_from_one_address_is_trying(login: Login, victim: str) -> None:
    tried = [await outcome(login, ELSEWHERE, email=f"person{number}@example.com") for number in range(8)]
    assert Counter(tried) == {"unauthorized": 5, "rate_limit_exceeded": 3}


@pytest.mark.req("R-AUTH-3")
async def test_a_neighbour_in_the_victims_network_cannot_lock_her_device_out(login: Login, victim: str) -> None:
    neighbours = [Place(f"198.51.100.{number}") for number in range(100, 140)]
    assert (await outcomes(login, neighbours))["rate_limit_exceeded"] >= 35
    assert await outcome(login, HOME, password=PASSWORD) == "rate_limit_exceeded"
    assert await outcome(login, Place(HOME.address, victim), password=PASSWORD) == "in"


@pytest.mark.req("R-AUTH-3")
async def test_a_known_device_has_five_tries_of_its_own_and_a_forged_one_none(login: Login, victim: str) -> None:
    storm = [Place(f"10.9.{number}.9") for number in range(30)]
    await outcomes(login, storm)
    device = Place("203.0.113.99", victim)
    assert await outcomes(login, [device] * 12) == {"unauthorized": 5, "rate_limit_exceeded": 7}
    forged = victim[:-4] + ("AAAA" if victim[-4:] != "AAAA" else "BBBB")
    for token in (forged, "nonsense", "é" * 20, victim * 20):
        assert await outcome(login, Place("203.0.113.100", token), password=PASSWORD) == "rate_limit_exceeded"


@pytest.mark.req("R-AUTH-3")
async def test_the_device_of_one_account_is_nothing_to_another(login: Login, victim: str) -> None:
    await login.register("eve@example.com", "eve", PASSWORD, Place("203.0.113.1"))
    eves = (await login.login("eve@example.com", PASSWORD, ELSEWHERE)).device
    assert await outcomes(login, [Place(ELSEWHERE.address, eves)] * 20) == {
        "unauthorized": 5,
        "rate_limit_exceeded": 15,
    }


@pytest.mark.req("R-AUTH-3")
async def test_pauses_grow_for_who_goes_on(login: Login, victim: str, calendar: Calendar) -> None:
    """Within a day after the first five, an address gets a few more tries, not hundreds."""
    looked_at = 0
    for _ in range(24 * 12):
        looked_at += await outcome(login, ELSEWHERE) == "unauthorized"
        calendar.wait(minutes=5)
    assert 10 <= looked_at <= 17


@pytest.mark.req("R-AUTH-3")
async def test_who_mistypes_and_gets_it_right_starts_anew(login: Login, victim: str, calendar: Calendar) -> None:
    for _ in range(4):
        await outcomes(login, [ELSEWHERE] * 4)
        assert await outcome(login, ELSEWHERE, password=PASSWORD) == "in"
        calendar.wait(minutes=16)


@pytest.mark.req("R-AUTH-3")
async def test_an_account_is_not_a_key_to_more_tries_at_others(login: Login, victim: str) -> None:
    """Whoever logs in with an account of his own in between has no more tries for it."""
    await login.register("eve@example.com", "eve", PASSWORD, ELSEWHERE)
    tried = []
    for _ in range(8):
        tried.append(await outcome(login, ELSEWHERE))
        await outcome(login, ELSEWHERE, email="eve@example.com", password=PASSWORD)
    assert Counter(tried) == {"unauthorized": 5, "rate_limit_exceeded": 3}


@pytest.mark.req("R-AUTH-3")
async def test_an_address_opens_three_accounts_an_hour_taken_names_count_bad_input_does_not(
    login: Login, calendar: Calendar
) -> None:
    async def register(number: int, address: str = HOME.address, password: str = PASSWORD) -> str:
        try:
            await login.register(f"p{number}@example.com", f"person{number}", password, Place(address))
        except AppError as error:
            return error.kind.value
        return "made"

    assert [await register(1, password="short") for _ in range(5)] == ["validation_failed"] * 5
    assert [await register(number) for number in (1, 1, 2, 3)] == ["made", "conflict", "made", "rate_limit_exceeded"]
    assert await register(3, "198.51.100.11") == "made"
    calendar.wait(minutes=61)
    assert await register(4) == "made"


@pytest.mark.req("R-AUTH-3")
async def test_tries_are_counted_together_by_all_replicas(
    login: Login, accounts: AccountsStore, logins: LoginsStore, database: Database, quick_passwords: Passwords,
    private_pem: str, calendar: Calendar, victim: str,
) -> None:  # fmt: skip
    other = Login(
        accounts, logins, quick_passwords, new_guards(database, calendar, RULES), AccessTokens(private_pem, 900),
        RefreshTokens(derived(KEY, "refresh tokens")), clock=calendar,
    )  # fmt: skip
    results = await asyncio.gather(*(outcome(one, ELSEWHERE) for one in [login, other] * 20))
    assert Counter(results) == {"unauthorized": 5, "rate_limit_exceeded": 35}


@pytest.mark.req("R-AUTH-3")
async def test_a_storm_that_is_put_off_locks_nobody_out(
    login: Login, accounts: AccountsStore, logins: LoginsStore, private_pem: str, database: Database,
    calendar: Calendar, victim: str,
) -> None:  # fmt: skip
    """Who is told that too many log in has not tried: the hash was never looked at."""
    full = Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1), workers=1, queue_max=1)
    full._under_way = 2
    busy = Login(
        accounts, logins, full, new_guards(database, calendar), AccessTokens(private_pem, 900),
        RefreshTokens(derived(KEY, "refresh tokens")), clock=calendar,
    )  # fmt: skip
    for _ in range(10):
        assert await outcome(busy, ELSEWHERE) == "rate_limit_exceeded"
    full.close()
    assert await outcome(login, ELSEWHERE, password=PASSWORD) == "in"
