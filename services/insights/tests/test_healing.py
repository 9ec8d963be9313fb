"""Minutes heal: when the transcript has, and when the language model is back. Nobody has to ask."""

from __future__ import annotations

import time
from typing import Any

import pytest
import sqlalchemy as sa
from verbatim.insights.v1 import insights_pb2

from chassis.breaker import Breaker, BreakerSettings, State
from chassis.errors import AppError
from services.insights import store
from services.insights.language import DEPENDENCY, GuardedLanguageModel, Reading
from services.insights.tests.conftest import House, eventually
from services.insights.tests.fakes import FakeOpenAI
from services.insights.tests.test_language import GOOD
from services.insights.tests.test_service import LINES, model, ready
from services.insights.writing import HEAL, READY

pytestmark = pytest.mark.req("R-STT-5", "R-API-3")

DOWN: Any = (500, {}, b"{}")


async def is_version(house: House, owner_id: str, meeting_id: str, version: int) -> bool:
    try:
        return bool((await house.insights(owner_id, meeting_id)).version >= version)
    except AppError:
        return False


async def jobs_of(house: House, kind: str) -> list[Any]:
    async with house.database.engine.connect() as connection:
        query = sa.select(store.JOBS).where(store.JOBS.c.kind == kind).order_by(store.JOBS.c.id)
        return list(await connection.execute(query))


def guarded(server: FakeOpenAI, **settings: Any) -> GuardedLanguageModel:
    breaker = Breaker("language_model", BreakerSettings(**settings), clock=time.monotonic, chance=lambda: 0.0)
    return GuardedLanguageModel(model(server), breaker)


async def test_minutes_of_drafts_are_made_again_when_the_transcript_has_healed(house: House) -> None:
    async with FakeOpenAI([GOOD]).running() as server:
        house.work(model(server), heals=True)
        house.meetings.healing = 2
        owner_id, meeting_id = house.meetings.add(["we shipped the cat", *LINES])
        await house.completed(owner_id, meeting_id)
        first = await ready(house, owner_id, meeting_id)
        assert (first.quality, first.engine, first.version) == ("draft", "m", 1)
        house.meetings.healing = 0
        house.meetings.meetings[owner_id, meeting_id][0] = "we stopped the chat"
        await house.healed(owner_id, meeting_id)
        await eventually(lambda: is_version(house, owner_id, meeting_id, 2))
        assert (await house.insights(owner_id, meeting_id)).quality == "final"
        assert b"stopped the chat" in str(server.requests[-1]).encode()

        async def told() -> bool:
            return await house.messages(READY) == 2

        await eventually(told)
    message = await house.bus.js.get_last_msg("EVENTS", READY)
    assert insights_pb2.InsightsReady.FromString(message.data or b"").version == 2
    assert await jobs_of(house, HEAL) == []


async def test_draft_is_replaced_when_the_language_model_is_back(house: House) -> None:
    async with FakeOpenAI([DOWN] * 6 + [GOOD]).running() as server:
        house.work(model(server), heals=True)
        owner_id, meeting_id = house.meetings.add(LINES)
        await house.completed(owner_id, meeting_id)
        draft = await ready(house, owner_id, meeting_id)
        assert (draft.quality, draft.engine, draft.reason) == ("draft", "extractive", "unavailable")
        await eventually(lambda: is_version(house, owner_id, meeting_id, 2))
        insights = await house.insights(owner_id, meeting_id)
        assert (insights.status, insights.quality, insights.engine, insights.reason) == ("ready", "final", "m", "")
        [job] = await jobs_of(house, HEAL)
        assert job.attempts >= 3


async def test_refused_key_heals_when_somebody_has_mended_it(house: House) -> None:
    async with FakeOpenAI([(401, {}, b"{}")]).running() as server:
        house.work(guarded(server, open_s=60.0), heals=True)
        owner_id, meeting_id = house.meetings.add(LINES)
        await house.completed(owner_id, meeting_id)
        await ready(house, owner_id, meeting_id)

        async def waits() -> bool:
            return [job.status for job in await jobs_of(house, HEAL)] == ["retry"]

        await eventually(waits)
        assert len(server.requests) == 1  # the breaker is open: nobody asks with that key
    assert (await house.bus.js.stream_info("DLQ")).state.messages == 0


async def test_draft_that_somebody_asked_to_make_again_meanwhile_is_left_alone(house: House) -> None:
    async with FakeOpenAI([GOOD]).running() as server:
        owner_id, meeting_id = house.meetings.add(LINES)
        await house.request(owner_id, meeting_id)
        async with house.database.engine.begin() as connection:
            await house.queue.put(
                connection, HEAL, meeting_id, owner_id=owner_id, payload=b'{"language":"","day":""}', attempts_max=5
            )
        house.work(model(server), heals=True)
        await eventually(lambda: is_version(house, owner_id, meeting_id, 1))

        async def done() -> bool:
            return [job.status for job in await jobs_of(house, HEAL)] == ["completed"]

        await eventually(done)
        assert (await house.insights(owner_id, meeting_id)).version == 1
        assert len(server.requests) == 1


async def test_transcript_too_long_for_the_model_is_not_asked_about_again(house: House) -> None:
    async with FakeOpenAI([GOOD]).running() as server:
        house.work(model(server, Reading(6000, 4096, pieces_max=2)), heals=True)
        owner_id, meeting_id = house.meetings.add(["word " * 3000])
        await house.completed(owner_id, meeting_id)
        insights = await ready(house, owner_id, meeting_id)
        assert (insights.quality, insights.reason) == ("draft", "too_long")
        assert await jobs_of(house, HEAL) == []


async def test_deleted_meeting_is_not_healed(house: House) -> None:
    async with FakeOpenAI([DOWN]).running() as server:
        house.work(model(server), heals=True)
        owner_id, meeting_id = house.meetings.add(LINES)
        await house.completed(owner_id, meeting_id)
        await ready(house, owner_id, meeting_id)
        await house.deleted(owner_id, meeting_id)

        async def gone() -> bool:
            return not await jobs_of(house, HEAL)

        await eventually(gone)


async def test_breaker_leaves_the_model_alone_and_drafts_come_at_once(house: House) -> None:
    async with FakeOpenAI([DOWN]).running() as server:
        wall = guarded(server, failures_in_row=2, open_s=60.0)
        house.work(wall, heals=True)
        for _ in range(3):
            owner_id, meeting_id = house.meetings.add(LINES)
            await house.completed(owner_id, meeting_id)
            assert (await ready(house, owner_id, meeting_id)).quality == "draft"
        assert wall.breaker.state is State.OPEN
        assert len(server.requests) == 2


async def test_breaker_obeys_its_control_and_no_other() -> None:
    breaker = Breaker("language_model", BreakerSettings(), clock=time.monotonic, chance=lambda: 0.0)
    states = []
    for control, value in (
        ("breaker.openai", "open"),
        (f"breaker.{DEPENDENCY}", "open"),
        (f"breaker.{DEPENDENCY}", None),
    ):
        breaker.obey(control, value)
        states.append(breaker.state)
    assert states == [State.CLOSED, State.OPEN, State.CLOSED]
