"""What a person wrote is never overwritten: what is made later stands beside it, until they give the field back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from verbatim.insights.v1 import insights_pb2 as pb

from chassis.errors import AppError, Kind
from services.insights.tests.conftest import House, eventually
from services.insights.tests.fakes import FakeOpenAI
from services.insights.tests.test_healing import DOWN, is_version
from services.insights.tests.test_language import GOOD
from services.insights.tests.test_service import LINES, model, ready

pytestmark = pytest.mark.req("R-API-3", "R-API-5")


def points(*texts: str, cites: str = "s0") -> pb.Points:
    return pb.Points(points=[pb.Point(text=text, segment_ids=[cites] if cites else []) for text in texts])


async def drafted(house: House) -> tuple[str, str, Any]:
    owner_id, meeting_id = house.meetings.add(LINES)
    await house.completed(owner_id, meeting_id)
    return owner_id, meeting_id, await ready(house, owner_id, meeting_id)


async def test_a_draft_heals_around_what_a_person_wrote(house: House) -> None:
    async with FakeOpenAI([DOWN] * 3 + [GOOD]).running() as server:
        house.work(model(server), heals=False)
        owner_id, meeting_id, draft = await drafted(house)
        edited = await house.edit(owner_id, meeting_id, 1, summary="Mine.", decisions=points("Ours", cites=""))
        assert (edited.version, edited.summary, list(edited.edited)) == (2, "Mine.", ["decisions", "summary"])
        assert edited.beside.summary == draft.summary
        house.work(model(server), heals=True)
        await eventually(lambda: is_version(house, owner_id, meeting_id, 3))
    healed = await house.insights(owner_id, meeting_id)
    assert (healed.quality, healed.engine) == ("final", "m")
    assert (healed.summary, healed.decisions[0].text) == ("Mine.", "Ours")
    assert healed.beside.summary == "The merger is off."
    assert [point.text for point in healed.beside.decisions.points] == ["The merger is off."]
    assert [point.text for point in healed.key_points] == ["No merger."]  # nobody had written there
    assert not healed.beside.HasField("key_points")

    back = await house.edit(owner_id, meeting_id, 3, given_back=["summary"])
    assert (back.version, back.summary, list(back.edited)) == (4, "The merger is off.", ["decisions"])
    assert not back.beside.HasField("summary")
    again = await house.edit(owner_id, meeting_id, 4, given_back=["decisions"])
    assert (again.decisions[0].text, list(again.edited)) == ("The merger is off.", [])


async def test_minutes_are_made_again_of_a_transcript_that_people_corrected(house: House) -> None:
    house.work()
    owner_id, meeting_id, before = await drafted(house)
    await house.edit(owner_id, meeting_id, 1, summary="Mine.")
    house.meetings.meetings[owner_id, meeting_id] = [line.replace("website", "zeppelin") for line in LINES]
    await house.edited(owner_id, meeting_id)
    await eventually(lambda: is_version(house, owner_id, meeting_id, 3))
    again = await house.insights(owner_id, meeting_id)
    assert again.summary == "Mine."
    assert "zeppelin" in again.beside.summary
    assert "zeppelin" not in before.summary


async def test_asking_for_insights_again_does_not_overwrite_them_either(house: House) -> None:
    house.work()
    owner_id, meeting_id, _ = await drafted(house)
    await house.edit(owner_id, meeting_id, 1, key_points=points("One", "Two", cites="s1"))
    await house.request(owner_id, meeting_id)
    await eventually(lambda: is_version(house, owner_id, meeting_id, 3))
    found = await house.insights(owner_id, meeting_id)
    assert [point.text for point in found.key_points] == ["One", "Two"]
    assert found.beside.HasField("key_points")


async def test_of_many_editors_of_one_version_one_wins_and_the_others_are_told_the_new_one(house: House) -> None:
    house.work()
    owner_id, meeting_id, _ = await drafted(house)
    told = await asyncio.gather(
        *(house.edit(owner_id, meeting_id, 1, summary=f"By {number}.") for number in range(50)), return_exceptions=True
    )
    won = [one for one in told if not isinstance(one, BaseException)]
    lost = [one for one in told if isinstance(one, AppError)]
    assert (len(won), len(lost)) == (1, 49)
    assert {(fault.kind, fault.version) for fault in lost} == {(Kind.PRECONDITION_FAILED, 2)}
    assert (await house.insights(owner_id, meeting_id)).summary == won[0].summary


async def test_edits_and_jobs_at_the_same_time_lose_no_edit(house: House) -> None:
    house.work()
    owner_id, meeting_id, _ = await drafted(house)
    version = (await house.edit(owner_id, meeting_id, 1, summary="Kept.")).version
    for number in range(10):
        await house.request(owner_id, meeting_id)
        try:
            version = (await house.edit(owner_id, meeting_id, version, decisions=points(f"D{number}"))).version
        except AppError as fault:
            assert fault.kind is Kind.PRECONDITION_FAILED
            assert fault.version is not None
            version = fault.version
        assert (await house.insights(owner_id, meeting_id)).summary == "Kept."


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ({}, Kind.VALIDATION_FAILED),
        ({"decisions": points("x", cites="s99")}, Kind.VALIDATION_FAILED),
        ({"summary": "x", "expected": 7}, Kind.PRECONDITION_FAILED),
    ],
)
async def test_a_change_that_does_not_hold_changes_nothing(house: House, words: dict[str, Any], kind: Kind) -> None:
    house.work()
    owner_id, meeting_id, draft = await drafted(house)
    with pytest.raises(AppError) as caught:
        await house.edit(owner_id, meeting_id, words.pop("expected", 1), **words)
    assert caught.value.kind is kind
    assert await house.insights(owner_id, meeting_id) == draft


@pytest.mark.req("R-AUTH-2")
async def test_another_cannot_change_them_nor_learn_that_they_are_there(house: House) -> None:
    house.work()
    _, meeting_id, _ = await drafted(house)
    with pytest.raises(AppError) as caught:
        await house.edit("somebody-else", meeting_id, 1, summary="x")
    assert caught.value.kind is Kind.NOT_FOUND
