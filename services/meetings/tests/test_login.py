from __future__ import annotations

import asyncio

import argon2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from chassis import ids
from chassis.errors import AppError, Kind
from services.meetings.accounts import AccountChange, registration
from services.meetings.accounts_store import AccountsStore
from services.meetings.guards import Place
from services.meetings.guards_store import Guards
from services.meetings.login import Login
from services.meetings.logins_store import LoginsStore
from services.meetings.passwords import Passwords
from services.meetings.tests.conftest import Calendar
from services.meetings.tokens import AccessTokens, RefreshTokens

PASSWORD = "correct horse"
HERE = Place("192.0.2.7")


async def refused(call: object) -> AppError:
    with pytest.raises(AppError) as caught:
        await call  # type: ignore[misc]
    return caught.value


@pytest.mark.req("R-AUTH-1")
async def test_registered_account_logs_in_whatever_the_case_of_its_address(
    login: Login, accounts: AccountsStore
) -> None:
    account = await login.register(" Ann@Example.COM ", "ann.b", PASSWORD, HERE)
    assert (account.email, account.username, account.role) == ("ann@example.com", "ann.b", "user")
    assert await accounts.get(account.id) == account
    tokens = await login.login("ANN@example.com", PASSWORD, HERE)
    assert tokens.expires_in_s == 900


@pytest.mark.req("R-AUTH-1")
async def test_access_token_says_who_and_until_when_in_every_required_claim(
    login: Login, logins: LoginsStore, calendar: Calendar, signing_key: Ed25519PrivateKey
) -> None:
    account = await login.register("ann@example.com", "ann", PASSWORD, HERE)
    tokens = await login.login("ann@example.com", PASSWORD, HERE)
    claims = jwt.decode(
        tokens.access, signing_key.public_key(), ["EdDSA"], audience="verbatim-api", issuer="verbatim",
        options={"require": ["sub", "iss", "aud", "iat", "nbf", "exp", "jti"]},
    )  # fmt: skip
    assert (claims["sub"], claims["typ"], claims["role"]) == (account.id, "access", "user")
    assert claims["exp"] - claims["nbf"] == 900
    assert [one.id for one in await logins.list(account.id, calendar.now)] == [claims["sid"]]
    assert claims["auth_time"] == int(calendar.now.timestamp())
    assert ids.is_id(claims["jti"])
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(tokens.access, Ed25519PrivateKey.generate().public_key(), ["EdDSA"], audience="verbatim-api")


