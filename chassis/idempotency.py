"""Idempotency keys: a call that creates, and is made again with the same key, creates once and gets the first answer.

The key is committed in the transaction of its effect, in the database of whoever owns the effect: there is no moment at
which one is there without the other, whoever crashes (docs/adr/0022-idempotency-keys.md).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa
from prometheus_client import Counter
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.errors import AppError, Kind, Problem
from chassis.postgres import Database, Work

CALLS = Counter("idempotent_calls_total", "Calls with an Idempotency-Key.", ["result"])
for _result in ("new", "replayed", "mismatch", "running"):
    CALLS.labels(_result)

_KEPT = dt.timedelta(hours=24)
_PRUNED_AT_ONCE = 10

T = TypeVar("T")


def keys_table(metadata: sa.MetaData) -> sa.Table:
    """Define the table of keys and the answers that belong to them."""
    return sa.Table(
        "idempotency_keys",
        metadata,
        sa.Column("owner_id", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Index("idempotency_keys_expired", "expires_at"),
    )


class Answer(Protocol):
    """What is kept: a message that turns into bytes and back."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's names

    def ParseFromString(self, serialized: bytes, /) -> int: ...  # noqa: N802


A = TypeVar("A", bound=Answer)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a caller says: his key, and a hash of all that he asks for."""

    owner_id: str
    key: str
    fingerprint: bytes

    @classmethod
    def of(cls, request: Any) -> Claim | None:
        """Return the claim of a request message that has `owner_id` and, if the caller makes one, `claim`."""
        if not request.HasField("claim"):
            return None
        return cls(request.owner_id, request.claim.key, request.claim.fingerprint)


@dataclass(frozen=True, slots=True)
class Kept(Generic[A]):
    """An answer, and whether it is that of a call before."""

    answer: A
    replayed: bool


class IdempotencyKeys:
    """The keys of one service."""

    def __init__(self, database: Database, table: sa.Table) -> None:
        self._database = database
        self._table = table

    async def once(
        self, name: str, claim: Claim | None, work: Work[T], render: Callable[[T], A], kind: type[A]
    ) -> Kept[A]:
        """Run `work` in a transaction that happens once, and keep what `render` makes of its result with the key.

        Without a claim as `Database.once`. Raises AppError: CONFLICT while a call with the key is under way, or if what
        it made has been deleted;
        VALIDATION_FAILED if the key was used for another call, and what `work` raises (nothing is kept then).
        """

        async def keyed(connection: AsyncConnection) -> Kept[A]:
            if claim is None:
                return Kept(render(await work(connection)), replayed=False)
            await _lock(connection, claim)
            answer = kind()
            kept = await self._recall(connection, claim)
            if kept is not None:
                answer.ParseFromString(kept)
                return Kept(answer, replayed=True)
            answer = render(await work(connection))
            await self._keep(connection, claim, answer.SerializeToString())
            return Kept(answer, replayed=False)

        found = await self._database.once(name, keyed)
        if claim is not None:
            CALLS.labels("replayed" if found.replayed else "new").inc()
        return found

    async def _recall(self, connection: AsyncConnection, claim: Claim) -> bytes | None:
        t = self._table.c
        query = sa.select(t.fingerprint, t.answer).where(
            t.owner_id == claim.owner_id, t.key == claim.key, t.expires_at > sa.func.now()
        )
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        if not row.answer:
            raise AppError(Kind.CONFLICT, "What was made with this key has been deleted.")
        if bytes(row.fingerprint) != claim.fingerprint:
            CALLS.labels("mismatch").inc()
            problem = Problem("Idempotency-Key", "was used for another request")
            raise AppError(Kind.VALIDATION_FAILED, "The key was used for another request.", details=(problem,))
        return bytes(row.answer)

    async def _keep(self, connection: AsyncConnection, claim: Claim, answer: bytes) -> None:
        values = {
            "fingerprint": claim.fingerprint,
            "answer": answer,
            "expires_at": sa.func.now() + _KEPT,
        }
        upsert = insert(self._table).values(owner_id=claim.owner_id, key=claim.key, **values)
        # One that is there has expired.
        await connection.execute(upsert.on_conflict_do_update(index_elements=["owner_id", "key"], set_=values))
        # Those that expire make room for those that come: no more are kept than a day brings.
        t = self._table.c
        old = sa.select(t.owner_id, t.key).where(t.expires_at <= sa.func.now()).limit(_PRUNED_AT_ONCE)
        old = old.with_for_update(skip_locked=True)
        await connection.execute(self._table.delete().where(sa.tuple_(t.owner_id, t.key).in_(old)))


async def forget_answers(connection: AsyncConnection, table: sa.Table, owner_id: str, about: str) -> None:
    """Forget an owner's answers in which an id stands, because what it names is deleted.

    The keys stay, so that no call that comes again makes it a second time: such a call is a CONFLICT.
    """
    t = table.c
    tells = sa.func.position(sa.func.convert_to(about, "UTF8").op("IN")(t.answer)) > 0
    await connection.execute(table.update().where(t.owner_id == owner_id, tells).values(answer=b""))


async def _lock(connection: AsyncConnection, claim: Claim) -> None:
    """Have the key to oneself until the transaction ends. Raises AppError(CONFLICT) if another call has it."""
    number = int.from_bytes(hashlib.sha256(f"{claim.owner_id}/{claim.key}".encode()).digest()[:8], signed=True)
    if not (await connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(number)))).scalar_one():
        CALLS.labels("running").inc()
        raise AppError(Kind.CONFLICT, "A request with this key is under way.", retry_after_s=1.0)
