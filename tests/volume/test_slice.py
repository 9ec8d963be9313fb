"""A small volume run with every fault. Its control takes minutes to be sure of: it is part of `make volume`."""

from __future__ import annotations

import pytest

from chassis.tests.servers import NatsServer, PostgresServer
from tests.volume.run import EVENTS_EACH, JOBS_EACH, run

FAULTS = ("process killed", "process frozen", "Postgres killed", "Postgres frozen", "NATS killed", "NATS frozen")


@pytest.mark.req("R-DB-4")
@pytest.mark.req("R-JOB-1")
@pytest.mark.req("R-JOB-2")
async def test_everything_arrives_once_while_servers_and_processes_are_killed_and_frozen(
    own_postgres: PostgresServer, nats_server: NatsServer
) -> None:
    roles = ("relay", "consumer", "consumer", "worker", "worker")
    # That a worker is frozen past its lease takes ten seconds: that is part of `make volume`.
    outcome = await run(
        own_postgres, nats_server, transactions=60, roles=roles, faults=FAULTS, pause_s=(0.3, 1.0), least_faults=6
    )
    assert set(outcome.faults) >= {"process killed", "Postgres killed", "NATS killed"}
    assert (outcome.accounts.put, outcome.accounts.asked) == (60 * EVENTS_EACH, 60 * JOBS_EACH)
    assert outcome.accounts.dead > 0
    assert outcome.exact, outcome