@pytest.mark.req("R-AUTH-1")
async def test_address_and_user_name_are_taken_once_whatever_their_case(login: Login) -> None:
    await login.register("ann@example.com", "Ann", PASSWORD, HERE)
    for email, username in (("ANN@example.com", "other"), ("other@example.com", "aNN")):
        assert (await refused(login.register(email, username, PASSWORD, HERE))).kind == Kind.CONFLICT
    results = await asyncio.gather(
        *(login.register("ben@example.com", f"ben{n}", PASSWORD, Place(f"192.0.2.{n}")) for n in range(6)),
        return_exceptions=True,
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
    await login.register("ann@example.com", "ann", long + "a", HERE)
    await login.login("ann@example.com", long + "a", HERE)
    for wrong in (long + "b", long, long + "ab"):
        assert (await refused(login.login("ann@example.com", wrong, HERE))).kind == Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-3")
async def test_unknown_address_and_wrong_password_get_the_same_answer(login: Login) -> None:
    await login.register("ann@example.com", "ann", PASSWORD, HERE)
    wrong = await refused(login.login("ann@example.com", "wrong password", HERE))
    unknown = await refused(login.login("ben@example.com", PASSWORD, HERE))
    senseless = await refused(login.login("no address", PASSWORD, HERE))
    assert wrong.body("r") == unknown.body("r") == senseless.body("r")
    assert wrong.kind == Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-1")
async def test_logout_ends_the_login_and_tells_nothing(login: Login) -> None:
    await login.register("ann@example.com", "ann", PASSWORD, HERE)
    tokens = await login.login("ann@example.com", PASSWORD, HERE)
    await login.logout(tokens.refresh)
    await login.logout(tokens.refresh)
    await login.logout("never was one")
    assert (await refused(login.refresh(tokens.refresh))).kind == Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-1")
async def test_passwords_and_tokens_are_kept_as_hashes_only(login: Login, accounts: AccountsStore) -> None:
    await login.register("ann@example.com", "ann", PASSWORD, HERE)
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
    assert all(error.kind == Kind.RATE_LIMIT_EXCEEDED and error.retry_after_s for error in busy)
    assert await passwords.matches(await passwords.hash(PASSWORD), PASSWORD)
    passwords.close()


@pytest.mark.req("R-AUTH-3")
async def test_login_that_is_given_up_frees_its_place_only_when_its_thread_ends() -> None:
    passwords = Passwords(argon2.PasswordHasher(time_cost=4, memory_cost=65536), workers=1, queue_max=0)
    given_up = asyncio.ensure_future(passwords.hash(PASSWORD))
    await asyncio.sleep(0)
    given_up.cancel()
    assert (await refused(passwords.hash(PASSWORD))).kind == Kind.RATE_LIMIT_EXCEEDED
    async with asyncio.timeout(10):
        while True:
            try:
                await passwords.hash(PASSWORD)
                break
            except AppError:
                await asyncio.sleep(0.01)
    passwords.close()


@pytest.mark.req("R-AUTH-1")
async def test_password_is_changed_by_who_knows_it_and_every_other_login_ends(
    login: Login, logins: LoginsStore, calendar: Calendar
) -> None:
    account = await login.register("ann@example.com", "ann", PASSWORD, HERE)
    await login.login("ann@example.com", PASSWORD, HERE)
    [other] = await logins.list(account.id, calendar.now)
    calendar.wait(seconds=1)
    mine = await login.login("ann@example.com", PASSWORD, HERE)
    mine_id = next(one.id for one in await logins.list(account.id, calendar.now) if one.id != other.id)

    error = await refused(login.change_password(account.id, mine_id, "wrong", "another password"))
    assert error.kind == Kind.FORBIDDEN
    error = await refused(login.change_password(account.id, mine_id, PASSWORD, "short"))
    assert [problem.field for problem in error.details] == ["new_password"]
    await login.change_password(account.id, mine_id, PASSWORD, "another password")

    assert [one.id for one in await logins.list(account.id, calendar.now)] == [mine_id]
    await login.refresh(mine.refresh)
    assert (await refused(login.login("ann@example.com", PASSWORD, HERE))).kind == Kind.UNAUTHORIZED
    await login.login("ann@example.com", "another password", HERE)


@pytest.mark.req("R-AUTH-3")
async def test_current_password_cannot_be_guessed_by_who_stole_a_token(login: Login) -> None:
    account = await login.register("ann@example.com", "ann", PASSWORD, HERE)
    for _ in range(5):
        error = await refused(login.change_password(account.id, "", "wrong", "another password"))
        assert error.kind == Kind.FORBIDDEN
    error = await refused(login.change_password(account.id, "", PASSWORD, "another password"))
    assert error.kind == Kind.RATE_LIMIT_EXCEEDED


@pytest.mark.req("R-AUTH-1")
async def test_password_that_was_hashed_with_less_work_is_hashed_again_at_the_next_login(
    login: Login, accounts: AccountsStore
) -> None:
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, hash_len=16)
    account = await accounts.add(ids.new_id(), "ann@example.com", "ann", weak.hash(PASSWORD))
    await login.login("ann@example.com", PASSWORD, HERE)
    kept = (await accounts.with_password(account.id))[1]
    assert kept is not None
    assert not argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).check_needs_rehash(kept)
    await login.login("ann@example.com", PASSWORD, HERE)


@pytest.mark.req("R-AUTH-1")
async def test_disabled_account_is_told_so_only_to_who_knows_its_password(
    login: Login, accounts: AccountsStore, calendar: Calendar
) -> None:
    account = await login.register("ann@example.com", "ann", PASSWORD, HERE)
    tokens = await login.login("ann@example.com", PASSWORD, HERE)
    await accounts.update(account.id, None, AccountChange(disabled=True), calendar.now)
    assert (await refused(login.login("ann@example.com", PASSWORD, HERE))).kind == Kind.FORBIDDEN
    assert (await refused(login.login("ann@example.com", "wrong", HERE))).kind == Kind.UNAUTHORIZED
    assert (await refused(login.refresh(tokens.refresh))).kind == Kind.UNAUTHORIZED
    await accounts.update(account.id, None, AccountChange(disabled=False), calendar.now)
    await login.login("ann@example.com", PASSWORD, HERE)


@pytest.mark.req("R-AUTH-1")
async def test_where_accounts_are_not_open_to_all_nobody_registers(
    accounts: AccountsStore, logins: LoginsStore, quick_passwords: Passwords, guards: Guards, private_pem: str
) -> None:
    closed = Login(
        accounts, logins, quick_passwords, guards, AccessTokens(private_pem, 900), RefreshTokens(b"x" * 32),
        registration_open=False,
    )  # fmt: skip
    assert (await refused(closed.register("ann@example.com", "ann", PASSWORD, HERE))).kind == Kind.FORBIDDEN


def test_key_of_another_kind_does_not_sign(private_pem: str) -> None:
    other = generate_private_key(public_exponent=65537, key_size=2048)
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for wrong in (pem, "", "no key"):
        with pytest.raises(ValueError, match=r"."):
            AccessTokens(wrong, 900)
    AccessTokens(private_pem.replace("\n", "\\n"), 900)
