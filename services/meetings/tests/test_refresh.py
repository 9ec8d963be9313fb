"""Staying logged in: a chain of refresh tokens, each good once."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime as dt

import pytest

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.meetings import metrics
from services.meetings.account_tables import refresh_tokens
from services.meetings.accounts import AccountChange
from services.meetings.accounts_store import AccountsStore
from services.meetings.columns import METADATA
from services.meetings.guards import Place
from services.meetings.guards_store import Guards
from services.meetings.login import Login, Tokens
from services.meetings.logins_store import LOGINS_MAX, LoginsStore
from services.meetings.passwords import Passwords
from services.meetings.revocations import Revoked, revoked_since
from services.meetings.tests.conftest import KEY, LIVES, Calendar
from services.meetings.tokens import AccessTokens, RefreshTokens, derived, hash_of

PASSWORD = "correct horse"
HERE = Place("192.0.2.7")


@pytest.fixture
async def first(login: Login) -> Tokens:
    """What the first login of Ann gave."""
    await login.register("ann@example.com", "ann", PASSWORD, HERE)
    return await login.login("ann@example.com", PASSWORD, HERE)


async def refused(call: object) -> AppError:
    with pytest.raises(AppError) as caught:
        await call  # type: ignore[misc]
    return caught.value


def failures(reason: str) -> float:
    return float(metrics.LOGIN_FAILURES.labels(f"refresh_{reason}")._value.get())


@pytest.mark.req("R-AUTH-1")
async def test_refresh_token_that_is_used_again_later_ends_its_login_and_no_other(
    login: Login, first: Tokens, calendar: Calendar
) -> None:
    other = await login.login("ann@example.com", PASSWORD, HERE)
    second = await login.refresh(first.refresh)
    third = await login.refresh(second.refresh)
    assert len({first.refresh, second.refresh, third.refresh}) == 3
    calendar.wait(seconds=11)
    reused = failures("reused")
    assert (await refused(login.refresh(first.refresh))).kind == Kind.UNAUTHORIZED
    assert failures("reused") == reused + 1
    assert (await refused(login.refresh(third.refresh))).kind == Kind.UNAUTHORIZED
    await login.refresh(other.refresh)


@pytest.mark.req("R-AUTH-1")
async def test_client_whose_answer_got_lost_asks_again_and_gets_the_same_successor(
    login: Login, first: Tokens, calendar: Calendar
) -> None:
    lost = await login.refresh(first.refresh)
    calendar.wait(seconds=9)
    again = await login.refresh(first.refresh)
    assert again.refresh == lost.refresh
    assert again.access != lost.access
    await login.refresh(again.refresh)


@pytest.mark.req("R-AUTH-1")
async def test_of_many_who_use_one_refresh_token_at_once_all_hold_the_same_next_one(
    login: Login, first: Tokens
) -> None:
    """One client that refreshes twice at once is no thief: before, this ended its login."""
    results = await asyncio.gather(*(login.refresh(first.refresh) for _ in range(8)))
    assert len({result.refresh for result in results}) == 1
    await login.refresh(results[0].refresh)


@pytest.mark.req("R-AUTH-1")
async def test_thief_within_the_grace_gains_no_chain_of_its_own(
    login: Login, first: Tokens, calendar: Calendar
) -> None:
    """Both hold the same successor; once one of them has used it, the other's use ends the login."""
    await login.refresh(first.refresh)
    stolen = await login.refresh(first.refresh)
    mine = await login.refresh(stolen.refresh)
    calendar.wait(seconds=11)
    assert (await refused(login.refresh(stolen.refresh))).kind == Kind.UNAUTHORIZED
    assert (await refused(login.refresh(mine.refresh))).kind == Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-1")
async def test_token_whose_successor_is_in_use_has_no_grace(login: Login, first: Tokens) -> None:
    second = await login.refresh(first.refresh)
    third = await login.refresh(second.refresh)
    assert (await refused(login.refresh(first.refresh))).kind == Kind.UNAUTHORIZED
    assert (await refused(login.refresh(third.refresh))).kind == Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-1")
async def test_without_the_grace_a_lost_answer_ends_the_login(
    accounts: AccountsStore, database: Database, quick_passwords: Passwords, guards: Guards, private_pem: str,
    calendar: Calendar, first: Tokens,
) -> None:  # fmt: skip
    """The negative control: it is the grace that saves the client."""
    strict = LoginsStore(database, dataclasses.replace(LIVES, grace=dt.timedelta(seconds=-1)))
    login = Login(
        accounts, strict, quick_passwords, guards, AccessTokens(private_pem, 900),
        RefreshTokens(derived(KEY, "refresh tokens")), clock=calendar,
    )  # fmt: skip
    await login.refresh(first.refresh)
    assert (await refused(login.refresh(first.refresh))).kind == Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-1")
