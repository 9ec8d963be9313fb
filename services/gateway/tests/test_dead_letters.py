"""`/api/admin/dlq`, with a real broker behind it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from chassis import bus, dead_letters, ids
from chassis.dead_letters import DLQ
from chassis.jobs import JOBS
from chassis.tests.servers import NatsServer
from services.gateway.tests.conftest import Gateway, problem

pytestmark = [pytest.mark.req("R-JOB-2"), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module")
async def place(own_gateway: Gateway, nats_server: NatsServer) -> AsyncIterator[Gateway]:
    async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
        own_gateway.connection = broker
        for stream in (DLQ, JOBS):
            await broker.declare(stream)
        yield own_gateway


def admin(gateway: Gateway) -> dict[str, str]:
    return {"Authorization": f"Bearer {gateway.signer.token(sub=ids.new_id(), role='admin')}"}


async def bury(gateway: Gateway, number: int, kind: str = "sum") -> str:
    letter = dead_letters.letter(
        ids.new_id(), kind=kind, subject=f"jobs.{kind}", payload=b'{"job_id":"%d"}' % number,
        error="The model does not answer.", history=[{"attempt": 1, "error": "No."}], about={"job_id": str(number)},
    )  # fmt: skip
    await dead_letters.publish(gateway.letters(), letter)
    return letter.id


async def listed(gateway: Gateway, **query: Any) -> dict[str, Any]:
    answer = await gateway.client.get("/api/admin/dlq", params=query, headers=admin(gateway))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def jobs_waiting(gateway: Gateway) -> int:
    return int((await gateway.letters().js.stream_info(JOBS.name)).state.messages)


async def test_letters_are_listed_in_pages_and_by_kind(place: Gateway) -> None:
    letters = [await bury(place, number, "sum" if number % 2 else "other") for number in range(5)]
    first = await listed(place, limit=3)
    assert [item["id"] for item in first["items"]] == letters[:3]
    second = await listed(place, limit=3, cursor=first["next_cursor"])
    assert [item["id"] for item in second["items"]] == letters[3:]
    assert second["next_cursor"] is None
    assert [item["id"] for item in (await listed(place, kind="sum"))["items"]] == letters[1::2]
    item = first["items"][0]
    assert (item["kind"], item["error"], item["about"]) == ("other", "The model does not answer.", {"job_id": "0"})
    assert item["retryable"] and item["history"]
    assert "payload" not in item


async def test_a_letter_is_read_retried_and_gone(place: Gateway) -> None:
    letter_id = await bury(place, 7)
    read = (await place.client.get(f"/api/admin/dlq/{letter_id}", headers=admin(place))).json()
    assert base64.b64decode(read["payload"]) == b'{"job_id":"7"}'
    assert read["subject"] == "jobs.sum"
    answer = await place.client.post(f"/api/admin/dlq/{letter_id}/retry", headers=admin(place))
    assert (answer.status_code, answer.json()["id"]) == (202, letter_id)
    assert await jobs_waiting(place) == 1
    again = await place.client.post(f"/api/admin/dlq/{letter_id}/retry", headers=admin(place))
    assert problem(again)["error"] == "not_found"
    assert (await listed(place))["items"] == []


async def test_all_are_retried_or_one_is_discarded(place: Gateway) -> None:
    letters = [await bury(place, number) for number in range(3)]
    answer = await place.client.delete(f"/api/admin/dlq/{letters[0]}", headers=admin(place))
    assert answer.status_code == 204
    assert await jobs_waiting(place) == 0
    await place.letters().publish("dlq.strange", b"?", message_id="strange")
    strange = await place.client.post("/api/admin/dlq/strange/retry", headers=admin(place))
    assert problem(strange)["error"] == "conflict"
    answer = await place.client.post("/api/admin/dlq/retry", json={}, headers=admin(place))
    assert answer.json() == {"retried": 2, "kept": 1}
    assert await jobs_waiting(place) == 2


@pytest.mark.req("R-AUTH-2")
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/x"), ("POST", "/x/retry"), ("POST", "/retry"), ("DELETE", "/x")],
)
async def test_it_is_for_those_who_look_after_the_platform(place: Gateway, method: str, path: str) -> None:
    body: dict[str, Any] | None = {} if path == "/retry" else None
    user = await place.client.request(method, f"/api/admin/dlq{path}", headers=place.as_account(), json=body)
    assert (user.status_code, problem(user)["error"]) == (403, "forbidden")
    nobody = await place.client.request(method, f"/api/admin/dlq{path}", json=body)
    assert nobody.status_code == 401


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "?cursor=abc"),
        ("GET", "?cursor=-1"),
        ("GET", "?kind=a%20b"),
        ("GET", "/a%20b"),
        ("GET", "?limit=0"),
    ],
)
async def test_what_makes_no_sense_is_refused(place: Gateway, request_: tuple[str, str]) -> None:
    method, path = request_
    answer = await place.client.request(method, f"/api/admin/dlq{path}", headers=admin(place))
    assert (answer.status_code, problem(answer)["error"]) == (422, "validation_failed")


async def test_without_a_broker_it_says_so(own_gateway: Gateway) -> None:
    answer: httpx2.Response = await own_gateway.client.get("/api/admin/dlq", headers=admin(own_gateway))
    assert (answer.status_code, problem(answer)["error"]) == (503, "service_unavailable")
