from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from chassis import ids, postgres, pruning
from chassis.pruning import Pruner
from chassis.tests import bench, ferry

pytestmark = pytest.mark.req("R-DB-4")


async def test_rows_go_when_nobody_needs_them_and_not_before(database_url: str) -> None:
    inbox, jobs = ferry.INBOX, bench.JOBS_TABLE

    def ago(days: float) -> Any:
        return sa.func.now() - sa.text(f"interval '{days} days'")

    handled = [("commits", 0.9), ("commits", 1.1), ("insights", 30), ("insights", 32)]
    over = [("completed", 29), ("completed", 31), ("failed", 31), ("dead", 31), ("dead", 91), ("pending", 400)]
    async with postgres.database(database_url) as database:
        async with database.engine.begin() as connection:
            await connection.run_sync(ferry.METADATA.create_all)
            await connection.run_sync(bench.METADATA.create_all)
            for number in range(2500):  # more than one transaction removes
                row = {"consumer": "commits", "message_id": f"old {number}", "handled_at": ago(3)}
                await connection.execute(inbox.insert().values(row))
            for consumer, days in handled:
                row = {"consumer": consumer, "message_id": str(days), "handled_at": ago(days)}
                await connection.execute(inbox.insert().values(row))
            for status, days in over:
                row = {"id": ids.new_id(), "kind": "k", "key": str(days), "owner_id": "o", "payload": b"",
                       "attempts_max": 1, "status": status, "updated_at": ago(days)}  # fmt: skip
                await connection.execute(jobs.insert().values(row))
        pruner = Pruner(database, [*pruning.inbox_rules(inbox), *pruning.jobs_rules(jobs)])
        assert await pruner.prune() == {"inbox": 2502, "jobs": 3}
        assert await pruner.prune() == {"inbox": 0, "jobs": 0}
        async with database.engine.connect() as connection:
            kept = [tuple(row) for row in await connection.execute(sa.select(inbox.c.consumer, inbox.c.message_id))]
            left = [tuple(row) for row in await connection.execute(sa.select(jobs.c.status, jobs.c.key))]
    assert sorted(kept) == [("commits", "0.9"), ("insights", "30")]
    assert sorted(left) == [("completed", "29"), ("dead", "31"), ("pending", "400")]
