"""The accounts of a volume run: what was put against what came of it, from the rows alone."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

_EVENTS = """
SELECT (SELECT count(*) FROM put) AS put,
    (SELECT count(*) FROM (SELECT DISTINCT aggregate, number FROM arrived) AS a) AS arrived,
    (SELECT count(*) FROM put AS p WHERE NOT EXISTS
        (SELECT FROM arrived AS a WHERE a.aggregate = p.aggregate AND a.number = p.number)) AS lost,
    (SELECT count(*) - count(DISTINCT (aggregate, number)) FROM arrived) AS doubled,
    (SELECT count(*) FROM arrived AS a WHERE NOT EXISTS
        (SELECT FROM put AS p WHERE a.aggregate = p.aggregate AND a.number = p.number)) AS invented
"""
_JOBS = """
SELECT count(*) AS asked,
    count(*) FILTER (WHERE status = 'completed') AS completed,
    count(*) FILTER (WHERE status = 'dead') AS dead,
    count(*) FILTER (WHERE status NOT IN ('completed', 'dead')) AS unfinished,
    count(*) FILTER (WHERE status = 'completed' AND n = 0) AS without_effect,
    count(*) FILTER (WHERE n > 1) AS doubled,
    count(*) FILTER (WHERE status = 'dead' AND n > 0) AS dead_with_effect,
    (SELECT count(*) FROM outbox WHERE subject LIKE 'dlq.%') AS letters
FROM (SELECT j.status, (SELECT count(*) FROM effects AS e WHERE e.key = j.key) AS n FROM jobs AS j) AS j
"""


@dataclass(frozen=True, slots=True)
class Accounts:
    """What became of events and jobs. The first line of each kind is what went in."""

    put: int
    arrived: int
    lost: int
    doubled: int
    invented: int
    asked: int
    completed: int
    dead: int
    unfinished: int
    without_effect: int
    effects_doubled: int
    dead_with_effect: int
    letters: int

    @property
    def settled(self) -> bool:
        """Nothing is under way any more."""
        return not (self.lost or self.unfinished)

    @property
    def exact(self) -> bool:
        """Everything that went in came out, once; N jobs in are N done and N dead, each dead one with its letter."""
        wrong = (self.lost, self.doubled, self.invented, self.unfinished, self.without_effect, self.effects_doubled)
        return (
            not any(wrong)
            and not self.dead_with_effect
            and self.arrived == self.put
            and self.completed + self.dead == self.asked
            and self.letters == self.dead
        )


async def settle(connection: AsyncConnection) -> Accounts:
    """Read the accounts."""
    await connection.execute(sa.text("SET LOCAL statement_timeout = '60s'"))
    events = (await connection.execute(sa.text(_EVENTS))).one()
    jobs = (await connection.execute(sa.text(_JOBS))).one()
    return Accounts(*events, *jobs)


async def under_way(connection: AsyncConnection) -> int:
    """Tell cheaply whether something may still come: rows not published, jobs not over, events not arrived."""
    query = """
    SELECT (SELECT count(*) FROM (SELECT FROM outbox WHERE published_at IS NULL LIMIT 1) AS a)
        + (SELECT count(*) FROM (SELECT FROM jobs WHERE status NOT IN ('completed', 'dead') LIMIT 1) AS b)
        + (SELECT greatest(0, (SELECT count(*) FROM put) - (SELECT count(*) FROM arrived)))
    """
    return int((await connection.execute(sa.text(query))).scalar_one())
