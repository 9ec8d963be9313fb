"""Webhooks from the command line to a receiver, and what is left when their account is deleted: nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psycopg
import pytest
from standardwebhooks import Webhook as Verifier

from chassis import bus
from dev.stack import Stack
from services.meetings.tests.receiver import Receiver, receiving
from tests.corpus import recordings as make
from tests.e2e.conftest import NewClient
from tests.e2e.speech import recording
from tests.e2e.test_cli import Cli
from tests.e2e.test_uploads import stored


@pytest.mark.req("R-API-7", "R-UI-2", "R-AUTH-1")
@pytest.mark.timeout(600)
async def test_a_finished_recording_is_told_signed_and_an_account_that_is_deleted_leaves_nothing(
    stack: Stack, new_client: NewClient, tmp_path: Path
) -> None:
    client = await new_client()
    account = await client.me()
    before = await stored(stack)
    cli = Cli(stack.url, tmp_path)
    await cli.login(str(account["email"]))
    async with receiving(Receiver()) as receiver:
        made = await cli.run("webhooks", "create", receiver.url(), "--description", "ours", "--json")
        assert made.code == 0, made.err
        [webhook] = made.objects
        file = tmp_path / "Standup.wav"
        file.write_bytes(make.wav(recording(15.0)))
        sent = await client.upload(file)
        async with asyncio.timeout(200):
            job = await client.job_done(sent["job_id"])
        assert job["status"] == "completed", job
        await receiver.until(2, within_s=120)
        told = {body["type"]: body["data"] for body in (
            Verifier(webhook["secret"]).verify(one.body, one.headers) for one in receiver.got
        )}  # fmt: skip
        assert told["meeting.completed"]["meeting_id"] == sent["meeting_id"]
        assert told["insights.ready"]["meeting_id"] == sent["meeting_id"]
        tested = await cli.run("webhooks", "test", webhook["id"], "--json")
        assert tested.objects[0]["event"] == "webhook.test"
        await receiver.until(3, within_s=120)

        async def all_taken() -> bool:
            listed = await cli.run("webhooks", "deliveries", webhook["id"], "--json")
            return [one["status"] for one in listed.objects] == ["completed"] * 3

        async with asyncio.timeout(120):
            while not await all_taken():
                await asyncio.sleep(0.2)
        used = json.loads((await cli.run("usage", "--json")).out)
        assert used["audio_seconds"] == pytest.approx(15.0, abs=1.0)

    names = [account["id"], account["email"], sent["meeting_id"], webhook["secret"].removeprefix("whsec_")]
    spoken = " ".join(segment["text"] for segment in await client.segments(sent["meeting_id"]))
    assert len(spoken) > 20
    logs = [stack.log(name).read_text() for name in ("gateway", "meetings", "insights", "transcriber", "janitor")]
    for log in logs:
        assert account["email"] not in log
        assert webhook["secret"].removeprefix("whsec_") not in log
        assert spoken[:20] not in log
    await client.delete_account()
    left: list[str] = []
    try:
        async with asyncio.timeout(60):
            while left := await left_of(stack, names):
                await asyncio.sleep(0.5)
    except TimeoutError:
        pytest.fail(f"still in {left}")
    async with bus.connect(stack.plan.nats_url, name="looks", replicas=1) as broker:
        for stream, subject in (("TRANSCRIPT", "transcript.>"), ("AUDIO", "audio.>")):
            kept = (await broker.js.stream_info(stream, subjects_filter=subject)).state.subjects or {}
            assert not any(sent["job_id"] in one or sent["meeting_id"] in one for one in kept)
    assert await stored(stack) <= before


# What tells others that it is gone, and is forgotten by itself: events that are published, ids that do not come back.
FOR_A_WHILE = {"outbox", "inbox", "tombstones", "revocations", "departed"}
# Here such rows stand among the others: a meeting's id, and nobody's.
BURIED_HERE = dict.fromkeys(("meeting_figures", "task_figures"), "WHERE deleted_at IS NULL OR owner_id IS NOT NULL")


async def left_of(stack: Stack, names: list[str]) -> list[str]:
    """Return the tables of both databases in which a name stands."""

    def look() -> list[str]:
        found = []
        for service in ("meetings", "insights"):
            with psycopg.connect(stack.database_url(service).replace("+psycopg", "")) as connection:
                tables = connection.execute(
                    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
                ).fetchall()
                for (table,) in tables:
                    query = f'SELECT t::text FROM "{table}" t {BURIED_HERE.get(table, "")}'  # noqa: S608
                    rows = connection.execute(query).fetchall()
                    if table not in FOR_A_WHILE and any(name in row for (row,) in rows for name in names):
                        found.append(f"{service}.{table}")
        return found

    return await asyncio.to_thread(look)
