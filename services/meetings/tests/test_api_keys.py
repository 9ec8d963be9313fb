"""API keys: made once, shown once, used until they expire or are deleted."""

from __future__ import annotations

import datetime as dt

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from verbatim.idempotency.v1.claim_pb2 import Claim
from verbatim.meetings.v1 import api_keys_pb2 as pb

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.idempotency import IdempotencyKeys
from chassis.postgres import Database
from services.meetings.accounts import Account, AccountChange
from services.meetings.accounts_api import ApiKeysApi
from services.meetings.accounts_store import AccountsStore
from services.meetings.api_keys import KEYS_MAX, PREFIX
from services.meetings.api_keys_store import ApiKeysStore
from services.meetings.columns import METADATA
from services.meetings.revocations import Revoked, revoked_since
from services.meetings.tests.conftest import Calendar

ALL = ["read", "write", "stream"]


@pytest.fixture
def api(api_keys: ApiKeysStore, accounts: AccountsStore, keys: IdempotencyKeys, calendar: Calendar) -> ApiKeysApi:
    return ApiKeysApi(api_keys, accounts, keys, b"a secret that only the service has", calendar)


@pytest.fixture
async def ann(accounts: AccountsStore) -> Account:
    return await accounts.add(ids.new_id(), "ann@example.com", "ann", "no hash")


async def made(api: ApiKeysApi, owner: Account, *, scopes: list[str] | None = None, **fields: object) -> str:
    request = pb.CreateApiKeyRequest(account_id=owner.id, name="build", scopes=scopes or ALL, **fields)  # type: ignore[arg-type]
    return (await api.CreateApiKey(request, None)).key


async def checked(api: ApiKeysApi, key: str) -> pb.CheckApiKeyResponse:
    return await api.CheckApiKey(pb.CheckApiKeyRequest(key=key), None)


async def refused(call: object) -> AppError:
    with pytest.raises(AppError) as caught:
        await call  # type: ignore[misc]
    return caught.value


@pytest.mark.req("R-AUTH-1")
async def test_key_is_shown_once_and_kept_as_a_hash(api: ApiKeysApi, ann: Account, database: Database) -> None:
    key = await made(api, ann)
    assert key.startswith(PREFIX)
    assert len(key) > 40
    assert key != await made(api, ann)
    async with database.engine.begin() as connection:
        for table in METADATA.sorted_tables:
            for row in await connection.execute(table.select()):
                assert key not in str(row), table
    listed = await api.ListApiKeys(pb.ListApiKeysRequest(account_id=ann.id), None)
    assert len(listed.api_keys) == 2
    assert key not in str(listed)
    assert listed.api_keys[1].prefix == key[:10]


@pytest.mark.req("R-AUTH-1", "R-API-6")
async def test_key_that_is_asked_for_twice_is_one_and_stored_nowhere(
    api: ApiKeysApi, ann: Account, database: Database
) -> None:
    claim = Claim(key="k", fingerprint=b"asked")
    first = await api.CreateApiKey(pb.CreateApiKeyRequest(account_id=ann.id, name="b", scopes=ALL, claim=claim), None)
    again = await api.CreateApiKey(pb.CreateApiKeyRequest(account_id=ann.id, name="b", scopes=ALL, claim=claim), None)
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.key, again.api_key) == (first.key, first.api_key)
    assert (await checked(api, first.key)).account.id == ann.id
    listed = await api.ListApiKeys(pb.ListApiKeysRequest(account_id=ann.id), None)
    assert len(listed.api_keys) == 1
    async with database.engine.begin() as connection:
        for table in METADATA.sorted_tables:
            for row in await connection.execute(table.select()):
                assert first.key not in str(row), table
                assert first.key.encode() not in b"".join(one for one in row if isinstance(one, bytes)), table
    other = Claim(key="k", fingerprint=b"something else")
    refusal = await refused(
        api.CreateApiKey(pb.CreateApiKeyRequest(account_id=ann.id, name="c", scopes=ALL, claim=other), None)
    )
    assert refusal.kind is Kind.VALIDATION_FAILED


@pytest.mark.req("R-AUTH-1")
async def test_key_names_its_account_and_scopes_and_notes_its_use(
    api: ApiKeysApi, ann: Account, calendar: Calendar
) -> None:
    key = await made(api, ann, scopes=["stream", "read", "read"])
    answer = await checked(api, key)
    assert (answer.account.id, answer.account.role) == (ann.id, "user")
    assert list(answer.api_key.scopes) == ["read", "stream"]
    listed = await api.ListApiKeys(pb.ListApiKeysRequest(account_id=ann.id), None)
    assert listed.api_keys[0].last_used_at.ToDatetime(dt.UTC) == calendar.now
    used_at = calendar.now
    calendar.wait(seconds=30)
    await checked(api, key)
    listed = await api.ListApiKeys(pb.ListApiKeysRequest(account_id=ann.id), None)
    assert listed.api_keys[0].last_used_at.ToDatetime(dt.UTC) == used_at


