"""What each account has spent on language models, by period.

What an account spent that is no more is booked on nobody, so that the sums of a period stay what they were. A job that
was under way when it went may spend a little later: therefore it is known for some days who is gone.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import pruning
from services.insights.spending import Spend
from services.insights.store import METADATA

NOBODY = ""

USAGE = sa.Table(
    "model_usage",
    METADATA,
    sa.Column("owner_id", sa.Text, primary_key=True),
    sa.Column("period", sa.Text, primary_key=True),
    sa.Column("calls", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("input_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)

DEPARTED = sa.Table(
    "departed",
    METADATA,
    sa.Column("owner_id", sa.Text, primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)
# No attempt at minutes takes as long as departures are kept.
PRUNED = [
    pruning.Rule(DEPARTED, pruning.older(DEPARTED.c.at, 7)),
    pruning.Rule(USAGE, pruning.older(USAGE.c.updated_at, 400)),
]

_SUMS = ("calls", "input_tokens", "output_tokens")


async def add(connection: AsyncConnection, owner_id: str, period: str, spend: Spend) -> None:
    """Add what was spent to the account's row of the period; to nobody's, if the account is no more."""
    await _alone(connection, owner_id)
    gone = sa.select(sa.exists().where(DEPARTED.c.owner_id == owner_id))
    payer = NOBODY if (await connection.execute(gone)).scalar_one() else owner_id
    await _book(connection, payer, period, {name: getattr(spend, name) for name in _SUMS})


async def depart(connection: AsyncConnection, owner_id: str) -> None:
    """Book what an account has spent, and what it still may, on nobody. Safe to repeat."""
    await _alone(connection, owner_id)
    await connection.execute(insert(DEPARTED).values(owner_id=owner_id).on_conflict_do_nothing())
    u = USAGE.c
    taken = USAGE.delete().where(u.owner_id == owner_id).returning(u.period, *(u[name] for name in _SUMS))
    for period, *sums in await connection.execute(taken):
        await _book(connection, NOBODY, period, dict(zip(_SUMS, sums, strict=True)))


async def _alone(connection: AsyncConnection, owner_id: str) -> None:
    """Keep others away from what an account has spent until the transaction ends: who departs has no row to lock."""
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(owner_id, 0))))


async def _book(connection: AsyncConnection, owner_id: str, period: str, sums: dict[str, Any]) -> None:
    u = USAGE.c
    change = {name: u[name] + value for name, value in sums.items()} | {"updated_at": sa.func.now()}
    row = insert(USAGE).values(owner_id=owner_id, period=period, **sums)
    await connection.execute(row.on_conflict_do_update(index_elements=[u.owner_id, u.period], set_=change))


async def spent(connection: AsyncConnection, owner_id: str, period: str) -> int:
    """Return how many tokens the account has spent in the period."""
    u = USAGE.c
    query = sa.select(u.input_tokens + u.output_tokens).where(u.owner_id == owner_id, u.period == period)
    return int((await connection.execute(query)).scalar() or 0)
