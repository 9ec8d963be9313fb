"""`/api/analytics` and search, as clients see them."""

from __future__ import annotations

import pytest
from verbatim.meetings.v1 import meetings_pb2

from chassis.cache import Cache
from chassis.errors import AppError, Kind
from services.gateway.last_known import LastKnown
from services.gateway.tests.conftest import Gateway, problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.req("R-API-4")
async def test_figures_of_a_period_are_answered_as_the_contract_names_them(gateway: Gateway) -> None:
    who = gateway.as_account()
    asked = {"from": "2026-11-27", "to": "2026-11-27", "tz": "UTC"}
    answer = await gateway.client.get("/api/analytics", params=asked, headers=who)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    contract = {"meetings", "talk_seconds", "words", "speakers", "tasks_open", "tasks_done", "days", "stale", "as_of"}
    assert set(body) == contract | {"from", "to", "tz"}
    assert body["stale"] is False
    assert body["speakers"] == [
        {"speaker": "Ada", "talk_seconds": 3.0, "words": 8}, {"speaker": None, "talk_seconds": 0.5, "words": 1}
    ]  # fmt: skip
    assert body["days"] == [
        {"day": "2026-11-27", "meetings": 2, "talk_seconds": 3.5, "words": 9, "tasks_open": 1, "tasks_done": 0}
    ]
    request = gateway.analytics.requests[-1]
    assert (request.owner_id, request.to) == (gateway.signer.account_of(who), "2026-11-27")
    assert getattr(request, "from") == "2026-11-27"


@pytest.mark.req("R-API-4")
@pytest.mark.parametrize("kind", [Kind.UNAVAILABLE, Kind.TIMEOUT])
async def test_while_the_store_is_away_the_last_answer_is_given_again_and_marked(
    own_gateway: Gateway, kind: Kind
) -> None:
    who, other = own_gateway.as_account(), own_gateway.as_account()
    first = (await own_gateway.client.get("/api/analytics", headers=who)).json()
    own_gateway.analytics.fault = AppError(kind, "The database does not answer.")
    again = await own_gateway.client.get("/api/analytics", headers=who)
    assert again.status_code == 200
    assert again.json() == first | {"stale": True}
    # Nobody is given another's, and nobody the answer to another question.
    assert (await own_gateway.client.get("/api/analytics", headers=other)).status_code >= 503
    asked = {"from": "2026-11-01"}
    assert (await own_gateway.client.get("/api/analytics", headers=who, params=asked)).status_code >= 503
    own_gateway.analytics.fault = None
    assert (await own_gateway.client.get("/api/analytics", headers=who)).json()["stale"] is False


@pytest.mark.req("R-API-4")
async def test_a_question_that_does_not_hold_is_refused_and_never_answered_from_memory(own_gateway: Gateway) -> None:
    who = own_gateway.as_account()
    assert (await own_gateway.client.get("/api/analytics", headers=who)).status_code == 200
    own_gateway.analytics.fault = AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.")
    assert problem(await own_gateway.client.get("/api/analytics", headers=who))["error"] == "validation_failed"
    own_gateway.analytics.fault = None
    for odd in ({"from": "x" * 65}, {"until": "2026-11-27"}):
        assert (await own_gateway.client.get("/api/analytics", headers=who, params=odd)).status_code == 422


@pytest.mark.req("R-API-4")
async def test_memory_for_last_answers_is_bounded() -> None:
    last = LastKnown(Cache("", service="gateway", replica="test"), "analytics")
    for number in range(200):
        await last.keep("a", str(number), bytes(100_000))
    await last.keep("a", "huge", bytes(1_000_000))
    kept = [number for number in range(200) if await last.get("a", str(number)) is not None]
    assert kept == list(range(200 - len(kept), 200))
    assert 80 <= len(kept) <= 84
    assert await last.get("a", "huge") is None


@pytest.mark.req("R-API-1")
async def test_what_was_found_tells_where_in_plain_pieces(gateway: Gateway) -> None:
    who = gateway.as_account()
    meeting_id = await gateway.new_meeting(who)
    hit = meetings_pb2.Hit(
        kind="segment",
        snippet=[
            meetings_pb2.SnippetPart(text="the <b>", match=False),
            meetings_pb2.SnippetPart(text="budget", match=True),
        ],
        segment_id="s1", session_id="s", index=3, speaker="Ada", start_s=1.5, end_s=2.5,
    )  # fmt: skip
    title = meetings_pb2.Hit(kind="title", snippet=[meetings_pb2.SnippetPart(text="Budget", match=True)])
    gateway.meetings.hits[meeting_id] = meetings_pb2.MeetingHits(hits=[title, hit])
    (found,) = (await gateway.client.get("/api/meetings?q=budget", headers=who)).json()["items"]
    assert found["hits"][0] == {
        "kind": "title", "snippet": [{"text": "Budget", "match": True}], "segment_id": None, "session_id": None,
        "index": None, "speaker": None, "start": None, "end": None,
    }  # fmt: skip
    assert found["hits"][1]["snippet"][0] == {"text": "the <b>", "match": False}
    assert (found["hits"][1]["start"], found["hits"][1]["index"]) == (1.5, 3)
    (listed,) = (await gateway.client.get("/api/meetings", headers=who)).json()["items"]
    assert listed["hits"] == []
