"""What each account has spent on language models, by period."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import pruning
from services.insights.spending import Spend
from services.insights.store import METADATA

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

_KEPT_DAYS = 400
PRUNED = [pruning.Rule(USAGE, pruning.older(USAGE.c.updated_at, _KEPT_DAYS))]


async def add(connection: AsyncConnection, owner_id: str, period: str, spend: Spend) -> None:
    """Add what was spent to the account's row of the period."""
    u = USAGE.c
    values: dict[str, Any] = {
        "calls": spend.calls, "input_tokens": spend.input_tokens, "output_tokens": spend.output_tokens
    }  # fmt: skip
    change = {name: USAGE.c[name] + value for name, value in values.items()} | {"updated_at": sa.func.now()}
    row = insert(USAGE).values(owner_id=owner_id, period=period, **values)
    await connection.execute(row.on_conflict_do_update(index_elements=[u.owner_id, u.period], set_=change))


async def spent(connection: AsyncConnection, owner_id: str, period: str) -> int:
    """Return how many tokens the account has spent in the period."""
    u = USAGE.c
    query = sa.select(u.input_tokens + u.output_tokens).where(u.owner_id == owner_id, u.period == period)
    return int((await connection.execute(query)).scalar() or 0)


async def forget(connection: AsyncConnection, owner_ids: Sequence[str]) -> None:
    """Forget what accounts have spent."""
    await connection.execute(USAGE.delete().where(USAGE.c.owner_id.in_(owner_ids)))
