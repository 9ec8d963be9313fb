"""Idempotency keys as clients send them; that they hold is tested where they are kept."""

from __future__ import annotations

import pytest

from services.gateway.tests.conftest import Gateway, problem

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.req("R-API-6")]


async def test_same_call_with_its_key_gets_the_first_answer(gateway: Gateway) -> None:
    who = gateway.as_account() | {"Idempotency-Key": "one", "Content-Type": "application/json"}
    first = await gateway.client.post("/api/meetings", content=b'{"title": "Once", "language": "en"}', headers=who)
    again = await gateway.client.post("/api/meetings", content=b'{"language":"en",\n "title":"Once"}', headers=who)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert first.headers["etag"] == again.headers["etag"]
    assert first.headers["location"] == again.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    other = await gateway.client.post("/api/meetings", content=b'{"title": "Other"}', headers=who)
    assert other.status_code == 422
    problem(other)


@pytest.mark.parametrize("wrong", ["", "two words", "x" * 256, "ümlaut"])
async def test_key_that_is_none_is_refused(gateway: Gateway, wrong: str) -> None:
    headers = {**gateway.as_account(), "Idempotency-Key": wrong.encode()}
    answer = await gateway.client.post("/api/meetings", json={"title": "Once"}, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 422
    assert problem(answer)["details"][0]["field"].lower() == "idempotency-key"


async def test_strangers_are_turned_away_before_their_key_is_looked_at(gateway: Gateway) -> None:
    answer = await gateway.client.post("/api/meetings", json={"title": "x"}, headers={"Idempotency-Key": "two words"})
    assert answer.status_code == 401


async def test_an_api_key_that_is_asked_for_twice_is_one(gateway: Gateway) -> None:
    who = gateway.as_account() | {"Idempotency-Key": "one-api-key"}
    first = await gateway.client.post("/api/auth/api-keys", json={"name": "build"}, headers=who)
    again = await gateway.client.post("/api/auth/api-keys", json={"name": "build"}, headers=who)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
