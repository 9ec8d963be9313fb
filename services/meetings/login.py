"""Logging in and staying so: passwords against tokens, old tokens against new ones."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from chassis import ids, telemetry
from chassis.errors import AppError, Kind
from services.meetings import metrics
from services.meetings.accounts import PASSWORD_LONGEST, Account, normal_email, registration
from services.meetings.accounts_store import AccountsStore, Rotation
from services.meetings.passwords import Passwords
from services.meetings.tokens import AccessTokens, hash_of, new_refresh_token

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login gives: a signed access token with its life in seconds, and an opaque token to renew it."""

    access: str
    refresh: str
    expires_in_s: int


def utc_now() -> dt.datetime:
    """Return the time."""
    return dt.datetime.now(dt.UTC)


class Login:
    """Registers, logs in, renews, logs out."""

    def __init__(
        self,
        store: AccountsStore,
        passwords: Passwords,
        access: AccessTokens,
        *,
        refresh_life_s: int,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._access = access
        self._refresh_life = dt.timedelta(seconds=refresh_life_s)
        self._clock = clock

    async def register(self, email: str, username: str, password: str) -> Account:
        """Open an account. Raises AppError: VALIDATION_FAILED, CONFLICT if address or name is taken, UNAVAILABLE."""
        wish = registration(email, username, password)
        password_hash = await self._passwords.hash(wish.password)
        return await self._store.add(ids.new_id(), wish.email, wish.username, password_hash)

    async def login(self, email: str, password: str) -> Tokens:
        """Exchange a password for tokens.

        Raises AppError(UNAUTHORIZED), in the same words and after the same work for an unknown address and a wrong
        password; AppError(UNAVAILABLE) when too many log in at once.
        """
        normal = normal_email(email)
        found = await self._store.find(normal) if normal else None
        account, kept = found or (None, None)
        # No account has a longer one; what is that long is not worth hashing.
        offered = password if len(password) <= PASSWORD_LONGEST else ""
        try:
            matches = await self._passwords.matches(kept, offered)
        except AppError:
            metrics.LOGIN_FAILURES.labels("busy").inc()
            raise
        if account is None or not matches:
            reason = "unknown_account" if account is None else "wrong_password"
            metrics.LOGIN_FAILURES.labels(reason).inc()
            log.info("login failed", reason=reason, account=account.id if account else "")
            raise AppError(Kind.UNAUTHORIZED, "E-mail address or password is wrong.")
        refresh = new_refresh_token()
        await self._store.open_family(account.id, ids.new_id(), refresh.hash, self._clock() + self._refresh_life)
        return Tokens(self._access.sign(account), refresh.text, self._access.life_s)

    async def refresh(self, token: str) -> Tokens:
        """Exchange a refresh token for new tokens; it cannot be used again.

        Raises AppError(UNAUTHORIZED) for one that is unknown, expired, revoked or used before. The last revokes every
        token of its login: either the caller or the one before has stolen it.
        """
        now, successor = self._clock(), new_refresh_token()
        rotated = await self._store.rotate(hash_of(token), successor.hash, now, now + self._refresh_life)
        if rotated.account is None:
            metrics.LOGIN_FAILURES.labels(f"refresh_{rotated.rotation}").inc()
            if rotated.rotation is Rotation.REUSED:
                log.warning("refresh token used twice, login revoked")
            raise AppError(Kind.UNAUTHORIZED, "The refresh token is not valid.")
        return Tokens(self._access.sign(rotated.account), successor.text, self._access.life_s)

    async def logout(self, token: str) -> None:
        """End a login. Says nothing about whether the token was one."""
        await self._store.close_family(hash_of(token), self._clock())
