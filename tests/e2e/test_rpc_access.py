"""Services called directly: only by services, and never for what is another's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from verbatim.insights.v1 import analytics_pb2, insights_pb2
from verbatim.insights.v1 import usage_pb2 as model_usage_pb2
from verbatim.meetings.v1 import (
    accounts_pb2,
    api_keys_pb2,
    logins_pb2,
    meetings_pb2,
    tasks_pb2,
    transcripts_pb2,
    uploads_pb2,
    usage_pb2,
    webhooks_pb2,
)
from verbatim.transcriber.v1 import recordings_pb2, transcriber_pb2

from chassis import ids
from chassis.errors import AppError
from chassis.rpc import Identity, Peer, peer
from dev.stack import Stack
from tests.e2e.access import World, world

FILES: tuple[Any, ...] = (
    accounts_pb2, api_keys_pb2, logins_pb2, meetings_pb2, tasks_pb2, uploads_pb2, insights_pb2, analytics_pb2,
    recordings_pb2, transcriber_pb2, usage_pb2, model_usage_pb2, webhooks_pb2, transcripts_pb2,
)  # fmt: skip
WITHIN_S = 20.0
# Fields that say what is to be done, as far as a call needs them to get to the owner.
WORDS: dict[str, Any] = {
    "title": "Taken", "limit": 10, "expected_version": 1, "container": "wav", "file_name": "a.wav", "size_bytes": 16044,
    "current_password": "guessed wrongly", "new_password": "a new password", "name": "key", "scopes": ["read"],
    "format": 1, "url": "https://hooks.matrix.invalid/mine", "events": ["insights.ready"], "from": "2026-01-01",
    "to": "2026-02-01", "time_zone": "UTC", "summary": "Taken",
}  # fmt: skip


def table() -> dict[str, str]:
    """Return what each method answers to the wrong owner."""
    lines = Path(__file__).with_name("rpc_access.txt").read_text().splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


def methods() -> dict[str, MethodDescriptor]:
    """Return every method of every contract."""
    return {
        f"{service.full_name}/{method.name}": method
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


METHODS, TABLE = methods(), table()
OWNED = [name for name, answer in TABLE.items() if answer not in {"nobody", "made"}]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def made(stack: Stack) -> AsyncIterator[World]:
    async with world(stack) as (made, _):
        yield made


def address(stack: Stack, method: str) -> str:
    """Return where the service of a method listens."""
    return stack.plan.grpc_addresses(method.split(".")[1])[0]


@pytest.mark.req("R-AUTH-2")
def test_no_method_is_missing_from_the_table() -> None:
    assert set(METHODS) == set(TABLE)


@pytest.mark.req("R-SEC-1", "R-SVC-6")
@pytest.mark.parametrize("shown", ["nothing", "a key of somebody else", "a person's token", "a token for people"])
async def test_only_services_of_this_installation_are_answered(stack: Stack, made: World, shown: str) -> None:
    tokens = {
        "a key of somebody else": Identity("gateway", "another key that nobody here has ........").token(),
        "a person's token": made.logins["admin"]["access_token"],
        "a token for people": f"Bearer {made.logins['admin']['access_token']}",
    }
    metadata = (("authorization", tokens[shown]),) if shown in tokens else ()
    for name, method in METHODS.items():
        async with grpc.aio.insecure_channel(address(stack, name)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _bare(channel, name, method, metadata)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, name


@pytest.mark.req("R-AUTH-2")
@pytest.mark.parametrize("name", OWNED)
async def test_what_is_anothers_is_not_found_by_a_service_either(stack: Stack, made: World, name: str) -> None:
    wanted: Any = GetMessageClass(METHODS[name].input_type)()
    fields = wanted.DESCRIPTOR.fields_by_name
    things = await made.things(" ".join(f"{{{field}}}" for field in fields))
    other = {"owner_id": made.accounts["other"]["id"], "account_id": made.accounts["other"]["id"]}
    for field, value in (WORDS | things | other).items():
        if field not in fields or (field == "events" and fields[field].message_type):
            continue
        if isinstance(value, list):
            getattr(wanted, field).extend(value)
        elif fields[field].message_type is None:
            setattr(wanted, field, value)
    if name.endswith("/BeginUpload"):
        wanted.upload_id = ids.new_id()
    if name.endswith("/CreateTask"):
        wanted.task_id = ids.new_id()
    async with peer(address(stack, name), Identity("gateway", stack.env("gateway")["SERVICE_AUTH_KEY"])) as service:
        told = await _told(service, name, wanted)
    if TABLE[name] == "nothing":
        mine = {value for key, value in things.items() if key.endswith("_id")} - {"whisper-1", *other.values()}
        assert not [one for one in mine | {made.accounts["owner"]["id"]} if one in told], told
    else:
        assert told == TABLE[name]


async def _told(service: Peer, name: str, wanted: Any) -> str:
    """Return the kind of the refusal, or the answer as text."""
    answer_type = GetMessageClass(METHODS[name].output_type)
    path = f"/{name}"
    try:
        if METHODS[name].server_streaming:
            stream: Any = service.channel.unary_stream(path, type(wanted).SerializeToString, answer_type.FromString)
            return "".join([str(one) async for one in service.stream(stream, wanted, timeout_s=WITHIN_S)])
        unary: Any = service.channel.unary_unary(path, type(wanted).SerializeToString, answer_type.FromString)
        return str(await service.call(unary, wanted, timeout_s=WITHIN_S))
    except AppError as refusal:
        return refusal.kind.value


async def _bare(channel: grpc.aio.Channel, name: str, method: MethodDescriptor, metadata: Any) -> None:
    if method.client_streaming:

        async def nothing() -> AsyncIterator[bytes]:
            return
            yield b""

        both: Any = channel.stream_stream(f"/{name}")
        async for _ in both(nothing(), timeout=WITHIN_S, metadata=metadata):
            pass
    elif method.server_streaming:
        stream: Any = channel.unary_stream(f"/{name}")
        async for _ in stream(b"", timeout=WITHIN_S, metadata=metadata):
            pass
    else:
        unary: Any = channel.unary_unary(f"/{name}")
        await unary(b"", timeout=WITHIN_S, metadata=metadata)
