"""What is good for nothing any more though it has not expired: kept for who asks, and told to who listens."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.meetings.v1 import logins_pb2 as pb

from chassis import outbox
from chassis.postgres import Database
from services.meetings.account_tables import logins, refresh_tokens, revocations
from services.meetings.store import SOURCE, outbox_rows

# Gateways listen here on the core subject: what they miss, they read.
SUBJECT = "events.account.revoked"
# A transaction may be seen later than one that began after it, and clocks differ.
_OVERLAP = dt.timedelta(seconds=60)


class Revoked(StrEnum):
    """What is revoked. The value is kept."""

    LOGIN = "login"
    API_KEY = "api_key"
    ACCOUNT = "account"
    """Everything that was given out for the account up to then."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Something is revoked since a moment."""

    kind: Revoked
    subject: str
    at: dt.datetime

    def message(self) -> pb.Revocation:
        """Return it as it is told."""
        at = Timestamp()
        at.FromDatetime(self.at)
        return pb.Revocation(kind=pb.RevocationKind.Value(f"REVOCATION_KIND_{self.kind.name}"), id=self.subject, at=at)


async def revoke(connection: AsyncConnection, kind: Revoked, subjects: Iterable[str], at: dt.datetime) -> None:
    """Note in the caller's transaction that things are revoked, and have it told after the commit."""
    found = [Revocation(kind, subject, at) for subject in subjects]
    if not found:
        return
    rows = [{"kind": one.kind.value, "subject": one.subject, "at": at} for one in found]
    upsert = insert(revocations)
    upsert = upsert.on_conflict_do_update(index_elements=["kind", "subject"], set_={"at": upsert.excluded.at})
    await connection.execute(upsert, rows)
    events = [outbox.event(SUBJECT, one.message().SerializeToString(), one.subject) for one in found]
    await outbox.put(connection, outbox_rows, events, source=SOURCE)


async def revoke_logins(connection: AsyncConnection, which: sa.ColumnElement[bool], at: dt.datetime) -> list[str]:
    """Revoke logins that are not yet, with their refresh tokens, in the caller's transaction. Returns their ids."""
    query = logins.update().where(which, logins.c.revoked_at.is_(None)).values(revoked_at=at).returning(logins.c.id)
    found = list((await connection.execute(query)).scalars())
    if found:
        t = refresh_tokens
        await connection.execute(
            t.update().where(t.c.family.in_(found), t.c.revoked_at.is_(None)).values(revoked_at=at)
        )
        await revoke(connection, Revoked.LOGIN, found, at)
    return found


async def revoked_since(database: Database, since: dt.datetime) -> list[Revocation]:
    """Return what was revoked since a moment, and some of before: nothing is missed, some comes twice."""
    r = revocations.c
    query = sa.select(r.kind, r.subject, r.at).where(r.at > since - _OVERLAP).order_by(r.at)

    async def work(connection: AsyncConnection) -> list[Revocation]:
        return [Revocation(Revoked(row.kind), row.subject, row.at) for row in await connection.execute(query)]

    return await database.run("list revocations", work)
