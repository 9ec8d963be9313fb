"""What happens when there is more to do than can be done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
from prometheus_client import REGISTRY

from chassis.errors import AppError, Kind
from services.gateway.load import Load, Priority, Work, work_of
from services.gateway.tests.conftest import problem, running

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.req("R-RES-4")]


def shed(priority: str) -> float:
    return REGISTRY.get_sample_value("load_shed_total", {"priority": priority}) or 0.0


@pytest.mark.parametrize(
    ("call", "cost", "priority"),
    [
        ("GET /healthz", 0, Priority.VITAL),
        ("GET /api/meetings", 1, Priority.NORMAL),
        ("POST /api/meetings", 2, Priority.NORMAL),
        ("POST /api/auth/refresh", 2, Priority.RUNNING),
        ("GET /api/meetings/1/export", 8, Priority.HEAVY),
        ("POST /v1/audio/transcriptions", 8, Priority.HEAVY),
        ("GET /nothing", 1, Priority.NORMAL),
    ],
)
async def test_work_is_weighed_by_what_it_costs(call: str, cost: int, priority: Priority) -> None:
    method, path = call.split()
    work = work_of(method, path)
    assert (work.cost, work.priority) == (cost, priority)


async def test_what_costs_most_is_put_off_first_and_what_runs_last() -> None:
    load = Load(10)

    def lets_in(priority: Priority) -> bool:
        try:
            with load.carry(Work(1, priority)):
                return True
        except AppError as error:
            assert error.kind is Kind.UNAVAILABLE
            assert error.retry_after_s is not None
            assert 1 <= error.retry_after_s <= 3
            return False

    for taken, let_in in [
        (5, {Priority.HEAVY, Priority.NORMAL, Priority.RUNNING, Priority.VITAL}),
        (6, {Priority.NORMAL, Priority.RUNNING, Priority.VITAL}),
        (10, {Priority.RUNNING, Priority.VITAL}),
        (12, {Priority.VITAL}),
    ]:
        with ExitStack() as stack:
            for _ in range(taken):
                stack.enter_context(load.carry(Work(1, Priority.VITAL)))
            assert {priority for priority in Priority if lets_in(priority)} == let_in


async def test_full_gateway_says_so_early_and_finishes_what_it_took() -> None:
    async with running(load_max=8) as gateway:
        who = gateway.as_account()
        meeting = await gateway.new_meeting(who)
        gateway.meetings.release.clear()
        under_way = [asyncio.create_task(gateway.client.get(f"/api/meetings/{meeting}", headers=who)) for _ in range(8)]
        async with asyncio.timeout(10):
            while (REGISTRY.get_sample_value("load") or 0) < 8:
                await asyncio.sleep(0.005)
        before = shed("normal")
        refused = await gateway.client.get("/api/meetings", headers=who)
        assert refused.status_code == 503
        assert problem(refused)["error"] == "service_unavailable"
        assert int(refused.headers["retry-after"]) in {1, 2, 3}
        assert shed("normal") == before + 1
        assert (await gateway.client.get("/healthz")).status_code == 200
        gateway.meetings.release.set()
        assert {answer.status_code for answer in await asyncio.gather(*under_way)} == {200}
        assert (await gateway.client.get("/api/meetings", headers=who)).status_code == 200
        assert REGISTRY.get_sample_value("load") == 0


async def test_bodies_that_come_slowly_keep_nobody_out() -> None:
    """A thousand of them filled the gateway: half of what others asked for was put off."""
    async with running(load_max=8) as gateway:
        who = gateway.as_account()
        rest = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b'{"title": '
            await rest.wait()
            yield b'"Slow"}'

        fields = who | {"content-type": "application/json"}
        slow = [
            asyncio.create_task(gateway.client.post("/api/meetings", headers=fields, content=slowly()))
            for _ in range(12)
        ]
        async with asyncio.timeout(10):
            while (
                REGISTRY.get_sample_value("http_server_active_requests", {"http_request_method": "POST"}) or 0
            ) < len(slow):
                await asyncio.sleep(0.005)
        assert REGISTRY.get_sample_value("load") == 0
        assert (await gateway.client.get("/api/meetings", headers=who)).status_code == 200
        rest.set()
        assert {answer.status_code for answer in await asyncio.gather(*slow)} <= {201, 503}
        assert REGISTRY.get_sample_value("load") == 0


@pytest.mark.req("R-SVC-6")
async def test_request_ends_when_its_time_is_over_and_so_do_its_calls() -> None:
    async with running(request_timeout_s=0.3) as gateway:
        who = gateway.as_account()
        meeting = await gateway.new_meeting(who)
        gateway.meetings.release.clear()
        answer = await gateway.client.get(f"/api/meetings/{meeting}", headers=who)
        assert answer.status_code == 504
        assert "retry-after" in answer.headers
