"""Logins and their refresh tokens: rows, and the transactions that change them.

A login lives from the password to the logout. It is renewed with a chain of refresh tokens, each good once.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.postgres import Database
from services.meetings.account_tables import accounts, logins, refresh_tokens
from services.meetings.accounts import Account
from services.meetings.accounts_store import ACCOUNT, account_of
from services.meetings.checks import not_found
from services.meetings.revocations import revoke_logins

LOGINS_MAX = 50


class Rotation(StrEnum):
    """What became of a refresh token that was presented."""

    DONE = "done"
    REPEATED = "repeated"  # it was used a moment ago, and its successor not yet: the answer got lost
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REVOKED = "revoked"
    REUSED = "reused"  # it was used before: somebody has a copy


@dataclass(frozen=True, slots=True)
class Login:
    """A login as its owner sees it."""

    id: str
    created_at: dt.datetime
    last_used_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Rotated:
    """The outcome of a rotation; the rest only if the successor is good (DONE, REPEATED)."""

    rotation: Rotation
    account: Account | None = None
    login: Login | None = None


@dataclass(frozen=True, slots=True)
class Lives:
    """How long things live: a refresh token that is not used, a login however often it is renewed, and how long a
    token that was used may be shown again by a client that did not get the answer."""

    refresh: dt.timedelta
    login: dt.timedelta
    grace: dt.timedelta


class LoginsStore:
    """Keeps logins. Each method is one transaction."""

    def __init__(self, database: Database, lives: Lives) -> None:
        self._database = database
        self._lives = lives

    async def open(self, account_id: str, login_id: str, token_hash: bytes, now: dt.datetime) -> None:
        """Keep a new login and its first refresh token. Beyond fifty, the login that was not used for longest ends."""
        ends_at = now + self._lives.login
        login = logins.insert().values(
            id=login_id, account_id=account_id, created_at=now, last_used_at=now, expires_at=ends_at
        )
        token = refresh_tokens.insert().values(
            hash=token_hash, family=login_id, account_id=account_id, expires_at=min(ends_at, now + self._lives.refresh)
        )
        live = (logins.c.account_id == account_id) & logins.c.revoked_at.is_(None) & (logins.c.id != login_id)
        oldest = sa.select(logins.c.id).where(live).order_by(logins.c.last_used_at.desc()).offset(LOGINS_MAX - 1)

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(login)
            await connection.execute(token)
            await revoke_logins(connection, logins.c.id.in_(oldest), now)

        await self._database.once("open login", work)

    async def rotate(self, presented: bytes, successor: bytes, now: dt.datetime) -> Rotated:
        """Use up a refresh token and keep its successor. One that was used before ends its login.

        `successor` must always be the same for the same token: shown again within the grace, while its successor
        is not used yet, a token leads to the same successor.
        """

        async def work(connection: AsyncConnection) -> Rotated:
            row = await _presented(connection, presented, now + self._lives.login)
            rotation = await self._judge(connection, row, successor, now)
            if rotation is Rotation.REUSED:
                await revoke_logins(connection, logins.c.id == row.family, now)
            if rotation not in {Rotation.DONE, Rotation.REPEATED}:
                return Rotated(rotation)
            if rotation is Rotation.DONE:
                await self._use_up(connection, row, presented, successor, now)
            return Rotated(rotation, account_of(row), Login(row.family, row.login_created_at, now))

        return await self._database.once("rotate token", work)

    async def _judge(self, connection: AsyncConnection, row: Any, successor: bytes, now: dt.datetime) -> Rotation:
        if row is None:
            return Rotation.UNKNOWN
        if row.token_revoked_at is not None or row.login_revoked_at is not None or row.disabled_at is not None:
            return Rotation.REVOKED
        if row.used_at is None:
            return Rotation.EXPIRED if min(row.token_expires_at, row.login_expires_at) <= now else Rotation.DONE
        if now - row.used_at > self._lives.grace:
            return Rotation.REUSED
        t = refresh_tokens.c
        query = sa.select(t.used_at).where(t.hash == successor, t.family == row.family)
        next_one = (await connection.execute(query)).one_or_none()
        return Rotation.REPEATED if next_one is not None and next_one.used_at is None else Rotation.REUSED

    async def _use_up(
        self, connection: AsyncConnection, row: Any, presented: bytes, successor: bytes, now: dt.datetime
    ) -> None:
        t = refresh_tokens
        await connection.execute(t.update().where(t.c.hash == presented).values(used_at=now))
        ends_at = min(row.login_expires_at, now + self._lives.refresh)
        fresh = t.insert().values(hash=successor, family=row.family, account_id=row.id, expires_at=ends_at)
        await connection.execute(fresh)
        await connection.execute(logins.update().where(logins.c.id == row.family).values(last_used_at=now))

    async def close(self, presented: bytes, now: dt.datetime) -> None:
        """End the login that a refresh token belongs to; an unknown one changes nothing."""
        family = sa.select(refresh_tokens.c.family).where(refresh_tokens.c.hash == presented).scalar_subquery()

        async def work(connection: AsyncConnection) -> None:
            await revoke_logins(connection, logins.c.id == family, now)

        await self._database.once("close login", work)

    async def list(self, account_id: str, now: dt.datetime) -> list[Login]:
        """Return the logins of an account that are open, the one used last first."""
        live = (logins.c.account_id == account_id) & logins.c.revoked_at.is_(None) & (logins.c.expires_at > now)
        query = sa.select(logins.c.id, logins.c.created_at, logins.c.last_used_at).where(live)
        query = query.order_by(logins.c.last_used_at.desc(), logins.c.id).limit(LOGINS_MAX)

        async def work(connection: AsyncConnection) -> list[Login]:
            return [Login(*row) for row in await connection.execute(query)]

        return await self._database.run("list logins", work)

    async def end(self, account_id: str, login_id: str, now: dt.datetime) -> None:
        """End one login of an account. Raises AppError(NOT_FOUND)."""
        mine = (logins.c.account_id == account_id) & (logins.c.id == login_id)

        async def work(connection: AsyncConnection) -> None:
            if not await revoke_logins(connection, mine, now):
                raise not_found("login")

        await self._database.once("end login", work)

    async def end_all(self, account_id: str, now: dt.datetime) -> None:
        """End every login of an account."""
        mine = logins.c.account_id == account_id
        await self._database.once("end logins", lambda connection: revoke_logins(connection, mine, now))


async def _presented(connection: AsyncConnection, presented: bytes, new_login_ends_at: dt.datetime) -> Any:
    """Return a refresh token's row with its login and its account, or None. It is ours until the transaction ends."""
    t = refresh_tokens.c
    # Two at once with one token: the lock lets the second see what the first has done.
    lock = sa.select(t.family, t.account_id).where(t.hash == presented).with_for_update()
    held = (await connection.execute(lock)).one_or_none()
    if held is None:
        return None
    # The release before this one opens families without a login.
    late = insert(logins).values(id=held.family, account_id=held.account_id, expires_at=new_login_ends_at)
    await connection.execute(late.on_conflict_do_nothing())
    query = (
        sa.select(
            t.family, t.used_at, t.expires_at.label("token_expires_at"), t.revoked_at.label("token_revoked_at"),
            logins.c.expires_at.label("login_expires_at"), logins.c.revoked_at.label("login_revoked_at"),
            logins.c.created_at.label("login_created_at"), *ACCOUNT,
        )
        .join(logins, logins.c.id == t.family)
        .join(accounts, accounts.c.id == t.account_id)
        .where(t.hash == presented)
    )  # fmt: skip
    return (await connection.execute(query)).one_or_none()