async def test_refresh_token_expires_and_so_does_the_login_however_often_it_is_renewed(
    login: Login, first: Tokens, calendar: Calendar
) -> None:
    token = (await login.login("ann@example.com", PASSWORD, HERE)).refresh
    calendar.wait(hours=23)
    for _ in range(3):
        token = (await login.refresh(token)).refresh
        calendar.wait(hours=16)
    expired = failures("expired")
    assert (await refused(login.refresh(first.refresh))).kind == Kind.UNAUTHORIZED
    token = (await login.refresh(token)).refresh
    calendar.wait(hours=2)
    assert (await refused(login.refresh(token))).kind == Kind.UNAUTHORIZED
    assert failures("expired") == expired + 2


@pytest.mark.req("R-AUTH-1")
async def test_family_that_the_release_before_opened_is_a_login_when_it_is_renewed(
    login: Login, logins: LoginsStore, database: Database, calendar: Calendar, first: Tokens
) -> None:
    account = (await login.register("ben@example.com", "ben", PASSWORD, HERE)).id
    family = ids.new_id()
    row = {"hash": hash_of("old token"), "family": family, "account_id": account,
           "expires_at": calendar.now + dt.timedelta(days=1)}  # fmt: skip
    async with database.engine.begin() as connection:
        await connection.execute(refresh_tokens.insert().values(row))
    await login.refresh("old token")
    assert [one.id for one in await logins.list(account, calendar.now)] == [family]


@pytest.mark.req("R-AUTH-1")
async def test_logins_are_listed_ended_one_by_one_or_all_and_that_is_told(
    login: Login, logins: LoginsStore, database: Database, calendar: Calendar, first: Tokens
) -> None:
    account = (await login.register("ben@example.com", "ben", PASSWORD, HERE)).id
    tokens = []
    for _ in range(3):
        calendar.wait(seconds=1)
        tokens.append(await login.login("ben@example.com", PASSWORD, HERE))
    open_logins = await logins.list(account, calendar.now)
    assert [one.created_at for one in open_logins] == sorted((one.created_at for one in open_logins), reverse=True)

    await logins.end(account, open_logins[0].id, calendar.now)
    assert (await refused(login.refresh(tokens[2].refresh))).kind == Kind.UNAUTHORIZED
    for other in (open_logins[0].id, ids.new_id()):
        assert (await refused(logins.end(account, other, calendar.now))).kind == Kind.NOT_FOUND
    assert (await refused(logins.end(ids.new_id(), open_logins[1].id, calendar.now))).kind == Kind.NOT_FOUND

    await logins.end_all(account, calendar.now)
    assert await logins.list(account, calendar.now) == []
    await login.refresh(first.refresh)
    told = await revoked_since(database, calendar.now)
    assert {(one.kind, one.subject) for one in told} == {(Revoked.LOGIN, one.id) for one in open_logins}


@pytest.mark.req("R-AUTH-1")
async def test_account_has_so_many_logins_and_the_one_not_used_for_longest_gives_way(
    login: Login, logins: LoginsStore, calendar: Calendar, first: Tokens
) -> None:
    for _ in range(LOGINS_MAX - 1):
        calendar.wait(seconds=1)
        await login.login("ann@example.com", PASSWORD, HERE)
    calendar.wait(seconds=1)
    renewed = await login.refresh(first.refresh)
    newest = await login.login("ann@example.com", PASSWORD, HERE)
    await login.refresh(renewed.refresh)
    await login.refresh(newest.refresh)


@pytest.mark.req("R-AUTH-1")
async def test_refresh_gives_the_role_that_the_account_has_now(
    login: Login, accounts: AccountsStore, first: Tokens, calendar: Calendar
) -> None:
    found = await accounts.find("ann@example.com")
    assert found is not None
    await accounts.update(found[0].id, None, AccountChange(role="admin"), calendar.now)
    assert '"role":"admin"' in payload_of((await login.refresh(first.refresh)).access)


def payload_of(token: str) -> str:
    part = token.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()


async def test_nothing_that_opens_anything_is_in_the_tables(database: Database, login: Login, first: Tokens) -> None:
    await login.refresh(first.refresh)
    async with database.engine.begin() as connection:
        for table in METADATA.sorted_tables:
            for row in await connection.execute(table.select()):
                for secret in (first.refresh, first.access, first.device, PASSWORD, HERE.address):
                    assert secret not in str(row), table
