"""Idempotency keys over the public API, while the service that keeps them is killed."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from verbatim_client import VerbatimClient

from dev.stack import Stack

AT_ONCE = 100
WITHIN_S = 60.0


async def ask(http: httpx2.AsyncClient, key: str, title: str, until_s: float) -> httpx2.Response:
    """Call until there is an answer, as clients do that do not know what became of their call."""
    async with asyncio.timeout(until_s):
        while True:
            try:
                answer = await http.post("/api/meetings", json={"title": title}, headers={"Idempotency-Key": key})
            except httpx2.TransportError:
                answer = None
            if answer is not None and answer.status_code not in {409, 500, 502, 503, 504}:
                return answer
            await asyncio.sleep(0.1)


@pytest.mark.req("R-API-6")
async def test_one_key_creates_one_meeting_while_its_owner_is_killed(stack: Stack, client: VerbatimClient) -> None:
    limits = httpx2.Limits(max_connections=AT_ONCE)
    headers = {"Authorization": f"Bearer {client.access_token}"}
    async with httpx2.AsyncClient(base_url=stack.url, headers=headers, timeout=10, limits=limits) as http:
        asking = asyncio.gather(*(ask(http, "one", "Once", WITHIN_S) for _ in range(AT_ONCE)))
        await asyncio.sleep(0.05)
        stack.kill("meetings")
        await stack.died()
        await stack.restart("meetings")
        answers = await asking
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1, "all get the first answer"
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) <= 1
        assert {answer.headers["etag"] for answer in answers} == {'"1"'}
        assert len([None async for _ in client.meetings()]) == 1

        other = await http.post("/api/meetings", json={"title": "Other"}, headers={"Idempotency-Key": "one"})
        assert other.status_code == 422
        assert other.json()["details"] == [{"field": "Idempotency-Key", "problem": "was used for another request"}]
        same = await http.post(
            "/api/meetings", content=b'{ "title":\n"Once" }',
            headers={"Idempotency-Key": "one", "Content-Type": "application/json"},
        )  # fmt: skip
        assert same.status_code == 201
        assert same.headers["idempotent-replayed"] == "true"
        assert len([None async for _ in client.meetings()]) == 1

        meeting_id = same.json()["id"]
        tasks = [
            await http.post(
                "/api/tasks", json={"title": "Call", "meeting_id": meeting_id}, headers={"Idempotency-Key": "task"}
            )
            for _ in range(2)
        ]
        assert tasks[0].content == tasks[1].content
        assert tasks[1].headers["idempotent-replayed"] == "true"
        for wrong in ("", "two words", "x" * 256):
            refused = await http.post("/api/meetings", json={"title": "x"}, headers={"Idempotency-Key": wrong})
            assert refused.status_code == 422
            assert refused.json()["details"][0]["field"].lower() == "idempotency-key"
