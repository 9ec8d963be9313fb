"""A small volume run with every fault, and the same without what keeps things from happening twice."""

from __future__ import annotations

import pytest

from chassis.tests.servers import NatsServer, PostgresServer
from tests.volume.run import EVENTS_EACH, JOBS_EACH, run


@pytest.mark.req("R-DB-4")
@pytest.mark.req("R-JOB-1")
@pytest.mark.req("R-JOB-2")
async def test_everything_arrives_once_while_servers_and_processes_are_killed_and_frozen(
    own_postgres: PostgresServer, nats_server: NatsServer
) -> None:
    roles = ("relay", "consumer", "consumer", "worker", "worker")
    outcome = await run(own_postgres, nats_server, transactions=60, roles=roles, pause_s=(0.3, 1.0), least_faults=6)
    assert set(outcome.faults) >= {"process killed", "Postgres killed", "NATS killed"}
    assert (outcome.accounts.put, outcome.accounts.asked) == (60 * EVENTS_EACH, 60 * JOBS_EACH)
    assert outcome.accounts.dead > 0
    assert outcome.exact, outcome


async def test_control_without_inbox_and_fence_the_same_faults_double_effects(
    own_postgres: PostgresServer, nats_server: NatsServer
) -> None:
    roles, faults = ("relay", "forgetful", "unfenced", "unfenced"), ("process killed", "process frozen")
    outcome = await run(
        own_postgres, nats_server, transactions=60, roles=roles, faults=faults, pause_s=(1.0, 2.0), least_faults=8
    )
    assert outcome.accounts.lost == 0
    assert outcome.accounts.doubled > 0
    assert outcome.accounts.effects_doubled > 0
