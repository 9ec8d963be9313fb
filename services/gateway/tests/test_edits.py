"""What people write into transcripts: segments and names of speakers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from verbatim.meetings.v1.meetings_pb2 import TranscriptSegment

from chassis import ids
from services.gateway.tests.conftest import Gateway, problem
from services.gateway.tests.fakes import SESSION

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.req("R-API-1")]


async def new_transcript(gateway: Gateway, who: dict[str, str]) -> tuple[str, str]:
    """Return the path of a meeting with one segment, and that of the segment."""
    meeting_id, segment_id = await gateway.new_meeting(who), ids.new_id()
    gateway.meetings.segments[meeting_id] = [
        TranscriptSegment(
            id=segment_id, meeting_id=meeting_id, session_id=SESSION, index=0, revision=1, speaker="Speaker 1",
            start_s=0.0, end_s=1.5, text="we ship on fryday", engine="pocketsphinx", quality="draft",
        )
    ]  # fmt: skip
    path = f"/api/meetings/{meeting_id}"
    return path, f"{path}/segments/{segment_id}"


@pytest.mark.req("R-API-5")
async def test_text_is_corrected_by_its_version_and_given_back(gateway: Gateway) -> None:
    who = gateway.as_account()
    path, url = await new_transcript(gateway, who)
    read = await gateway.client.get(url, headers=who)
    assert (read.headers["etag"], read.json()["version"], read.json()["edited"]) == ('"1"', 1, [])
    assert (await gateway.client.get(f"{path}/segments", headers=who)).json()["items"] == [read.json()]

    sent = {"text": "We ship on <b>Friday</b>."}
    assert problem(await gateway.client.patch(url, json=sent, headers=who))["error"] == "precondition_required"
    done = await gateway.client.patch(url, json=sent, headers=who | {"If-Match": '"1"'})
    assert (done.status_code, done.headers["etag"]) == (200, '"2"')
    told = {"text": "We ship on Friday.", "revision": 2, "version": 2, "edited": ["text"], "quality": "draft"}
    assert told.items() <= done.json().items()
    assert done.json()["heard"] == {"text": "we ship on fryday", "speaker": None}

    late = await gateway.client.patch(url, json={"speaker": "Ada"}, headers=who | {"If-Match": '"1"'})
    assert (late.status_code, problem(late)["version"]) == (412, 2)
    back = await gateway.client.patch(url, json={"text": None}, headers=who | {"If-Match": '"2"'})
    assert (back.json()["text"], back.json()["edited"]) == ("we ship on fryday", [])


@pytest.mark.req("R-API-5")
async def test_a_speaker_is_renamed_by_the_version_of_the_meeting(gateway: Gateway) -> None:
    who = gateway.as_account()
    path, url = await new_transcript(gateway, who)
    sent = {"speaker": "Speaker 1", "name": "Ada"}
    assert (await gateway.client.patch(f"{path}/speakers", json=sent, headers=who)).status_code == 428
    done = await gateway.client.patch(f"{path}/speakers", json=sent, headers=who | {"If-Match": '"1"'})
    assert (done.status_code, done.headers["etag"], done.json()["version"]) == (200, '"2"', 2)
    found = (await gateway.client.get(url, headers=who)).json()
    assert (found["speaker"], found["heard"], found["edited"]) == ("Ada", {"text": None, "speaker": "Speaker 1"}, [])
    late = await gateway.client.patch(f"{path}/speakers", json=sent, headers=who | {"If-Match": '"1"'})
    assert (late.status_code, problem(late)["version"]) == (412, 2)


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("where", "field", "sent"),
    [
        ("segment", "body", {}),
        ("segment", "text", {"text": ""}),
        ("segment", "text", {"text": "<p></p>"}),
        ("segment", "text", {"text": "x" * 10_001}),
        ("segment", "speaker", {"speaker": " "}),
        ("segment", "engine", {"engine": "mine"}),
        ("speakers", "speaker", {"name": "Ada"}),
        ("speakers", "speaker", {"speaker": "\ud800", "name": "Ada"}),
        ("speakers", "name", {"speaker": None, "name": None}),
        ("speakers", "name", {"speaker": None, "name": "x" * 101}),
    ],
)
async def test_a_change_that_does_not_hold_is_refused_by_field(
    gateway: Gateway, where: str, field: str, sent: dict[str, Any]
) -> None:
    who = gateway.as_account()
    path, url = await new_transcript(gateway, who)
    answer = await gateway.client.patch(
        url if where == "segment" else f"{path}/speakers",
        content=json.dumps(sent),  # half a character is written as six
        headers=who | {"If-Match": '"1"', "Content-Type": "application/json"},
    )
    assert answer.status_code == 422, answer.text
    assert [one["field"] for one in problem(answer)["details"]] == [field]


@pytest.mark.req("R-AUTH-2")
async def test_what_is_anothers_is_not_found(gateway: Gateway) -> None:
    path, url = await new_transcript(gateway, gateway.as_account())
    stranger = gateway.as_account() | {"If-Match": '"1"'}
    for answer in (
        await gateway.client.get(url, headers=stranger),
        await gateway.client.patch(url, json={"text": "mine"}, headers=stranger),
        await gateway.client.patch(f"{path}/speakers", json={"speaker": None, "name": "me"}, headers=stranger),
    ):
        assert answer.status_code == 404
    (segment,) = gateway.meetings.segments[path.rpartition("/")[2]]
    assert segment.text == "we ship on fryday"
