"""`/api/meetings`, and what was said in them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from verbatim.meetings.v1.meetings_pb2 import TranscriptSegment

from chassis import ids
from services.gateway.tests.conftest import Gateway, problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = "019ac1de-5f9f-7c55-9d3f-1c6f0e0a5b11"


@pytest.mark.req("R-API-1")
async def test_a_meeting_is_made_with_a_version_and_a_place(gateway: Gateway) -> None:
    who = gateway.as_account()
    sent = {"title": "<b>Planning</b>", "language": "en", "participants": ["Ada", " Grace "]}
    answer = await gateway.client.post("/api/meetings", json=sent, headers=who)
    assert answer.status_code == 201
    body = answer.json()
    assert ids.is_id(body["id"])
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["location"] == f"/api/meetings/{body['id']}"
    assert body == {
        "id": body["id"],
        "title": "Planning",
        "language": "en",
        "participants": ["Ada", "Grace"],
        "status": "created",
        "version": 1,
        "created_at": "2026-11-27T12:00:00Z",
        "updated_at": "2026-11-27T12:00:00Z",
        "started_at": None,
        "ended_at": None,
        "segments": 0,
        "draft_segments": 0,
        "healing_segments": 0,
        "given_up_segments": 0,
        "audio_seconds": 0.0,
        "gap_seconds": 0.0,
        "coverage": None,
    }
    assert (await gateway.client.get(answer.headers["location"], headers=who)).json() == body


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("title", {}),
        ("title", {"title": ""}),
        ("title", {"title": "<p></p>"}),
        ("title", {"title": "x" * 201}),
        ("title", {"title": None}),
        ("title", {"title": 7}),
        ("language", {"title": "x", "language": "English"}),
        ("language", {"title": "x", "language": "en\n"}),
        ("participants", {"title": "x", "participants": "Ada"}),
        ("participants", {"title": "x", "participants": ["a"] * 101}),
        ("participants.0", {"title": "x", "participants": ["\x00"]}),
        ("id", {"title": "x", "id": UNKNOWN}),
        ("owner_id", {"title": "x", "owner_id": UNKNOWN}),
        ("version", {"title": "x", "version": 9}),
        ("status", {"title": "x", "status": "completed"}),
        ("body", []),
        ("body", "x"),
        ("body", None),
    ],
)
async def test_a_meeting_that_does_not_hold_is_refused_by_field(gateway: Gateway, field: str, sent: Any) -> None:
    answer = await gateway.client.post("/api/meetings", json=sent, headers=gateway.as_account())
    assert answer.status_code == 422, answer.text
    assert field in {one["field"] for one in problem(answer)["details"]}


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("field", "body"), [("title", rb'{"title": "\ud800"}'), ("body", rb'{"title": "x", "\ud800": 1}')]
)
async def test_half_a_character_is_refused(gateway: Gateway, field: str, body: bytes) -> None:
    headers = {**gateway.as_account(), "Content-Type": "application/json"}
    answer = await gateway.client.post("/api/meetings", content=body, headers=headers)
    assert answer.status_code == 422
    assert [one["field"] for one in problem(answer)["details"]] == [field]


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize("bad", ["1", "x", "..%2f..", "019ac1de5f9f7c559d3f1c6f0e0a5b11", UNKNOWN + "'", "%00", "ü"])
async def test_an_id_that_is_none_is_422_and_an_unknown_one_404(gateway: Gateway, bad: str) -> None:
    who = gateway.as_account()
    for path in ("/api/meetings/{}", "/api/meetings/{}/segments", "/api/meetings/{}/export", "/api/tasks/{}",
                 "/api/insights/{}", "/api/jobs/{}"):  # fmt: skip
        answer = await gateway.client.get(path.format(bad), headers=who)
        assert answer.status_code == (404 if "/" in bad or "%2f" in bad else 422), (path, answer.text)
        unknown = await gateway.client.get(path.format(UNKNOWN), headers=who)
        assert (unknown.status_code, problem(unknown)["error"]) == (404, "not_found")


@pytest.mark.req("R-API-5")
async def test_a_change_needs_the_version_that_was_read(gateway: Gateway) -> None:
    who = gateway.as_account()
    url = f"/api/meetings/{await gateway.new_meeting(who)}"
    without = await gateway.client.patch(url, json={"title": "B"}, headers=who)
    assert (without.status_code, problem(without)["error"]) == (428, "precondition_required")

    changed = await gateway.client.patch(url, json={"title": "B"}, headers={**who, "If-Match": '"1"'})
    assert (changed.status_code, changed.headers["etag"], changed.json()["title"]) == (200, '"2"', "B")

    late = await gateway.client.patch(url, json={"title": "C"}, headers={**who, "If-Match": '"1"'})
    assert (late.status_code, late.headers["etag"]) == (412, '"2"')
    assert (problem(late)["error"], problem(late)["version"]) == ("precondition_failed", 2)
    assert (await gateway.client.get(url, headers=who)).json()["title"] == "B"


@pytest.mark.req("R-API-5")
@pytest.mark.parametrize("value", ["1", '"x"', 'W/"1"', "*", '"1", "2"', '""', '"-1"', '"9999999999999999999"', ""])
async def test_an_if_match_that_names_no_version_is_422(gateway: Gateway, value: str) -> None:
    who = gateway.as_account()
    url = f"/api/meetings/{await gateway.new_meeting(who)}"
    for method in ("PATCH", "DELETE"):
        body = {"title": "B"} if method == "PATCH" else None
        answer = await gateway.client.request(method, url, headers={**who, "If-Match": value}, json=body)
        assert answer.status_code == 422
        assert problem(answer)["details"][0]["field"] == "If-Match"


@pytest.mark.req("R-API-5")
async def test_a_deletion_needs_the_version_too(gateway: Gateway) -> None:
    who = gateway.as_account()
    url = f"/api/meetings/{await gateway.new_meeting(who)}"
    assert (await gateway.client.delete(url, headers=who)).status_code == 428
    assert (await gateway.client.delete(url, headers={**who, "If-Match": '"7"'})).status_code == 412
    gone = await gateway.client.delete(url, headers={**who, "If-Match": '"1"'})
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await gateway.client.get(url, headers=who)).status_code == 404


@pytest.mark.req("R-API-1")
async def test_a_change_touches_only_the_fields_that_were_sent(gateway: Gateway) -> None:
    who = gateway.as_account()
    sent = {"title": "A", "language": "en", "participants": ["Ada"]}
    url = (await gateway.client.post("/api/meetings", json=sent, headers=who)).headers["location"]
    changed = await gateway.client.patch(url, json={"language": None}, headers={**who, "If-Match": '"1"'})
    assert {name: changed.json()[name] for name in sent} == {**sent, "language": None}
    changed = await gateway.client.patch(url, json={"participants": []}, headers={**who, "If-Match": '"2"'})
    assert changed.json()["participants"] == []
    nothing = await gateway.client.patch(url, json={}, headers={**who, "If-Match": '"3"'})
    assert nothing.status_code == 422


@pytest.mark.req("R-API-1")
async def test_a_list_is_read_page_by_page(gateway: Gateway) -> None:
    who = gateway.as_account()
    made = [await gateway.new_meeting(who, f"Meeting {number}") for number in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        body = (await gateway.client.get("/api/meetings", params=params, headers=who)).json()
        seen += [one["id"] for one in body["items"]]
        cursor = body["next_cursor"]
    assert (seen, cursor) == (made, None)
    assert (await gateway.client.get("/api/meetings", headers=gateway.as_account())).json() == {
        "items": [],
        "next_cursor": None,
    }


@pytest.mark.req("R-API-1")
async def test_a_search_reaches_the_service_as_words_and_times(gateway: Gateway) -> None:
    params = {"q": " <b>offer</b>  printer ", "from": "2026-11-01", "to": "2026-11-27", "limit": "200"}
    await gateway.client.get("/api/meetings", params=params, headers=gateway.as_account())
    request = gateway.meetings.list_requests[-1]
    assert (request.query, request.limit, request.cursor) == ("offer printer", 200, "")
    assert getattr(request, "from").ToDatetime(tzinfo=UTC) == datetime(2026, 11, 1, tzinfo=UTC)
    assert request.to.ToDatetime(tzinfo=UTC) == datetime(2026, 11, 28, tzinfo=UTC)
    await gateway.client.get("/api/meetings", headers=gateway.as_account())
    request = gateway.meetings.list_requests[-1]
    assert (request.limit, request.HasField("from"), request.HasField("to")) == (50, False, False)


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("field", "query"),
    [
        ("limit", "limit=0"),
        ("limit", "limit=201"),
        ("limit", "limit=x"),
        ("limit", "limit=1e2"),
        ("cursor", "cursor="),
        ("cursor", "cursor=a%0d%0ab"),
        ("cursor", "cursor=" + "x" * 513),
        ("q", "q=" + "x" * 201),
        ("from", "from=yesterday"),
        ("to", "to=2026-13-01"),
        ("to", "from=2026-11-27&to=2026-11-26"),
        ("sort", "sort=title"),
    ],
)
async def test_a_query_that_does_not_hold_is_refused_by_field(gateway: Gateway, field: str, query: str) -> None:
    answer = await gateway.client.get(f"/api/meetings?{query}", headers=gateway.as_account())
    assert answer.status_code == 422, answer.text
    assert [one["field"] for one in problem(answer)["details"]] == [field]


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize("after", ["-1", "x", str(2**31)])
async def test_an_index_that_no_segment_can_have_is_refused(gateway: Gateway, after: str) -> None:
    who = gateway.as_account()
    meeting = await gateway.new_meeting(who)
    answer = await gateway.client.get(f"/api/meetings/{meeting}/segments?after={after}", headers=who)
    assert answer.status_code == 422, answer.text
    assert [one["field"] for one in problem(answer)["details"]] == ["after"]


def segment(index: int, **changed: Any) -> TranscriptSegment:
    return TranscriptSegment(
        id=ids.new_id(), session_id=UNKNOWN, index=index, revision=1, start_s=index * 2.0, end_s=index * 2.0 + 1.5,
        text=f"sentence {index}", engine="pocketsphinx", quality="draft", **changed,
    )  # fmt: skip


@pytest.mark.req("R-API-1")
async def test_segments_are_read_page_by_page_and_after_an_index(gateway: Gateway) -> None:
    who = gateway.as_account()
    meeting = await gateway.new_meeting(who)
    segments = [segment(0, speaker="Ada", confidence=0.5), *(segment(index) for index in range(1, 6))]
    gateway.meetings.segments[meeting] = segments
    url = f"/api/meetings/{meeting}/segments"
    first = (await gateway.client.get(url, params={"limit": 4}, headers=who)).json()
    assert first["items"][0] == {
        "id": segments[0].id,
        "session_id": UNKNOWN,
        "index": 0,
        "revision": 1,
        "version": 1,
        "speaker": "Ada",
        "start": 0.0,
        "end": 1.5,
        "text": "sentence 0",
        "confidence": 0.5,
        "engine": "pocketsphinx",
        "quality": "draft",
        "edited": [],
        "heard": {"text": None, "speaker": None},
    }
    assert (first["items"][1]["speaker"], first["items"][1]["confidence"]) == (None, None)
    rest = (await gateway.client.get(url, params={"limit": 4, "cursor": first["next_cursor"]}, headers=who)).json()
    assert [one["index"] for one in first["items"] + rest["items"]] == [0, 1, 2, 3, 4, 5]
    assert rest["next_cursor"] is None
    after = (await gateway.client.get(url, params={"after": 3}, headers=who)).json()
    assert [one["index"] for one in after["items"]] == [4, 5]
    assert len((await gateway.client.get(url, params={"after": 0}, headers=who)).json()["items"]) == 5
    assert (await gateway.client.get(url, params={"after": -1}, headers=who)).status_code == 422


@pytest.mark.req("R-API-1")
@pytest.mark.parametrize(
    ("form", "media"),
    [
        ("txt", "text/plain; charset=utf-8"),
        ("md", "text/markdown; charset=utf-8"),
        ("srt", "application/x-subrip; charset=utf-8"),
        ("vtt", "text/vtt; charset=utf-8"),
        ("json", "application/json"),
    ],
)
async def test_a_transcript_is_a_file_of_the_right_kind(gateway: Gateway, form: str, media: str) -> None:
    who = gateway.as_account()
    meeting = await gateway.new_meeting(who, "Über 1/2 des Plans")
    answer = await gateway.client.get(f"/api/meetings/{meeting}/export?format={form}", headers=who)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media
    assert answer.headers["content-disposition"] == (
        f"attachment; filename=\"ber-1-2-des-Plans.{form}\"; filename*=UTF-8''%C3%9Cber%201%202%20des%20Plans.{form}"
    )
    assert answer.content == b"Ada: good morning\nGrace: good morning\n"
    assert (await gateway.client.get(f"/api/meetings/{meeting}/export?format=pdf", headers=who)).status_code == 422


@pytest.mark.req("R-SEC-1")
async def test_a_title_cannot_add_headers_to_its_export(gateway: Gateway) -> None:
    who = gateway.as_account()
    meeting = await gateway.new_meeting(who)
    # As if another way into the service had let it in.
    gateway.meetings.meetings[meeting].title = 'x"\r\nSet-Cookie: a=b\r\n\r\n'
    answer = await gateway.client.get(f"/api/meetings/{meeting}/export", headers=who)
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-disposition"].startswith('attachment; filename="x-Set-Cookie-a-b.txt"; ')
