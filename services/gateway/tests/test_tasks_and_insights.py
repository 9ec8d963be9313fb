"""`/api/tasks`, `/api/insights` and `/api/jobs`."""

from __future__ import annotations

from typing import Any

import pytest
from verbatim.insights.v1.insights_pb2 import ActionItem, Insights, Point

from chassis import ids
from services.gateway.tests.conftest import Gateway, problem
from services.gateway.tests.fake_accounts import NOON

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.req("R-API-2")
async def test_a_task_is_made_changed_completed_and_deleted(gateway: Gateway) -> None:
    who = gateway.as_account()
    meeting = await gateway.new_meeting(who)
    sent = {"title": "Send the <i>offer</i>", "meeting_id": meeting.upper(), "assignee": "Grace", "due": "2026-11-27"}
    made = await gateway.client.post("/api/tasks", json=sent, headers=who)
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    url = made.headers["location"]
    assert made.json() == {
        "id": url.rpartition("/")[2],
        "title": "Send the offer",
        "meeting_id": meeting,
        "assignee": "Grace",
        "due": "2026-11-27",
        "status": "open",
        "source_segment_id": None,
        "version": 1,
        "created_at": "2026-11-27T12:00:00Z",
        "updated_at": "2026-11-27T12:00:00Z",
    }
    done = await gateway.client.patch(url, json={"status": "done", "due": None}, headers={**who, "If-Match": '"1"'})
    assert (done.json()["status"], done.json()["due"], done.json()["assignee"]) == ("done", None, "Grace")
    late = await gateway.client.patch(url, json={"status": "open"}, headers={**who, "If-Match": '"1"'})
    assert (late.status_code, problem(late)["version"]) == (412, 2)
    assert (await gateway.client.patch(url, json={"status": "open"}, headers=who)).status_code == 428
    assert (await gateway.client.get(url, headers=who)).headers["etag"] == '"2"'
    assert (await gateway.client.delete(url, headers={**who, "If-Match": '"2"'})).status_code == 204
    assert (await gateway.client.get(url, headers=who)).status_code == 404


@pytest.mark.req("R-API-2")
async def test_tasks_are_listed_by_meeting_and_status(gateway: Gateway) -> None:
    who = gateway.as_account()
    meeting = await gateway.new_meeting(who)
    for title, of in (("A", meeting), ("B", None)):
        await gateway.client.post("/api/tasks", json={"title": title, "meeting_id": of}, headers=who)

    async def titles(**params: str) -> list[str]:
        body = (await gateway.client.get("/api/tasks", params=params, headers=who)).json()
        return [one["title"] for one in body["items"]]

    assert await titles() == ["A", "B"]
    assert await titles(meeting_id=meeting) == ["A"]
    assert await titles(status="done") == []
    assert (await gateway.client.get("/api/tasks?status=lost", headers=who)).status_code == 422


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("due", {"title": "x", "due": "2026-02-30"}),
        ("due", {"title": "x", "due": 1_795_780_800}),
        ("due", {"title": "x", "due": "Friday"}),
        ("meeting_id", {"title": "x", "meeting_id": "1"}),
        ("source_segment_id", {"title": "x", "source_segment_id": "1"}),
        ("assignee", {"title": "x", "assignee": " "}),
        ("status", {"title": "x", "status": "done"}),
    ],
)
async def test_a_task_that_does_not_hold_is_refused_by_field(gateway: Gateway, field: str, sent: Any) -> None:
    answer = await gateway.client.post("/api/tasks", json=sent, headers=gateway.as_account())
    assert answer.status_code == 422
    assert [one["field"] for one in problem(answer)["details"]] == [field]


