"""Services know each other: by certificate over gRPC, by permissions at the broker, by role in the databases, by rules
in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2
import nats
import nats.errors
import nats.js.errors
import psycopg
import pytest
import pytest_asyncio
import redis.asyncio as redis
from nats.aio.client import Client
from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import make_url
from verbatim_client import VerbatimClient

from chassis.tests.authority import Authority
from dev.plan import SERVICES, Plan
from dev.ports import Ports
from dev.stack import Stack
from tests.e2e.speech import recording, speak
from tests.limits import ONE_ENGINE

pytestmark = [pytest.mark.req("R-SEC-1", "R-SVC-6"), pytest.mark.timeout(300)]

REFUSED = "Permissions Violation"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(
    stack_folder: Path, nats_binary: str | None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """A platform whose services demand certificates."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    env = {}
    for service in SERVICES:
        files = authority.issue(service)
        named = {"CERT": files.certificate, "KEY": files.key, "CA": files.authority}
        env[service] = {f"GRPC_TLS_{name}": str(file) for name, file in named.items()}
    env["transcriber"] |= ONE_ENGINE
    stack = Stack(Plan(stack_folder / "identity", Ports.free(), extra_env=env, nats_server=nats_binary))
    await stack.start()
    yield stack
    await stack.stop()


@asynccontextmanager
async def as_service(stack: Stack, service: str) -> AsyncIterator[tuple[Client, list[str]]]:
    """Connect to the broker as one of the services; the list is what the broker complains of."""
    complaints: list[str] = []

    async def complain(fault: Exception) -> None:
        complaints.append(str(fault))

    client = await nats.connect(
        stack.env(service)["NATS_URL"], error_cb=complain, allow_reconnect=False, inbox_prefix=f"_INBOX_{service}"
    )
    try:
        yield client, complaints
    finally:
        await client.close()


async def test_the_platform_works_with_certificates_and_within_its_permissions(guarded: Stack) -> None:
    async with VerbatimClient(guarded.url) as client:
        await client.register("known@verbatim.example", "known", "a long enough password")
        await client.login("known@verbatim.example", "a long enough password")
        events = await speak(client, recording(8.0))
        assert events[-1]["type"] == "finished"
        assert events[-1]["coverage"] == 1.0
        assert await client.segments(events[-1]["meeting_id"])
    assert REFUSED not in guarded.log("nats").read_text()


@pytest.mark.parametrize(
    ("service", "subject"),
    [
        ("gateway", "transcript.some-session"),
        ("gateway", "audio.some-session"),
        ("insights", "transcript.some-session"),
        ("insights", "events.account.revoked"),
        ("meetings", "transcript.some-session"),
        ("janitor", "transcript.some-session"),
        ("transcriber", "events.meeting.deleted"),
        ("transcriber", "$KV.controls.breaker"),
        ("gateway", "$JS.API.STREAM.PURGE.AUDIO"),
        ("meetings", "$JS.API.STREAM.PURGE.TRANSCRIPT"),
        ("janitor", "$JS.API.STREAM.DELETE.TRANSCRIPT"),
    ],
)
async def test_no_service_does_at_the_broker_what_is_anothers(guarded: Stack, service: str, subject: str) -> None:
    async with as_service(guarded, service) as (client, complaints):
        with pytest.raises(nats.errors.TimeoutError):
            await client.request(subject, b"{}", timeout=0.5)
        await client.flush(timeout=5)
        assert any(REFUSED.lower() in one.lower() for one in complaints)


async def test_what_is_its_own_is_let_through(guarded: Stack) -> None:
    """The control of the test above: it is the permissions that refuse."""
    async with as_service(guarded, "transcriber") as (client, complaints):
        ack = await client.jetstream().publish("audio.some-session", bytes(16), timeout=5)
        assert ack.stream == "AUDIO"
        # It was not: every upload waited for ever for its file to be taken away.
        with suppress(nats.js.errors.NotFoundError):
            await client.jetstream().purge_stream("OBJ_UPLOADS", subject="$O.UPLOADS.C.nothing")
        assert complaints == []


async def test_answers_to_a_service_are_heard_by_nobody_else(guarded: Stack) -> None:
    async with as_service(guarded, "gateway") as (client, complaints):
        await client.subscribe("_INBOX_meetings.>")
        await client.flush(timeout=5)
        async with asyncio.timeout(10):
            while not complaints:
                await client.flush(timeout=5)
        assert "_inbox_meetings" in complaints[0].lower()


async def test_a_wrong_password_opens_nothing(guarded: Stack) -> None:
    url = f"nats://gateway:guessed@127.0.0.1:{guarded.plan.ports.of('nats')}"
    with pytest.raises(nats.errors.Error):
        await nats.connect(url, allow_reconnect=False, connect_timeout=5)


async def test_the_gateway_counts_in_redis_and_does_nothing_else_there(guarded: Stack) -> None:
    async with redis.Redis.from_url(guarded.plan.redis_url) as operator, httpx2.AsyncClient() as client:
        async with asyncio.timeout(60):
            # Memory counts while Redis is slow.
            while not [key async for key in operator.scan_iter("limit:*")]:
                await client.get(f"{guarded.url}/api/meetings")
        await operator.set("another", "1")
    async with redis.Redis.from_url(guarded.env("gateway")["REDIS_URL"]) as gateway:
        assert await gateway.set("limit:here", "1", ex=1)
        for forbidden in (
            gateway.get("another"),
            gateway.flushall(),
            gateway.config_get("*"),
            gateway.keys("*"),
            gateway.acl_list(),
            gateway.eval("return redis.call('GET', 'another')", 0),
        ):
            with pytest.raises(redis.ResponseError, match=r"(?i)no permissions|can't run|ACL failure"):
                await forbidden


async def test_a_guessed_password_counts_nothing(guarded: Stack) -> None:
    port = guarded.plan.ports.of("redis")
    async with redis.Redis(port=port, username="gateway", password="guessed") as stranger:
        with pytest.raises(redis.AuthenticationError):
            await stranger.ping()


async def test_no_service_enters_anothers_database(guarded: Stack) -> None:
    for service, other in (("meetings", "insights"), ("insights", "meetings")):
        role = make_url(guarded.database_url(service))
        conninfo = make_conninfo(
            host=role.host, port=role.port, user=role.username, password=role.password, connect_timeout=5
        )
        async with await psycopg.AsyncConnection.connect(conninfo, dbname=service):
            pass
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            await psycopg.AsyncConnection.connect(conninfo, dbname=other)
