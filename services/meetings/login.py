"""Coming in and staying in: passwords against tokens, old tokens against new ones."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from chassis import ids, telemetry
from chassis.errors import AppError, Kind
from services.meetings import metrics
from services.meetings.accounts import PASSWORD_LONGEST, Account, new_password, normal_email, registration
from services.meetings.accounts_store import AccountsStore
from services.meetings.guards import Place
from services.meetings.guards_store import Admission, Guards
from services.meetings.logins_store import LoginsStore, Rotation
from services.meetings.passwords import Passwords
from services.meetings.tokens import AccessTokens, RefreshToken, RefreshTokens, hash_of

log = telemetry.logger(__name__)

_ADDRESS_CHARS_MAX = 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login gives: a signed access token with its life in seconds, and an opaque token to renew it.

    `device` marks the device from which a password was right.
    """

    access: str
    refresh: str
    expires_in_s: int
    device: str = ""


def utc_now() -> dt.datetime:
    """Return the time."""
    return dt.datetime.now(dt.UTC)


class Login:
    """Registers, logs in, renews, changes passwords, logs out."""

    def __init__(
        self,
        accounts: AccountsStore,
        logins: LoginsStore,
        passwords: Passwords,
        guards: Guards,
        access: AccessTokens,
        refresh: RefreshTokens,
        *,
        registration_open: bool = True,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._accounts = accounts
        self._logins = logins
        self._passwords = passwords
        self._guards = guards
        self._access = access
        self._refresh = refresh
        self._registration_open = registration_open
        self._clock = clock

    async def register(self, email: str, username: str, password: str, place: Place) -> Account:
        """Open an account.

        Raises AppError: FORBIDDEN if this installation opens none, VALIDATION_FAILED, CONFLICT if address or name is
        taken, RATE_LIMIT_EXCEEDED.
        """
        if not self._registration_open:
            raise AppError(Kind.FORBIDDEN, "Accounts are opened by an admin here.")
        wish = registration(email, username, password)
        # A taken name counts too: whoever asks for names learns which are taken.
        admission = await self._guards.admit_registration(place)
        password_hash = await self._or_forgive(admission, self._passwords.hash(wish.password))
        return await self._accounts.add(ids.new_id(), wish.email, wish.username, password_hash)

    async def login(self, email: str, password: str, place: Place) -> Tokens:
        """Exchange a password for tokens.

        Raises AppError(UNAUTHORIZED), in the same words and after the same work for an unknown address and a wrong
        password; AppError(RATE_LIMIT_EXCEEDED), for both alike, after too many tries or when too many log in at once;
        AppError(FORBIDDEN) for a disabled account, if the password is right.
        """
        normal = normal_email(email)
        try:
            admission = await self._guards.admit_login(normal or email[:_ADDRESS_CHARS_MAX], place)
        except AppError:
            metrics.LOGIN_FAILURES.labels("too_many_tries").inc()
            raise
        found = await self._or_forgive(admission, self._accounts.find(normal or ""))
        account, kept = found or (None, None)
        matches = await self._or_forgive(admission, self._matches(kept, password))
        if account is None or kept is None or not matches:
            reason = "unknown_account" if account is None else "wrong_password"
            metrics.LOGIN_FAILURES.labels(reason).inc()
            log.info("login failed", reason=reason, account=account.id if account else "")
            raise AppError(Kind.UNAUTHORIZED, "E-mail address or password is wrong.")
        device = await self._guards.entered(admission)
        if account.disabled:
            metrics.LOGIN_FAILURES.labels("disabled").inc()
            raise AppError(Kind.FORBIDDEN, "This account is disabled.")
        if self._passwords.is_outdated(kept):
            await self._accounts.rehash(account.id, kept, await self._passwords.hash(password))
        return await self._enter(account, device)

    async def refresh(self, token: str) -> Tokens:
        """Exchange a refresh token for new tokens; it cannot be used again.

        Raises AppError(UNAUTHORIZED) for one that is unknown, expired, revoked or used before. The last revokes every
        token of its login: either the caller or the one before has stolen it.
        """
        now, successor = self._clock(), self._refresh.successor(token)
        rotated = await self._logins.rotate(hash_of(token), successor.hash, now)
        if rotated.account is None or rotated.login is None:
            metrics.LOGIN_FAILURES.labels(f"refresh_{rotated.rotation}").inc()
            if rotated.rotation is Rotation.REUSED:
                log.warning("refresh token used twice, login revoked")
            raise AppError(Kind.UNAUTHORIZED, "The refresh token is not valid.")
        return self._tokens(rotated.account, rotated.login.id, rotated.login.created_at, successor)

    async def logout(self, token: str) -> None:
        """End a login. Says nothing about whether the token was one."""
        await self._logins.close(hash_of(token), self._clock())

    async def change_password(self, account_id: str, login_id: str, current: str, wanted: str) -> None:
        """Give an account another password; every other login of it ends.

        Raises AppError: VALIDATION_FAILED, FORBIDDEN if the current password is wrong or there is none,
        RATE_LIMIT_EXCEEDED, NOT_FOUND.
        """
        wanted = new_password(wanted)
        admission = await self._guards.admit_guess(account_id)
        account, kept = await self._or_forgive(admission, self._accounts.with_password(account_id))
        if not await self._or_forgive(admission, self._matches(kept, current)):
            metrics.LOGIN_FAILURES.labels("wrong_current_password").inc()
            raise AppError(Kind.FORBIDDEN, "The current password is wrong.")
        await self._guards.forgive(admission)
        password_hash = await self._passwords.hash(wanted)
        await self._accounts.set_password(account.id, password_hash, self._clock(), keep_login=login_id or None)
        log.info("password changed", account=account.id)

    async def delete_account(self, account_id: str, expected_version: int | None = None) -> None:
        """Delete an account and all that belongs to it.

        Raises AppError: NOT_FOUND, CONFLICT for the last admin, PRECONDITION_FAILED if a version is expected and it has
        another.
        """
        account = await self._accounts.delete(account_id, self._clock(), expected_version)
        await self._guards.forget(account.email)
        log.info("account deleted", account=account_id)

    async def _enter(self, account: Account, device: str) -> Tokens:
        now, login_id, first = self._clock(), ids.new_id(), self._refresh.first()
        await self._logins.open(account.id, login_id, first.hash, now)
        return self._tokens(account, login_id, now, first, device)

    def _tokens(
        self, account: Account, login_id: str, logged_in_at: dt.datetime, refresh: RefreshToken, device: str = ""
    ) -> Tokens:
        access = self._access.sign(account, login_id=login_id, logged_in_at=logged_in_at.timestamp())
        return Tokens(access, refresh.text, self._access.life_s, device)

    async def _matches(self, kept: str | None, password: str) -> bool:
        # No account has a longer one; what is that long is not worth hashing.
        offered = password if len(password) <= PASSWORD_LONGEST else ""
        try:
            return await self._passwords.matches(kept, offered)
        except AppError:
            metrics.LOGIN_FAILURES.labels("busy").inc()
            raise

    async def _or_forgive(self, admission: Admission, work: Awaitable[T]) -> T:
        """Do something that may fail by our fault: then the try does not count."""
        try:
            return await work
        except AppError:
            await self._guards.forgive(admission)
            raise
