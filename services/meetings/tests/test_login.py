from __future__ import annotations

import asyncio
import datetime as dt
import statistics
import time

import argon2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from chassis import ids
from chassis.errors import AppError, Kind
from services.meetings import metrics
from services.meetings.accounts import registration
from services.meetings.accounts_store import AccountsStore
from services.meetings.login import Login
from services.meetings.passwords import Passwords
from services.meetings.tokens import AccessTokens

PASSWORD = "correct horse"


class Calendar:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = dt.datetime.now(dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
def login(accounts: AccountsStore, quick_passwords: Passwords, private_pem: str, calendar: Calendar) -> Login:
    return Login(accounts, quick_passwords, AccessTokens(private_pem, 900), refresh_life_s=86400, clock=calendar)


async def refused(call: object) -> AppError:
    with pytest.raises(AppError) as caught:
        await call  # type: ignore[misc]
    return caught.value


@pytest.mark.req("R-AUTH-1")
async def test_registered_account_logs_in_whatever_the_case_of_its_address(
    login: Login, accounts: AccountsStore
) -> None:
    account = await login.register(" Ann@Example.COM ", "ann.b", PASSWORD)
    assert (account.email, account.username, account.role) == ("ann@example.com", "ann.b", "user")
    assert await accounts.get(account.id) == account
    tokens = await login.login("ANN@example.com", PASSWORD)
    assert tokens.expires_in_s == 900


@pytest.mark.req("R-AUTH-1")
async def test_access_token_says_who_and_until_when_in_every_required_claim(
    login: Login, signing_key: Ed25519PrivateKey
) -> None:
    account = await login.register("ann@example.com", "ann", PASSWORD)
    tokens = await login.login("ann@example.com", PASSWORD)
    claims = jwt.decode(
        tokens.access, signing_key.public_key(), ["EdDSA"], audience="verbatim-api", issuer="verbatim",
        options={"require": ["sub", "iss", "aud", "iat", "nbf", "exp", "jti"]},
    )  # fmt: skip
    assert (claims["sub"], claims["typ"], claims["role"]) == (account.id, "access", "user")
    assert claims["exp"] - claims["iat"] == 900
    assert ids.is_id(claims["jti"])
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(tokens.access, Ed25519PrivateKey.generate().public_key(), ["EdDSA"], audience="verbatim-api")


@pytest.mark.req("R-AUTH-1")
async def test_address_and_user_name_are_taken_once_whatever_their_case(login: Login) -> None:
    await login.register("ann@example.com", "Ann", PASSWORD)
    for email, username in (("ANN@example.com", "other"), ("other@example.com", "aNN")):
        assert (await refused(login.register(email, username, PASSWORD))).kind == Kind.CONFLICT
    results = await asyncio.gather(
        *(login.register("ben@example.com", f"ben{n}", PASSWORD) for n in range(6)), return_exceptions=True
    )
    assert sum(not isinstance(result, AppError) for result in results) == 1


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("email", "username", "password", "fields"),
    [
        ("nobody", "ab", "short", ["email", "username", "password"]),
        ("a@b@c.org", "a" * 33, "x" * 1025, ["email", "username", "password"]),
        ("a" * 250 + "@example.com", "has blank", "12345678", ["email", "username"]),
        ("ann@example.com", "ann\n", "12345678", ["username"]),
        ("Ann <ann@example.com>", "ann", "12345678", ["email"]),
    ],
)
def test_everything_wrong_with_a_registration_is_told_at_once(
    email: str, username: str, password: str, fields: list[str]
) -> None:
    with pytest.raises(AppError) as caught:
        registration(email, username, password)
    assert [problem.field for problem in caught.value.details] == fields
    assert password not in str(caught.value.details)


@pytest.mark.req("R-AUTH-1")
async def test_every_character_of_a_long_password_counts(login: Login) -> None:
    long = "é" * 1023
    await login.register("ann@example.com", "ann", long + "a")
    await login.login("ann@example.com", long + "a")
    for wrong in (long + "b", long, long + "ab"):
        assert (await refused(login.login("ann@example.com", wrong))).kind == Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-3")
async def test_unknown_address_and_wrong_password_get_the_same_answer(login: Login) -> None:
    await login.register("ann@example.com", "ann", PASSWORD)
    wrong = await refused(login.login("ann@example.com", "wrong password"))
    unknown = await refused(login.login("ben@example.com", PASSWORD))
    senseless = await refused(login.login("no address", PASSWORD))
    assert wrong.body("r") == unknown.body("r") == senseless.body("r")
    assert wrong.kind == Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-3")
