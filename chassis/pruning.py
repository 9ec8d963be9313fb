"""Rows that nobody needs any more go, a few at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import telemetry
from chassis.errors import AppError
from chassis.jobs import Status
from chassis.postgres import Database

log = telemetry.logger(__name__)

PRUNED = Counter("db_rows_pruned_total", "Rows removed because nobody needs them any more.", ["table"])

_EVERY_S = 600.0
_BATCH = 1000
_BATCHES_MAX = 50


@dataclass(frozen=True, slots=True)
class Rule:
    """Which rows of a table may go."""

    table: sa.Table
    needless: sa.ColumnElement[bool]


def older(column: sa.ColumnElement[object], days: int) -> sa.ColumnElement[bool]:
    """Say that a time is longer ago than so many days."""
    return column < sa.func.now() - sa.text(f"interval '{days} days'")


def inbox_rules(table: sa.Table) -> list[Rule]:
    """Keep what is handled for longer than an event can come again, ids of commits for a day."""
    t = table.c
    return [
        Rule(table, (t.consumer == "commits") & older(t.handled_at, 1)),
        # A row of an outbox is kept for thirty days at most.
        Rule(table, older(t.handled_at, 31)),
    ]


def jobs_rules(table: sa.Table) -> list[Rule]:
    """Keep what is over for a month, dead jobs for three."""
    t = table.c
    return [
        Rule(table, t.status.in_([Status.COMPLETED, Status.FAILED]) & older(t.updated_at, 30)),
        Rule(table, (t.status == Status.DEAD) & older(t.updated_at, 90)),
    ]


class Pruner:
    """Applies rules now and then, in small transactions. Several replicas may."""

    def __init__(self, database: Database, rules: Sequence[Rule]) -> None:
        self._database = database
        self._rules = rules
        for rule in rules:
            PRUNED.labels(rule.table.name)

    async def run(self) -> None:
        """Prune for the life of the process. A database that is away is tried again the next time."""
        while True:
            # Replicas that started together do not stay together.
            await asyncio.sleep(_EVERY_S * random.uniform(0.5, 1.5))
            try:
                await self.prune()
            except AppError as fault:
                if not fault.codes.retryable:
                    raise
                log.warning("not pruned", fault=str(fault))

    async def prune(self) -> dict[str, int]:
        """Remove what may go, fifty thousand rows by each rule at most; return how many of which table."""
        gone: dict[str, int] = {}
        for rule in self._rules:
            count = await self._apply(rule)
            gone[rule.table.name] = gone.get(rule.table.name, 0) + count
            PRUNED.labels(rule.table.name).inc(count)
        return gone

    async def _apply(self, rule: Rule) -> int:
        keys = list(rule.table.primary_key.columns)
        some = sa.select(*keys).where(rule.needless).limit(_BATCH).with_for_update(skip_locked=True)
        delete = rule.table.delete().where(sa.tuple_(*keys).in_(some)).returning(keys[0])

        async def work(connection: AsyncConnection) -> int:
            return len((await connection.execute(delete)).all())

        total = 0
        for _ in range(_BATCHES_MAX):
            count = await self._database.run("prune", work)
            total += count
            if count < _BATCH:
                break
        return total
