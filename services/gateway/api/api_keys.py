"""`/api/auth/api-keys`: keys for programs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, Field
from verbatim.meetings.v1 import api_keys_pb2 as pb
from verbatim.meetings.v1.api_keys_pb2_grpc import ApiKeysServiceStub

from chassis.errors import Kind
from services.gateway.auth import Person
from services.gateway.entrance import Entrance
from services.gateway.errors import BODY, documented
from services.gateway.resources import REPLAYED, Claimed, Id, Name, Page, Paging, Sent, Until, moment, tag_replayed

Scope = Literal["read", "write", "stream", "admin"]


class NewApiKey(Sent):
    """A key that is wanted."""

    name: Name = Field(description="What it is for.", examples=["build server"])
    scopes: list[Scope] = Field(
        ["read", "write", "stream"],
        min_length=1,
        max_length=4,
        description="`read`: GET. `write`: the other methods. `stream`: live audio. `admin`: what admins may do.",
    )
    expires_at: Until | None = Field(None, description="When it ends; without, when it is deleted.")


class ApiKey(BaseModel):
    """A key, without what opens anything."""

    id: str
    name: str
    prefix: str = Field(description="Its first characters, to know it again by.", examples=["vbk_3qX7aB"])
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")

    @classmethod
    def of(cls, key: pb.ApiKey) -> ApiKey:
        return cls(**_fields(key))


class MadeApiKey(ApiKey):
    """A key as it is shown this once."""

    key: str = Field(description="Send it as `Authorization: Bearer`. It cannot be read again.")


def routes(entrance: Entrance) -> APIRouter:
    """Return the routes of `/api/auth/api-keys`. No key opens them: it could make itself another."""
    router = APIRouter(prefix="/api/auth/api-keys", tags=["accounts"])
    meetings, timeout_s = entrance.meetings, entrance.timeout_s
    keys = ApiKeysServiceStub(meetings.channel)

    @router.post(
        "",
        status_code=201,
        responses={**documented(*BODY, Kind.UNAUTHORIZED, Kind.NOT_FOUND, Kind.CONFLICT), 201: {"headers": REPLAYED}},
    )
    async def create_api_key(who: Person, body: NewApiKey, claim: Claimed, response: Response) -> MadeApiKey:
        """Make an API key. It is shown in this answer only. An account has fifty at most."""
        wanted = pb.CreateApiKeyRequest(account_id=who.account_id, name=body.name, scopes=body.scopes, claim=claim)
        if body.expires_at is not None:
            wanted.expires_at.CopyFrom(_stamp(body.expires_at))
        answer = await meetings.call(keys.CreateApiKey, wanted, timeout_s=timeout_s)
        tag_replayed(response, answer.replayed)
        return MadeApiKey(**_fields(answer.api_key), key=answer.key)

    @router.get("", responses=documented(Kind.UNAUTHORIZED, Kind.VALIDATION_FAILED))
    async def list_api_keys(who: Person, paging: Annotated[Paging, Query()]) -> Page[ApiKey]:
        """List your API keys, newest first."""
        wanted = pb.ListApiKeysRequest(account_id=who.account_id, limit=paging.limit, cursor=paging.cursor or "")
        answer = await meetings.call(keys.ListApiKeys, wanted, timeout_s=timeout_s)
        return Page(items=[ApiKey.of(key) for key in answer.api_keys], next_cursor=answer.next_cursor or None)

    @router.delete(
        "/{key_id}",
        status_code=204,
        responses=documented(Kind.UNAUTHORIZED, Kind.NOT_FOUND, Kind.VALIDATION_FAILED),
    )
    async def delete_api_key(key_id: Id, who: Person) -> None:
        """Delete an API key: it opens nothing any more, and what is open with it is closed."""
        wanted = pb.DeleteApiKeyRequest(account_id=who.account_id, key_id=key_id)
        await meetings.call(keys.DeleteApiKey, wanted, timeout_s=timeout_s)
        await entrance.news.look()

    return router


def _fields(key: pb.ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "created_at": moment(key.created_at),
        "expires_at": moment(key.expires_at) if key.HasField("expires_at") else None,
        "last_used_at": moment(key.last_used_at) if key.HasField("last_used_at") else None,
    }


def _stamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