async def test_unknown_address_takes_as_long_as_a_wrong_password(accounts: AccountsStore, private_pem: str) -> None:
    passwords = Passwords(argon2.PasswordHasher(time_cost=2, memory_cost=16384), workers=1, queue_max=10)
    login = Login(accounts, passwords, AccessTokens(private_pem, 900), refresh_life_s=86400)
    await login.register("ann@example.com", "ann", PASSWORD)

    async def median_s(email: str) -> float:
        times = []
        for _ in range(9):
            started = time.perf_counter()
            await refused(login.login(email, "wrong password"))
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    known_s, unknown_s = await median_s("ann@example.com"), await median_s("ben@example.com")
    passwords.close()
    # Without the hash for nobody an unknown address takes a tenth of it.
    assert 0.5 < unknown_s / known_s < 2


@pytest.mark.req("R-AUTH-1")
async def test_refresh_token_works_once_and_its_reuse_ends_the_login(login: Login) -> None:
    await login.register("ann@example.com", "ann", PASSWORD)
    other = await login.login("ann@example.com", PASSWORD)
    first = await login.login("ann@example.com", PASSWORD)
    second = await login.refresh(first.refresh)
    third = await login.refresh(second.refresh)
    assert len({first.refresh, second.refresh, third.refresh}) == 3
    reused = metrics.LOGIN_FAILURES.labels("refresh_reused")._value.get()
    assert (await refused(login.refresh(first.refresh))).kind == Kind.UNAUTHORIZED
    assert metrics.LOGIN_FAILURES.labels("refresh_reused")._value.get() == reused + 1
    assert (await refused(login.refresh(third.refresh))).kind == Kind.UNAUTHORIZED
    await login.refresh(other.refresh)


@pytest.mark.req("R-AUTH-1")
async def test_of_two_who_use_one_refresh_token_at_once_one_gets_tokens_and_then_nobody(login: Login) -> None:
    await login.register("ann@example.com", "ann", PASSWORD)
    first = await login.login("ann@example.com", PASSWORD)
    results = await asyncio.gather(*(login.refresh(first.refresh) for _ in range(4)), return_exceptions=True)
    winners = [result for result in results if not isinstance(result, BaseException)]
    assert len(winners) == 1
    assert (await refused(login.refresh(winners[0].refresh))).kind == Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-1")
async def test_logout_ends_the_login_and_tells_nothing(login: Login) -> None:
    await login.register("ann@example.com", "ann", PASSWORD)
    tokens = await login.login("ann@example.com", PASSWORD)
    await login.logout(tokens.refresh)
    await login.logout(tokens.refresh)
    await login.logout("never was one")
    assert (await refused(login.refresh(tokens.refresh))).kind == Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-1")
async def test_refresh_token_expires(login: Login, calendar: Calendar) -> None:
    await login.register("ann@example.com", "ann", PASSWORD)
    tokens = await login.login("ann@example.com", PASSWORD)
    calendar.now += dt.timedelta(seconds=86401)
    assert (await refused(login.refresh(tokens.refresh))).kind == Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-1")
async def test_passwords_and_tokens_are_kept_as_hashes_only(login: Login, accounts: AccountsStore) -> None:
    await login.register("ann@example.com", "ann", PASSWORD)
    found = await accounts.find("ann@example.com")
    assert found is not None
    assert found[1].startswith("$argon2id$")
    assert PASSWORD not in found[1]


@pytest.mark.req("R-AUTH-3")
async def test_too_many_logins_at_once_are_told_to_come_later() -> None:
    passwords = Passwords(argon2.PasswordHasher(time_cost=2, memory_cost=16384), workers=1, queue_max=2)
    results = await asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(10)), return_exceptions=True)
    busy = [result for result in results if isinstance(result, AppError)]
    assert len(busy) == 7
    assert all(error.kind == Kind.UNAVAILABLE and error.retry_after_s for error in busy)
    assert await passwords.matches(await passwords.hash(PASSWORD), PASSWORD)
    passwords.close()


@pytest.mark.req("R-AUTH-3")
async def test_login_that_is_given_up_frees_its_place_only_when_its_thread_ends() -> None:
    passwords = Passwords(argon2.PasswordHasher(time_cost=4, memory_cost=65536), workers=1, queue_max=0)
    given_up = asyncio.ensure_future(passwords.hash(PASSWORD))
    await asyncio.sleep(0)
    given_up.cancel()
    assert (await refused(passwords.hash(PASSWORD))).kind == Kind.UNAVAILABLE
    async with asyncio.timeout(10):
        while True:
            try:
                await passwords.hash(PASSWORD)
                break
            except AppError:
                await asyncio.sleep(0.01)
    passwords.close()


def test_key_of_another_kind_does_not_sign(private_pem: str) -> None:
    other = generate_private_key(public_exponent=65537, key_size=2048)
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for wrong in (pem, "", "no key"):
        with pytest.raises(ValueError, match=r"."):
            AccessTokens(wrong, 900)
    AccessTokens(private_pem.replace("\n", "\\n"), 900)
