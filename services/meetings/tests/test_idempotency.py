"""The same key creates once, whoever asks how often and whatever crashes (row 37 of the fault matrix)."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.meetings.v1 import meetings_pb2 as pb

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.idempotency import Claim, IdempotencyKeys, Kept
from chassis.postgres import Database
from services.meetings.meetings import Meeting, MeetingChange, new_meeting
from services.meetings.meetings_store import MeetingsStore, creation
from services.meetings.store import idempotency_keys
from services.meetings.store import meetings as meetings_table

pytestmark = pytest.mark.req("R-API-6")

ASKED = b"what is asked for"


def render(meeting: Meeting) -> pb.CreateMeetingResponse:
    return pb.CreateMeetingResponse(meeting=pb.Meeting(id=meeting.id, title=meeting.title, version=meeting.version))


async def create(
    keys: IdempotencyKeys, owner: str, *, key: str = "key", asked: bytes = ASKED
) -> Kept[pb.CreateMeetingResponse]:
    new = new_meeting(ids.new_id(), owner, title="Planning", language="", participants=[])
    return await keys.once("create meeting", Claim(owner, key, asked), creation(new), render, pb.CreateMeetingResponse)


async def created(database: Database, owner: str) -> int:
    async def work(connection: AsyncConnection) -> int:
        query = sa.select(sa.func.count()).where(meetings_table.c.owner_id == owner)
        return int((await connection.execute(query)).scalar_one())

    return await database.run("count", work)


async def test_a_hundred_calls_at_once_create_one_and_agree_on_it(
    database: Database, keys: IdempotencyKeys, owner: str
) -> None:
    found = await asyncio.gather(*(create(keys, owner) for _ in range(100)), return_exceptions=True)
    assert await created(database, owner) == 1
    kept = [one for one in found if isinstance(one, Kept)]
    assert {one.answer.meeting.id for one in kept} == {kept[0].answer.meeting.id}
    assert sum(not one.replayed for one in kept) == 1
    for refused in found:
        if isinstance(refused, AppError):
            # Under way, or no place in the line before the database: neither may create.
            assert refused.kind in {Kind.CONFLICT, Kind.UNAVAILABLE}
    again = await create(keys, owner)
    assert again.replayed


async def test_without_a_key_each_call_creates(database: Database, keys: IdempotencyKeys, owner: str) -> None:
    """Negative control."""
    for _ in range(3):
        new = new_meeting(ids.new_id(), owner, title="Planning", language="", participants=[])
        kept = await keys.once("create meeting", None, creation(new), render, pb.CreateMeetingResponse)
        assert not kept.replayed
    assert await created(database, owner) == 3


async def test_the_first_answer_stays_until_the_meeting_is_deleted_and_then_its_words_are_gone_too(
    database: Database, meetings: MeetingsStore, keys: IdempotencyKeys, owner: str
) -> None:
    other = (await create(keys, owner, key="other")).answer
    first = (await create(keys, owner)).answer
    await meetings.update(owner, first.meeting.id, 1, MeetingChange("Renamed", None, None))
    assert (await create(keys, owner)).answer == first
    await meetings.delete(owner, first.meeting.id, 2)
    with pytest.raises(AppError) as caught:
        await create(keys, owner)  # nor is it made a second time
    assert caught.value.kind is Kind.CONFLICT
    assert await created(database, owner) == 1
    assert (await create(keys, owner, key="other")).answer == other


async def test_another_request_with_the_key_is_refused(keys: IdempotencyKeys, owner: str) -> None:
    await create(keys, owner)
    with pytest.raises(AppError) as caught:
        await create(keys, owner, asked=b"something else")
    assert caught.value.kind is Kind.VALIDATION_FAILED
    assert caught.value.details[0].field == "Idempotency-Key"


async def test_keys_are_an_accounts_own(database: Database, keys: IdempotencyKeys, owner: str) -> None:
    other = ids.new_id()
    mine, theirs = await create(keys, owner), await create(keys, other)
    assert mine.answer.meeting.id != theirs.answer.meeting.id
    assert await created(database, other) == 1


async def test_a_call_under_way_keeps_others_with_its_key_off(
    database: Database, keys: IdempotencyKeys, owner: str
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(connection: AsyncConnection) -> Meeting:
        begun.set()
        await go_on.wait()
        new = new_meeting(ids.new_id(), owner, title="Planning", language="", participants=[])
        return await creation(new)(connection)

    first = asyncio.create_task(
        keys.once("create meeting", Claim(owner, "key", ASKED), slowly, render, pb.CreateMeetingResponse)
    )
    await begun.wait()
    with pytest.raises(AppError) as caught:
        await create(keys, owner)
    assert caught.value.kind is Kind.CONFLICT
    assert (await create(keys, owner, key="another")).replayed is False
    go_on.set()
    assert (await first).replayed is False
    assert (await create(keys, owner)).replayed
    assert await created(database, owner) == 2


@pytest.mark.parametrize("where", ["before the effect", "between effect and key"])
async def test_a_crash_leaves_neither_effect_nor_key(
    database: Database, keys: IdempotencyKeys, owner: str, where: str
) -> None:
    async def broken(connection: AsyncConnection) -> Meeting:
        if where == "before the effect":
            raise ZeroDivisionError
        new = new_meeting(ids.new_id(), owner, title="Planning", language="", participants=[])
        return await creation(new)(connection)

    def broken_render(_: Meeting) -> pb.CreateMeetingResponse:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await keys.once("create meeting", Claim(owner, "key", ASKED), broken, broken_render, pb.CreateMeetingResponse)
    assert await created(database, owner) == 0
    assert (await create(keys, owner)).replayed is False
    assert await created(database, owner) == 1


async def test_a_key_that_is_kept_apart_from_its_effect_fails_in_a_crash(
    database: Database, keys: IdempotencyKeys, meetings: MeetingsStore, owner: str
) -> None:
    """Negative control: the effect commits, the process dies, the key was never kept."""
    for _ in range(2):
        await meetings.create(new_meeting(ids.new_id(), owner, title="Planning", language="", participants=[]))
        # here it dies, and the client calls again
    assert await created(database, owner) == 2


async def test_keys_expire_and_go(database: Database, keys: IdempotencyKeys, owner: str) -> None:
    for number in range(5):
        await create(keys, owner, key=str(number))

    async def age(connection: AsyncConnection) -> None:
        await connection.execute(idempotency_keys.update().values(expires_at=sa.func.now() - dt.timedelta(seconds=1)))

    async def left(connection: AsyncConnection) -> int:
        return int((await connection.execute(sa.select(sa.func.count()).select_from(idempotency_keys))).scalar_one())

    await database.run("age", age)
    assert (await create(keys, owner, key="0", asked=b"something else")).replayed is False
    assert await created(database, owner) == 6
    assert await database.run("left", left) == 1
