"""API keys: rows, and the transactions that change them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.errors import AppError, Kind
from chassis.postgres import Database, Work
from services.meetings.account_tables import accounts, api_keys
from services.meetings.accounts import Account
from services.meetings.accounts_store import ACCOUNT, account_of
from services.meetings.api_keys import KEYS_MAX, ApiKey, NewApiKey
from services.meetings.checks import not_found
from services.meetings.paging import Cursors, Page
from services.meetings.revocations import Revoked, revoke

_KEY = (
    api_keys.c.id, api_keys.c.account_id, api_keys.c.name, api_keys.c.prefix, api_keys.c.scopes,
    api_keys.c.created_at, api_keys.c.expires_at, api_keys.c.last_used_at,
)  # fmt: skip
# Nobody needs to know it to the second, and a busy key need not write with every call.
_USED_EVERY = dt.timedelta(minutes=1)


class ApiKeysStore:
    """Keeps API keys. Each method is one transaction."""

    def __init__(self, database: Database, cursors: Cursors) -> None:
        self._database = database
        self._cursors = cursors

    async def add(self, account_id: str, new: NewApiKey) -> ApiKey:
        """Keep a new key. Raises AppError: CONFLICT if the account has too many, NOT_FOUND if it is no more."""
        return await self._database.once("add api key", self.addition(account_id, new))

    def addition(self, account_id: str, new: NewApiKey) -> Work[ApiKey]:
        """Return the work of `add`, for a transaction that has more to do."""

        async def work(connection: AsyncConnection) -> ApiKey:
            owner = sa.select(accounts.c.id).where(accounts.c.id == account_id).with_for_update()
            if (await connection.execute(owner)).one_or_none() is None:
                raise not_found("account")
            count = sa.select(sa.func.count()).where(api_keys.c.account_id == account_id)
            if (await connection.execute(count)).scalar_one() >= KEYS_MAX:
                raise AppError(Kind.CONFLICT, f"An account has at most {KEYS_MAX} API keys: delete one first.")
            made = api_keys.insert().values(
                id=new.id, account_id=account_id, name=new.name, prefix=new.prefix, hash=new.hash,
                scopes=list(new.scopes), expires_at=new.expires_at,
            )  # fmt: skip
            return _api_key((await connection.execute(made.returning(*_KEY))).one())

        return work

    async def list(self, account_id: str, size: int, cursor: str) -> Page[ApiKey]:
        """Return the keys of an account, newest first. Raises AppError(VALIDATION_FAILED) for another list's cursor."""
        scope = ("api keys", account_id)
        after = self._cursors.open(scope, cursor)
        query = sa.select(*_KEY).where(api_keys.c.account_id == account_id)
        if after:
            last = sa.tuple_(sa.literal(dt.datetime.fromisoformat(after[0])), sa.literal(after[1], api_keys.c.id.type))
            query = query.where(sa.tuple_(api_keys.c.created_at, api_keys.c.id) < last)
        query = query.order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc()).limit(size + 1)

        async def work(connection: AsyncConnection) -> list[ApiKey]:
            return [_api_key(row) for row in await connection.execute(query)]

        found = await self._database.run("list api keys", work)
        items = found[:size]
        more = len(found) > size
        return Page(items, self._cursors.seal(scope, [items[-1].created_at.isoformat(), items[-1].id]) if more else "")

    async def delete(self, account_id: str, key_id: str, now: dt.datetime) -> None:
        """Delete a key: it opens nothing any more, and what it has open is closed. Raises AppError(NOT_FOUND)."""
        mine = api_keys.delete().where(api_keys.c.id == key_id, api_keys.c.account_id == account_id)

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(mine.returning(api_keys.c.id))).one_or_none() is None:
                raise not_found("API key")
            await revoke(connection, Revoked.API_KEY, [key_id], now)

        await self._database.once("delete api key", work)

    async def find(self, key_hash: bytes, now: dt.datetime) -> tuple[ApiKey, Account] | None:
        """Return the key with this hash and its account, and note that it was used; None if there is none."""
        query = sa.select(*(column.label(f"key_{column.name}") for column in _KEY), *ACCOUNT)
        query = query.join(accounts, accounts.c.id == api_keys.c.account_id).where(api_keys.c.hash == key_hash)
        used = api_keys.update().where(
            api_keys.c.hash == key_hash,
            api_keys.c.last_used_at.is_(None) | (api_keys.c.last_used_at < now - _USED_EVERY),
        )

        async def work(connection: AsyncConnection) -> tuple[ApiKey, Account] | None:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            await connection.execute(used.values(last_used_at=now))
            key = {name.removeprefix("key_"): value for name, value in row._mapping.items() if name.startswith("key_")}
            return ApiKey(**key | {"scopes": tuple(key["scopes"])}), account_of(row)

        return await self._database.run("find api key", work)


def _api_key(row: Any) -> ApiKey:
    return ApiKey(**{**row._mapping, "scopes": tuple(row.scopes)})