@pytest.mark.req("R-API-3")
async def test_insights_are_read_asked_for_again_and_followed_as_a_job(gateway: Gateway) -> None:
    who = gateway.as_account()
    meeting, proof = ids.new_id(), ids.new_id()
    gateway.insights.insights[meeting] = Insights(
        meeting_id=meeting,
        status="ready",
        quality="draft",
        summary="They planned.",
        key_points=[Point(text="A plan", segment_ids=[proof])],
        action_items=[ActionItem(text="Send the offer", assignee="Grace", due="2026-11-27", segment_ids=[proof])],
        engine="extractive",
        version=3,
        updated_at=NOON,
    )
    read = await gateway.client.get(f"/api/insights/{meeting}", headers=who)
    assert read.headers["etag"] == '"3"'
    assert read.json() == {
        "meeting_id": meeting,
        "status": "ready",
        "quality": "draft",
        "summary": "They planned.",
        "key_points": [{"text": "A plan", "segment_ids": [proof]}],
        "decisions": [],
        "action_items": [{"text": "Send the offer", "assignee": "Grace", "due": "2026-11-27", "segment_ids": [proof]}],
        "engine": "extractive",
        "version": 3,
        "updated_at": "2026-11-27T12:00:00Z",
        "reason": None,
        "edited": [],
        "beside": {"summary": None, "key_points": None, "decisions": None},
    }
    asked = await gateway.client.post(f"/api/insights/{meeting}", headers=who)
    assert asked.status_code == 202
    job = await gateway.client.get(asked.headers["location"], headers=who)
    assert job.json() == {
        "id": asked.json()["id"],
        "kind": "insights",
        "status": "pending",
        "attempts": 0,
        "max_attempts": 5,
        "progress": 0.0,
        "error": None,
        "created_at": "2026-11-27T12:00:00Z",
        "updated_at": "2026-11-27T12:00:00Z",
    }


@pytest.mark.req("R-API-3", "R-API-5")
async def test_insights_are_changed_by_who_has_read_them(gateway: Gateway) -> None:
    who = gateway.as_account()
    meeting, proof = ids.new_id(), ids.new_id()
    address = f"/api/insights/{meeting}"
    gateway.insights.insights[meeting] = Insights(
        meeting_id=meeting, status="ready", quality="draft", summary="They planned.", version=3,
        key_points=[Point(text="A plan", segment_ids=[proof])],
    )  # fmt: skip
    words = {"summary": "We <b>planned</b>.", "decisions": [{"text": "Go", "segment_ids": [proof]}], "key_points": None}
    assert (await gateway.client.patch(address, json=words, headers=who)).status_code == 428
    stale = await gateway.client.patch(address, json=words, headers={**who, "If-Match": '"2"'})
    assert (stale.status_code, stale.json()["version"]) == (412, 3)
    changed = await gateway.client.patch(address, json=words, headers={**who, "If-Match": '"3"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"4"')
    seen = changed.json()
    assert (seen["summary"], seen["edited"], seen["key_points"]) == ("We planned.", ["summary"], [])
    assert seen["beside"] == {"summary": "They planned.", "key_points": None, "decisions": None}
    assert seen["decisions"] == [{"text": "Go", "segment_ids": [proof]}]
    other = await gateway.client.patch(f"/api/insights/{ids.new_id()}", json=words, headers={**who, "If-Match": '"3"'})
    assert other.status_code == 404


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({}, "body"),
        ({"summary": "<p></p>"}, "summary"),
        ({"summary": "x" * 5001}, "summary"),
        ({"action_items": []}, "action_items"),
        ({"decisions": [{"text": "x", "segment_ids": ["no id"]}]}, "decisions.0.segment_ids.0"),
        ({"key_points": [{"text": "x"}] * 101}, "key_points"),
    ],
)
async def test_a_change_of_insights_that_does_not_hold_is_refused_by_field(
    gateway: Gateway, sent: Any, field: str
) -> None:
    headers = {**gateway.as_account(), "If-Match": '"1"'}
    answer = await gateway.client.patch(f"/api/insights/{ids.new_id()}", json=sent, headers=headers)
    assert answer.status_code == 422
    assert [one["field"] for one in problem(answer)["details"]] == [field]
