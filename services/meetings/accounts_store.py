"""Accounts: rows, and the transactions that change them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.meetings.v1.events_pb2 import AccountDeleted

from chassis import outbox
from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.meetings.account_tables import accounts, identities, logins
from services.meetings.accounts import Account, AccountChange, Identity, Role
from services.meetings.checks import not_found
from services.meetings.paging import Cursors, Page
from services.meetings.revocations import Revoked, revoke, revoke_logins
from services.meetings.store import SOURCE, bury, outbox_rows

DELETED = "events.account.deleted"

ACCOUNT = (
    accounts.c.id, accounts.c.email, accounts.c.username, accounts.c.role, accounts.c.created_at,
    accounts.c.disabled_at, accounts.c.version,
)  # fmt: skip
# Changes of who is an admin come one after the other: else the last two could dismiss each other.
_ADMINS_LOCK = 0x61646D73  # "adms"


def account_of(row: Any) -> Account:
    """Return the account of a row that has the columns ACCOUNT."""
    return Account(row.id, row.email, row.username, row.role, row.created_at, row.disabled_at is not None, row.version)


class AccountsStore:
    """Keeps accounts. Each method is one transaction."""

    def __init__(self, database: Database, cursors: Cursors) -> None:
        self._database = database
        self._cursors = cursors

    async def add(
        self, account_id: str, email: str, username: str, password_hash: str, role: str = Role.USER
    ) -> Account:
        """Add an account. Raises AppError(CONFLICT) if the address or the user name is taken."""
        fresh = insert(accounts).values(
            id=account_id, email=email, username=username, password_hash=password_hash, role=role
        )

        async def work(connection: AsyncConnection) -> Account:
            row = (await connection.execute(fresh.on_conflict_do_nothing().returning(*ACCOUNT))).one_or_none()
            if row is None:
                raise AppError(Kind.CONFLICT, "The e-mail address or the user name is taken.")
            return account_of(row)

        return await self._database.once("add account", work)

    async def get(self, account_id: str) -> Account:
        """Return an account. Raises AppError(NOT_FOUND)."""
        return (await self.with_password(account_id))[0]

    async def with_password(self, account_id: str) -> tuple[Account, str | None]:
        """Return an account and its password hash, if it has one. Raises AppError(NOT_FOUND)."""
        query = sa.select(*ACCOUNT, accounts.c.password_hash).where(accounts.c.id == account_id)

        async def work(connection: AsyncConnection) -> tuple[Account, str | None]:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise not_found("account")
            return account_of(row), row.password_hash

        return await self._database.run("get account", work)

    async def find(self, email: str) -> tuple[Account, str] | None:
        """Return the account that is entered under a normal e-mail address, with its password hash, or None."""
        query = sa.select(*ACCOUNT, accounts.c.password_hash)
        query = query.where(accounts.c.email == email, accounts.c.password_hash.is_not(None))

        async def work(connection: AsyncConnection) -> tuple[Account, str] | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else (account_of(row), row.password_hash)

        return await self._database.run("find account", work)

    async def list(self, email: str, size: int, cursor: str) -> Page[Account]:
        """Return accounts, newest first; of one address unless empty. Raises AppError(VALIDATION_FAILED)."""
        scope = ("accounts", email)
        after = self._cursors.open(scope, cursor)
        query = sa.select(*ACCOUNT)
        if email:
            query = query.where(accounts.c.email == email)
        if after:
            last = sa.tuple_(sa.literal(dt.datetime.fromisoformat(after[0])), sa.literal(after[1], accounts.c.id.type))
            query = query.where(sa.tuple_(accounts.c.created_at, accounts.c.id) < last)
        query = query.order_by(accounts.c.created_at.desc(), accounts.c.id.desc()).limit(size + 1)

        async def work(connection: AsyncConnection) -> list[Account]:
            return [account_of(row) for row in await connection.execute(query)]

        found = await self._database.run("list accounts", work)
        items = found[:size]
        more = len(found) > size
        return Page(items, self._cursors.seal(scope, [items[-1].created_at.isoformat(), items[-1].id]) if more else "")

    async def update(
        self, account_id: str, expected_version: int | None, change: AccountChange, now: dt.datetime
    ) -> Account:
        """Change an account; what was given out for it is renewed, or closed if it is disabled.

        Without an expected version it is changed as it is. Raises AppError: NOT_FOUND; PRECONDITION_FAILED with the
        current version; CONFLICT if no admin would be left.
        """
        values: dict[str, Any] = {"version": accounts.c.version + 1}
        if change.role is not None:
            values["role"] = change.role
        if change.disabled is not None:
            values["disabled_at"] = now if change.disabled else None

        async def work(connection: AsyncConnection) -> Account:
            before = await _locked(connection, account_id, expected_version)
            changed = accounts.update().where(accounts.c.id == account_id).values(values).returning(*ACCOUNT)
            after = account_of((await connection.execute(changed)).one())
            await _require_an_admin(connection, before, after)
            await revoke(connection, Revoked.ACCOUNT, [account_id], now)
            if after.disabled:
                await revoke_logins(connection, logins.c.account_id == account_id, now)
            return after

        return await self._database.once("update account", work)

    async def set_password(
        self, account_id: str, password_hash: str, now: dt.datetime, *, keep_login: str | None = None
    ) -> None:
        """Give an account another password; every login but one ends. Raises AppError(NOT_FOUND)."""
        change = accounts.update().where(accounts.c.id == account_id)
        others = logins.c.account_id == account_id
        if keep_login:
            others &= logins.c.id != keep_login

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(change.values(password_hash=password_hash))).rowcount == 0:
                raise not_found("account")
            await revoke_logins(connection, others, now)

        await self._database.once("set password", work)

    async def rehash(self, account_id: str, kept: str, better: str) -> None:
        """Keep another hash of the same password, unless the password was changed meanwhile."""
        same = accounts.update().where(accounts.c.id == account_id, accounts.c.password_hash == kept)
        await self._database.run("rehash", lambda connection: connection.execute(same.values(password_hash=better)))

    async def delete(self, account_id: str, now: dt.datetime, expected_version: int | None = None) -> Account:
        """Delete an account with its logins, keys and webhooks, and tell of it: what else belongs to it goes by that.

        Raises AppError: NOT_FOUND; PRECONDITION_FAILED with the current version; CONFLICT if no admin would be left.
        """

        async def work(connection: AsyncConnection) -> Account:
            account = await _locked(connection, account_id, expected_version)
            await connection.execute(accounts.delete().where(accounts.c.id == account_id))
            await _require_an_admin(connection, account, None)
            await bury(connection, "account", [account_id])
            await revoke(connection, Revoked.ACCOUNT, [account_id], now)
            event = outbox.event(DELETED, AccountDeleted(account_id=account_id).SerializeToString(), account_id)
            await outbox.put(connection, outbox_rows, [event], source=SOURCE)
            return account

        return await self._database.once("delete account", work)

    async def resolve(self, who: Identity, new_id: str) -> Account:
        """Return the account of somebody whom another issuer knows, made at the first sight of them."""

        async def work(connection: AsyncConnection) -> Account:
            # Of two requests at first sight, the second waits and finds.
            name = sa.func.hashtextextended(f"{who.issuer} {who.subject}", 0)
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(name)))
            known = sa.select(*ACCOUNT).join(identities, identities.c.account_id == accounts.c.id)
            known = known.where(identities.c.issuer == who.issuer, identities.c.subject == who.subject)
            row = (await connection.execute(known)).one_or_none()
            return account_of(row) if row is not None else await _admit(connection, who, new_id)

        return await self._database.once("resolve identity", work)


async def _admit(connection: AsyncConnection, who: Identity, new_id: str) -> Account:
    digits = new_id.replace("-", "")
    for username in (who.username, f"{who.username[:23]}-{digits[-8:]}"):
        fresh = insert(accounts).values(id=new_id, email=who.email, username=username, password_hash=None)
        row = (await connection.execute(fresh.on_conflict_do_nothing().returning(*ACCOUNT))).one_or_none()
        if row is not None:
            link = identities.insert().values(issuer=who.issuer, subject=who.subject, account_id=new_id)
            await connection.execute(link)
            return account_of(row)
    raise AppError(Kind.CONFLICT, "The user name is taken.")


async def _locked(connection: AsyncConnection, account_id: str, expected_version: int | None) -> Account:
    """Return an account that nobody else changes until the transaction ends.

    Raises AppError: NOT_FOUND, PRECONDITION_FAILED if a version is expected and it has another.
    """
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADMINS_LOCK)))
    query = sa.select(*ACCOUNT).where(accounts.c.id == account_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise not_found("account")
    if expected_version is not None and expected_version != row.version:
        raise AppError(Kind.PRECONDITION_FAILED, "Somebody else has changed it meanwhile.", version=row.version)
    return account_of(row)


async def _require_an_admin(connection: AsyncConnection, before: Account, after: Account | None) -> None:
    """Raise AppError(CONFLICT) if a change leaves the platform without anybody who looks after it."""
    if not before.is_active_admin or (after is not None and after.is_active_admin):
        return
    left = sa.select(sa.exists().where(accounts.c.role == Role.ADMIN, accounts.c.disabled_at.is_(None)))
    if not (await connection.execute(left)).scalar_one():
        raise AppError(Kind.CONFLICT, "This is the last admin: make another one first.")
