"""Calls about accounts come in: parse, call, answer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from verbatim.meetings.v1 import accounts_pb2 as pb
from verbatim.meetings.v1 import api_keys_pb2 as keys_pb
from verbatim.meetings.v1 import logins_pb2 as logins_pb

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.idempotency import Claim, IdempotencyKeys
from chassis.postgres import Database
from services.meetings import revocations
from services.meetings.accounts import Account, Role, account_change, identity, normal_email
from services.meetings.accounts_store import AccountsStore
from services.meetings.api_keys import ApiKey, hash_of, new_api_key, text_of
from services.meetings.api_keys_store import ApiKeysStore
from services.meetings.checks import known_id
from services.meetings.guards import Place
from services.meetings.login import Login, Tokens
from services.meetings.logins_store import LoginsStore
from services.meetings.messages import given, id_of, stamp, time_of
from services.meetings.paging import page_size

_BEGINNING = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


class AccountsApi:
    """verbatim.meetings.v1.AccountsService."""

    def __init__(self, login: Login, store: AccountsStore, clock: Callable[[], dt.datetime]) -> None:
        self._login = login
        self._store = store
        self._clock = clock

    async def Register(self, request: pb.RegisterRequest, _: Any) -> pb.RegisterResponse:  # noqa: N802
        account = await self._login.register(request.email, request.username, request.password, _place(request.caller))
        return pb.RegisterResponse(account=_account(account))

    async def Login(self, request: pb.LoginRequest, _: Any) -> pb.LoginResponse:  # noqa: N802
        tokens = await self._login.login(request.email, request.password, _place(request.caller))
        return pb.LoginResponse(tokens=_tokens(tokens))

    async def Refresh(self, request: pb.RefreshRequest, _: Any) -> pb.RefreshResponse:  # noqa: N802
        return pb.RefreshResponse(tokens=_tokens(await self._login.refresh(request.refresh_token)))

    async def Logout(self, request: pb.LogoutRequest, _: Any) -> pb.LogoutResponse:  # noqa: N802
        await self._login.logout(request.refresh_token)
        return pb.LogoutResponse()

    async def GetAccount(self, request: pb.GetAccountRequest, _: Any) -> pb.GetAccountResponse:  # noqa: N802
        account = await self._store.get(known_id(request.account_id, "account"))
        return pb.GetAccountResponse(account=_account(account))

    async def ChangePassword(  # noqa: N802
        self, request: pb.ChangePasswordRequest, _: Any
    ) -> pb.ChangePasswordResponse:
        await self._login.change_password(
            id_of(request, "account_id"), request.login_id, request.current_password, request.new_password
        )
        return pb.ChangePasswordResponse()

    async def DeleteAccount(self, request: pb.DeleteAccountRequest, _: Any) -> pb.DeleteAccountResponse:  # noqa: N802
        account_id = known_id(request.account_id, "account")
        await self._login.delete_account(account_id, given(request, "expected_version"))
        return pb.DeleteAccountResponse()

    async def ResolveIdentity(  # noqa: N802
        self, request: pb.ResolveIdentityRequest, _: Any
    ) -> pb.ResolveIdentityResponse:
        who = identity(request.issuer, request.subject, request.email, request.username)
        return pb.ResolveIdentityResponse(account=_account(await self._store.resolve(who, ids.new_id())))

    async def ListAccounts(self, request: pb.ListAccountsRequest, _: Any) -> pb.ListAccountsResponse:  # noqa: N802
        # What is no address is nobody's.
        email = (normal_email(request.email) or "-") if request.email else ""
        page = await self._store.list(email, page_size(request.limit), request.cursor)
        return pb.ListAccountsResponse(accounts=map(_account, page.items), next_cursor=page.next_cursor)

    async def UpdateAccount(self, request: pb.UpdateAccountRequest, _: Any) -> pb.UpdateAccountResponse:  # noqa: N802
        change = account_change(given(request, "role"), given(request, "disabled"))
        account_id = known_id(request.account_id, "account")
        changed = await self._store.update(account_id, request.expected_version, change, self._clock())
        return pb.UpdateAccountResponse(account=_account(changed))


class ApiKeysApi:
    """verbatim.meetings.v1.ApiKeysService."""

    def __init__(
        self,
        store: ApiKeysStore,
        accounts: AccountsStore,
        keys: IdempotencyKeys,
        secret: bytes,
        clock: Callable[[], dt.datetime],
    ) -> None:
        """From `secret` follow the keys that are asked for with an Idempotency-Key (docs/adr/0100)."""
        self._store = store
        self._accounts = accounts
        self._keys = keys
        self._secret = secret
        self._clock = clock

    async def CreateApiKey(  # noqa: N802
        self, request: keys_pb.CreateApiKeyRequest, _: Any
    ) -> keys_pb.CreateApiKeyResponse:
        owner = await self._accounts.get(known_id(request.account_id, "account"))
        expires_at = time_of(request, "expires_at")
        new = new_api_key(request.name, request.scopes, expires_at, role=owner.role, now=self._clock())
        if not request.HasField("claim"):
            made = await self._store.add(owner.id, new)
            return keys_pb.CreateApiKeyResponse(api_key=_api_key(made), key=new.text)
        kept = await self._keys.once(
            "add api key",
            Claim(owner.id, request.claim.key, request.claim.fingerprint),
            self._store.addition(owner.id, replace(new, text=text_of(new.id, self._secret))),
            lambda made: keys_pb.CreateApiKeyResponse(api_key=_api_key(made)),
            keys_pb.CreateApiKeyResponse,
        )
        kept.answer.replayed = kept.replayed
        # Not in the answer that is kept: nothing that opens anything is stored.
        kept.answer.key = text_of(kept.answer.api_key.id, self._secret)
        return kept.answer

    async def ListApiKeys(self, request: keys_pb.ListApiKeysRequest, _: Any) -> keys_pb.ListApiKeysResponse:  # noqa: N802
        page = await self._store.list(id_of(request, "account_id"), page_size(request.limit), request.cursor)
        return keys_pb.ListApiKeysResponse(api_keys=map(_api_key, page.items), next_cursor=page.next_cursor)

    async def DeleteApiKey(  # noqa: N802
        self, request: keys_pb.DeleteApiKeyRequest, _: Any
    ) -> keys_pb.DeleteApiKeyResponse:
        await self._store.delete(id_of(request, "account_id"), known_id(request.key_id, "API key"), self._clock())
        return keys_pb.DeleteApiKeyResponse()

    async def CheckApiKey(self, request: keys_pb.CheckApiKeyRequest, _: Any) -> keys_pb.CheckApiKeyResponse:  # noqa: N802
        now = self._clock()
        found = await self._store.find(hash_of(request.key), now)
        if found is None or found[1].disabled or (found[0].expires_at or now) < now:
            raise AppError(Kind.UNAUTHORIZED, "The API key is wrong, expired or deleted.")
        key, account = found
        answer = keys_pb.CheckApiKeyResponse(api_key=_api_key(key), account=_account(account))
        if account.role != Role.ADMIN and "admin" in key.scopes:
            # Made when its owner was an admin.
            answer.api_key.scopes.remove("admin")
        return answer


class LoginsApi:
    """verbatim.meetings.v1.LoginsService."""

    def __init__(self, store: LoginsStore, database: Database, clock: Callable[[], dt.datetime]) -> None:
        self._store = store
        self._database = database
        self._clock = clock

    async def ListLogins(self, request: logins_pb.ListLoginsRequest, _: Any) -> logins_pb.ListLoginsResponse:  # noqa: N802
        found = await self._store.list(id_of(request, "account_id"), self._clock())
        logins = [
            logins_pb.Login(id=one.id, created_at=stamp(one.created_at), last_used_at=stamp(one.last_used_at))
            for one in found
        ]
        return logins_pb.ListLoginsResponse(logins=logins)

    async def EndLogin(self, request: logins_pb.EndLoginRequest, _: Any) -> logins_pb.EndLoginResponse:  # noqa: N802
        await self._store.end(id_of(request, "account_id"), known_id(request.login_id, "login"), self._clock())
        return logins_pb.EndLoginResponse()

    async def EndLogins(self, request: logins_pb.EndLoginsRequest, _: Any) -> logins_pb.EndLoginsResponse:  # noqa: N802
        await self._store.end_all(id_of(request, "account_id"), self._clock())
        return logins_pb.EndLoginsResponse()

    async def ListRevocations(  # noqa: N802
        self, request: logins_pb.ListRevocationsRequest, _: Any
    ) -> logins_pb.ListRevocationsResponse:
        as_of = self._clock()
        found = await revocations.revoked_since(self._database, time_of(request, "since") or _BEGINNING)
        return logins_pb.ListRevocationsResponse(revocations=[one.message() for one in found], as_of=stamp(as_of))


def _place(caller: pb.Caller) -> Place:
    return Place(caller.address, caller.device)


def _account(account: Account) -> pb.Account:
    return pb.Account(
        id=account.id, email=account.email, username=account.username, role=account.role,
        created_at=stamp(account.created_at), disabled=account.disabled, version=account.version,
    )  # fmt: skip


def _tokens(tokens: Tokens) -> pb.Tokens:
    return pb.Tokens(
        access_token=tokens.access, refresh_token=tokens.refresh, expires_in_s=tokens.expires_in_s,
        device=tokens.device,
    )  # fmt: skip


def _api_key(key: ApiKey) -> keys_pb.ApiKey:
    return keys_pb.ApiKey(
        id=key.id, name=key.name, prefix=key.prefix, scopes=key.scopes, created_at=stamp(key.created_at),
        expires_at=stamp(key.expires_at), last_used_at=stamp(key.last_used_at),
    )  # fmt: skip
