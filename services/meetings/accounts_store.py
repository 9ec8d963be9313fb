"""Accounts and refresh tokens: rows, and the transactions that change them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.meetings.accounts import Account
from services.meetings.checks import not_found
from services.meetings.store import accounts, refresh_tokens

_ACCOUNT = (accounts.c.id, accounts.c.email, accounts.c.username, accounts.c.role, accounts.c.created_at)


class Rotation(StrEnum):
    """What became of a refresh token that was presented."""

    DONE = "done"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REVOKED = "revoked"
    REUSED = "reused"  # it was used before: somebody has a copy


@dataclass(frozen=True, slots=True)
class Rotated:
    """The outcome of a rotation; the account only if it was done."""

    rotation: Rotation
    account: Account | None = None


class AccountsStore:
    """Keeps accounts and their refresh tokens. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, account_id: str, email: str, username: str, password_hash: str) -> Account:
        """Add an account. Raises AppError(CONFLICT) if the address or the user name is taken."""

        async def work(connection: AsyncConnection) -> Account:
            row = (
                await connection.execute(
                    insert(accounts)
                    .values(id=account_id, email=email, username=username, password_hash=password_hash)
                    .on_conflict_do_nothing()
                    .returning(*_ACCOUNT)
                )
            ).one_or_none()
            if row is None:
                raise AppError(Kind.CONFLICT, "The e-mail address or the user name is taken.")
            return Account(**row._mapping)

        return await self._database.once("add account", work)

    async def get(self, account_id: str) -> Account:
        """Return an account. Raises AppError(NOT_FOUND)."""

        async def work(connection: AsyncConnection) -> Account:
            row = (await connection.execute(sa.select(*_ACCOUNT).where(accounts.c.id == account_id))).one_or_none()
            if row is None:
                raise not_found("account")
            return Account(**row._mapping)

        return await self._database.run("get account", work)

    async def find(self, email: str) -> tuple[Account, str] | None:
        """Return the account of a normal e-mail address with its password hash, or None."""

        async def work(connection: AsyncConnection) -> tuple[Account, str] | None:
            query = sa.select(*_ACCOUNT, accounts.c.password_hash).where(accounts.c.email == email)
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else (Account(*row[:-1]), row[-1])

        return await self._database.run("find account", work)

    async def open_family(self, account_id: str, family: str, token_hash: bytes, expires_at: dt.datetime) -> None:
        """Keep the first refresh token of a login, and forget the account's tokens that have expired."""

        async def work(connection: AsyncConnection) -> None:
            t = refresh_tokens
            await connection.execute(t.delete().where(t.c.account_id == account_id, t.c.expires_at < sa.func.now()))
            await connection.execute(
                t.insert().values(hash=token_hash, family=family, account_id=account_id, expires_at=expires_at)
            )

        await self._database.once("open token family", work)

    async def rotate(self, presented: bytes, successor: bytes, now: dt.datetime, expires_at: dt.datetime) -> Rotated:
        """Use up a refresh token and keep its successor. One that was used before revokes its whole family."""

        async def work(connection: AsyncConnection) -> Rotated:
            t = refresh_tokens
            # Two at once with one token: the lock lets the second see that it is used.
            row = (
                await connection.execute(
                    sa.select(t.c.family, t.c.account_id, t.c.expires_at, t.c.used_at, t.c.revoked_at)
                    .where(t.c.hash == presented)
                    .with_for_update()
                )
            ).one_or_none()
            if row is None:
                return Rotated(Rotation.UNKNOWN)
            if row.revoked_at is not None:
                return Rotated(Rotation.REVOKED)
            if row.used_at is not None:
                await _revoke(connection, row.family, now)
                return Rotated(Rotation.REUSED)
            if row.expires_at <= now:
                return Rotated(Rotation.EXPIRED)
            await connection.execute(t.update().where(t.c.hash == presented).values(used_at=now))
            await connection.execute(
                t.insert().values(hash=successor, family=row.family, account_id=row.account_id, expires_at=expires_at)
            )
            account = (await connection.execute(sa.select(*_ACCOUNT).where(accounts.c.id == row.account_id))).one()
            return Rotated(Rotation.DONE, Account(**account._mapping))

        return await self._database.once("rotate token", work)

    async def close_family(self, presented: bytes, now: dt.datetime) -> None:
        """Revoke every token of the login that this one belongs to; an unknown one changes nothing."""

        async def work(connection: AsyncConnection) -> None:
            t = refresh_tokens
            family = (await connection.execute(sa.select(t.c.family).where(t.c.hash == presented))).scalar()
            if family is not None:
                await _revoke(connection, family, now)

        await self._database.once("close token family", work)


async def _revoke(connection: AsyncConnection, family: str, now: dt.datetime) -> None:
    t = refresh_tokens
    await connection.execute(t.update().where(t.c.family == family, t.c.revoked_at.is_(None)).values(revoked_at=now))
