"""What models cost is kept by account and month; over its budget an account has drafts, until the next month."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.insights.v1 import usage_pb2

from chassis import ids
from services.insights import usage_store
from services.insights.accounts import UsageApi
from services.insights.spending import Prices, Spend, period_of, until_next_s
from services.insights.tests.conftest import House, eventually
from services.insights.tests.fakes import FakeOpenAI
from services.insights.tests.test_healing import is_version, jobs_of
from services.insights.tests.test_language import GOOD
from services.insights.tests.test_service import LINES, model, ready
from services.insights.usage_store import USAGE
from services.insights.writing import HEAL, Budget

pytestmark = pytest.mark.req("R-API-3")


async def usage(house: House) -> list[tuple[Any, ...]]:
    async with house.database.engine.connect() as connection:
        u = USAGE.c
        rows = await connection.execute(
            sa.select(u.owner_id, u.period, u.calls, u.input_tokens, u.output_tokens).order_by(u.period)
        )
        return [tuple(row) for row in rows]


async def test_every_call_is_counted_also_one_that_came_to_nothing(house: House) -> None:
    async with FakeOpenAI(["nonsense", "nonsense", GOOD]).running() as server:
        house.work(model(server))
        owner_id, meeting_id = house.meetings.add(LINES)
        await house.completed(owner_id, meeting_id)
        assert (await ready(house, owner_id, meeting_id)).quality == "final"
    assert await usage(house) == [(owner_id, period_of(datetime.now(UTC)), 3, 300, 60)]


async def test_over_its_budget_an_account_has_a_draft_that_heals_when_the_next_month_begins(house: House) -> None:
    now = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    async with FakeOpenAI([GOOD]).running() as server:
        house.work(model(server), heals=True, budget=Budget(120, clock=lambda: now))
        first = house.meetings.add(LINES)
        await house.completed(*first)
        assert (await ready(house, *first)).quality == "final"
        # The same owner, another meeting.
        owner_id, second = first[0], house.meetings.add(LINES)[1]
        house.meetings.meetings[owner_id, second] = LINES
        await house.completed(owner_id, second)
        draft = await ready(house, owner_id, second)
        assert (draft.quality, draft.engine, draft.reason) == ("draft", "extractive", "budget")
        assert len(server.requests) == 1
        other = house.meetings.add(LINES)
        await house.completed(*other)
        assert (await ready(house, *other)).quality == "final"  # its budget is its own

        async def waits() -> bool:
            return [(job.status, job.attempts) for job in await jobs_of(house, HEAL)] == [("pending", 0)]

        await eventually(waits)
        now = datetime(2026, 12, 1, tzinfo=UTC)
        await eventually(lambda: is_version(house, owner_id, second, 2))
        healed = await house.insights(owner_id, second)
        assert (healed.quality, healed.reason) == ("final", "")
    mine = [row[1:] for row in await usage(house) if row[0] == owner_id]
    assert mine == [("2026-11", 1, 100, 20), ("2026-12", 1, 100, 20)]


@pytest.mark.req("R-AUTH-2")
async def test_what_an_account_spent_that_is_no_more_is_nobodys_and_still_in_the_sums(house: House) -> None:
    gone, stays = ids.new_id(), ids.new_id()

    async def spend(owner_id: str, period: str) -> None:
        spent = Spend()
        spent.add(100, 20)
        await house.database.run("spend", lambda connection: usage_store.add(connection, owner_id, period, spent))

    for owner_id, period in ((gone, "2026-10"), (gone, "2026-11"), (stays, "2026-11")):
        await spend(owner_id, period)
    for _ in range(2):
        await house.departed(gone)

    async def forgotten() -> bool:
        return gone not in {row[0] for row in await usage(house)}

    await eventually(forgotten)
    # A job that was under way, and those of another that goes at the same moment.
    await asyncio.gather(*(spend(gone, "2026-11") for _ in range(3)), *(spend(stays, "2026-11") for _ in range(3)),
                         house.departed(stays), house.departed(gone))  # fmt: skip

    async def all_forgotten() -> bool:
        return {row[0] for row in await usage(house)} == {usage_store.NOBODY}

    await eventually(all_forgotten)
    assert await usage(house) == [
        (usage_store.NOBODY, "2026-10", 1, 100, 20),
        (usage_store.NOBODY, "2026-11", 8, 800, 160),
    ]


def test_a_call_is_priced() -> None:
    def cost() -> float:
        return REGISTRY.get_sample_value("language_model_cost_dollars_total") or 0.0

    before = cost()
    Spend(Prices(0.15, 0.60)).add(1_000_000, 500_000)
    assert cost() - before == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("moment", "period", "left_s"),
    [
        (datetime(2026, 12, 31, 23, 59, 50, tzinfo=UTC), "2026-12", 10),
        (datetime(2028, 2, 29, tzinfo=UTC), "2028-02", 86_400),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01", 31 * 86_400),
    ],
)
def test_a_period_is_a_month_in_utc(moment: datetime, period: str, left_s: float) -> None:
    assert (period_of(moment), until_next_s(moment)) == (period, left_s)


async def test_an_account_is_told_what_it_has_spent_and_forgotten_when_it_is_deleted(house: House) -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    spent, other = Spend(calls=1, input_tokens=100, output_tokens=20), ids.new_id()
    gone = ids.new_id()

    async def add(connection: AsyncConnection) -> None:
        for owner_id in (gone, other):
            await usage_store.add(connection, owner_id, period_of(now), spent)
        await usage_store.add(connection, gone, "2026-10", spent)

    await house.database.run("add", add)
    api = UsageApi(house.database, tokens_max=500, now=lambda: now)

    async def told(owner_id: str) -> tuple[int, int]:
        answer = await api.GetUsage(usage_pb2.GetUsageRequest(owner_id=owner_id), None)
        return answer.tokens, answer.tokens_max

    assert (await told(gone), await told(ids.new_id())) == ((120, 500), (0, 500))
    await house.bus.publish("events.account.deleted", b"nonsense", message_id=ids.new_id())
    house.work()
    await house.departed(gone)

    async def forgotten() -> bool:
        return gone not in {row[0] for row in await usage(house)}

    await eventually(forgotten)
    assert (await told(gone), await told(other)) == ((0, 500), (120, 500))