@pytest.mark.req("R-AUTH-1")
async def test_key_that_is_wrong_expired_deleted_or_of_a_disabled_account_opens_nothing(
    api: ApiKeysApi, ann: Account, accounts: AccountsStore, calendar: Calendar, database: Database
) -> None:
    soon = Timestamp()
    soon.FromDatetime(calendar.now + dt.timedelta(hours=1))
    expiring, deleted, good = await made(api, ann, expires_at=soon), await made(api, ann), await made(api, ann)
    for wrong in ("", PREFIX, good + "x", good[:-1], "x" * 100_000, "é\0"):
        assert (await refused(checked(api, wrong))).kind is Kind.UNAUTHORIZED
    await checked(api, expiring)
    calendar.wait(minutes=61)
    assert (await refused(checked(api, expiring))).kind is Kind.UNAUTHORIZED

    deleted_id = (await checked(api, deleted)).api_key.id
    other = pb.DeleteApiKeyRequest(account_id=ids.new_id(), key_id=deleted_id)
    assert (await refused(api.DeleteApiKey(other, None))).kind is Kind.NOT_FOUND
    await api.DeleteApiKey(pb.DeleteApiKeyRequest(account_id=ann.id, key_id=deleted_id), None)
    again = pb.DeleteApiKeyRequest(account_id=ann.id, key_id=deleted_id)
    assert (await refused(api.DeleteApiKey(again, None))).kind is Kind.NOT_FOUND
    assert (await refused(checked(api, deleted))).kind is Kind.UNAUTHORIZED
    told = await revoked_since(database, calendar.now)
    assert [(one.kind, one.subject) for one in told] == [(Revoked.API_KEY, deleted_id)]

    await checked(api, good)
    await accounts.update(ann.id, None, AccountChange(disabled=True), calendar.now)
    assert (await refused(checked(api, good))).kind is Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-1")
async def test_only_an_admins_key_may_do_what_admins_do_and_only_as_long_as_he_is_one(
    api: ApiKeysApi, ann: Account, accounts: AccountsStore, calendar: Calendar
) -> None:
    error = await refused(made(api, ann, scopes=["read", "admin"]))
    assert [problem.field for problem in error.details] == ["scopes"]
    await accounts.add(ids.new_id(), "root@example.com", "root", "no hash", "admin")
    await accounts.update(ann.id, None, AccountChange(role="admin"), calendar.now)
    key = await made(api, ann, scopes=["read", "admin"])
    assert list((await checked(api, key)).api_key.scopes) == ["read", "admin"]
    await accounts.update(ann.id, None, AccountChange(role="user"), calendar.now)
    assert list((await checked(api, key)).api_key.scopes) == ["read"]


@pytest.mark.req("R-VAL-1")
async def test_key_that_makes_no_sense_is_not_made(api: ApiKeysApi, ann: Account, calendar: Calendar) -> None:
    past = Timestamp()
    past.FromDatetime(calendar.now)
    request = pb.CreateApiKeyRequest(account_id=ann.id, name=" \n", scopes=["all"], expires_at=past)
    error = await refused(api.CreateApiKey(request, None))
    assert [problem.field for problem in error.details] == ["name", "scopes", "expires_at"]
    nobodys = pb.CreateApiKeyRequest(account_id=ids.new_id(), name="build", scopes=ALL)
    assert (await refused(api.CreateApiKey(nobodys, None))).kind is Kind.NOT_FOUND


@pytest.mark.req("R-AUTH-1")
async def test_account_has_so_many_keys_and_pages_of_them(api: ApiKeysApi, ann: Account) -> None:
    for _ in range(KEYS_MAX):
        await made(api, ann)
    assert (await refused(made(api, ann))).kind is Kind.CONFLICT
    seen: list[str] = []
    cursor = ""
    while True:
        page = await api.ListApiKeys(pb.ListApiKeysRequest(account_id=ann.id, limit=20, cursor=cursor), None)
        seen += [key.id for key in page.api_keys]
        cursor = page.next_cursor
        if not cursor:
            break
    assert len(set(seen)) == len(seen) == KEYS_MAX
