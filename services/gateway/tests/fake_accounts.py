"""The accounts behind the gateway, as their contracts describe them, with their state in memory."""

# ruff: noqa: N802 - the contracts name the methods

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from verbatim.meetings.v1 import accounts_pb2, accounts_pb2_grpc, api_keys_pb2, api_keys_pb2_grpc, logins_pb2
from verbatim.meetings.v1.logins_pb2_grpc import LoginsServiceServicer

from chassis import ids
from chassis.errors import AppError, Kind

NOON = Timestamp(seconds=1_795_780_800)


def missing() -> AppError:
    return AppError(Kind.NOT_FOUND, "There is no such thing.")


class FakeAccounts(accounts_pb2_grpc.AccountsServiceServicer):
    """Knows passwords in plain text and gives out tokens that mean nothing. Notes who called."""

    def __init__(self) -> None:
        self.accounts: dict[str, tuple[accounts_pb2.Account, str]] = {}
        self.refresh_tokens: set[str] = set()
        self.callers: list[accounts_pb2.Caller] = []
        self.identities: dict[tuple[str, str], accounts_pb2.Account] = {}
        self.fault: AppError | None = None

    async def Register(self, request: accounts_pb2.RegisterRequest, _: Any) -> accounts_pb2.RegisterResponse:
        self.callers.append(request.caller)
        if request.email in self.accounts:
            raise AppError(Kind.CONFLICT, "This address or name is taken.")
        account = accounts_pb2.Account(
            id=ids.new_id(), email=request.email, username=request.username, role="user", created_at=NOON, version=1
        )
        self.accounts[request.email] = (account, request.password)
        return accounts_pb2.RegisterResponse(account=account)

    async def Login(self, request: accounts_pb2.LoginRequest, _: Any) -> accounts_pb2.LoginResponse:
        self.callers.append(request.caller)
        _, password = self.accounts.get(request.email, (None, None))
        if password != request.password:
            raise AppError(Kind.UNAUTHORIZED, "The address or the password is wrong.")
        return accounts_pb2.LoginResponse(tokens=self._tokens("the-device"))

    async def Refresh(self, request: accounts_pb2.RefreshRequest, _: Any) -> accounts_pb2.RefreshResponse:
        if request.refresh_token not in self.refresh_tokens:
            raise AppError(Kind.UNAUTHORIZED, "The refresh token is good for nothing.")
        self.refresh_tokens.remove(request.refresh_token)
        return accounts_pb2.RefreshResponse(tokens=self._tokens())

    async def Logout(self, request: accounts_pb2.LogoutRequest, _: Any) -> accounts_pb2.LogoutResponse:
        self.refresh_tokens.discard(request.refresh_token)
        return accounts_pb2.LogoutResponse()

    async def GetAccount(self, request: accounts_pb2.GetAccountRequest, _: Any) -> accounts_pb2.GetAccountResponse:
        return accounts_pb2.GetAccountResponse(account=self._own(request.account_id)[0])

    async def ChangePassword(
        self, request: accounts_pb2.ChangePasswordRequest, _: Any
    ) -> accounts_pb2.ChangePasswordResponse:
        account, password = self._own(request.account_id)
        if password != request.current_password:
            raise AppError(Kind.FORBIDDEN, "The current password is wrong.")
        self.accounts[account.email] = (account, request.new_password)
        return accounts_pb2.ChangePasswordResponse()

    async def DeleteAccount(
        self, request: accounts_pb2.DeleteAccountRequest, _: Any
    ) -> accounts_pb2.DeleteAccountResponse:
        del self.accounts[self._own(request.account_id)[0].email]
        return accounts_pb2.DeleteAccountResponse()

    async def ResolveIdentity(
        self, request: accounts_pb2.ResolveIdentityRequest, _: Any
    ) -> accounts_pb2.ResolveIdentityResponse:
        if self.fault is not None:
            raise self.fault
        who = (request.issuer, request.subject)
        if who not in self.identities:
            self.identities[who] = accounts_pb2.Account(
                id=ids.new_id(), email=request.email, username=request.username, role="user", created_at=NOON, version=1
            )
        return accounts_pb2.ResolveIdentityResponse(account=self.identities[who])

    async def ListAccounts(
        self, request: accounts_pb2.ListAccountsRequest, _: Any
    ) -> accounts_pb2.ListAccountsResponse:
        found = [one for one, _ in self.accounts.values() if request.email in {"", one.email}]
        return accounts_pb2.ListAccountsResponse(accounts=found[: request.limit])

    async def UpdateAccount(
        self, request: accounts_pb2.UpdateAccountRequest, _: Any
    ) -> accounts_pb2.UpdateAccountResponse:
        account, _password = self._own(request.account_id)
        if account.version != request.expected_version:
            raise AppError(Kind.PRECONDITION_FAILED, "It was changed in the meantime.", version=account.version)
        account.version += 1
        if request.HasField("role"):
            account.role = request.role
        if request.HasField("disabled"):
            account.disabled = request.disabled
        return accounts_pb2.UpdateAccountResponse(account=account)

    def _own(self, account_id: str) -> tuple[accounts_pb2.Account, str]:
        for account, password in self.accounts.values():
            if account.id == account_id:
                return account, password
        raise missing()

    def _tokens(self, device: str = "") -> accounts_pb2.Tokens:
        token = ids.new_id()
        self.refresh_tokens.add(token)
        return accounts_pb2.Tokens(access_token=ids.new_id(), refresh_token=token, expires_in_s=900, device=device)


class FakeApiKeys(api_keys_pb2_grpc.ApiKeysServiceServicer):
    """Keeps keys in plain text. With `fault` set, keys cannot be checked."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, api_keys_pb2.ApiKey]] = {}
        self.fault: AppError | None = None
        self.checks = 0
        self.claims: dict[str, str] = {}

    async def CreateApiKey(
        self, request: api_keys_pb2.CreateApiKeyRequest, _: Any
    ) -> api_keys_pb2.CreateApiKeyResponse:
        if (known := self.claims.get(request.claim.key)) is not None:
            return api_keys_pb2.CreateApiKeyResponse(api_key=self.keys[known][1], key=known, replayed=True)
        key = "vbk_" + (ids.new_id() + ids.new_id()).replace("-", "")[-43:]
        made = api_keys_pb2.ApiKey(
            id=ids.new_id(), name=request.name, prefix=key[:10], scopes=request.scopes, created_at=NOON
        )
        if request.HasField("expires_at"):
            made.expires_at.CopyFrom(request.expires_at)
        self.keys[key] = (request.account_id, made)
        if request.HasField("claim"):
            self.claims[request.claim.key] = key
        return api_keys_pb2.CreateApiKeyResponse(api_key=made, key=key)

    async def ListApiKeys(self, request: api_keys_pb2.ListApiKeysRequest, _: Any) -> api_keys_pb2.ListApiKeysResponse:
        own = [key for owner, key in self.keys.values() if owner == request.account_id]
        return api_keys_pb2.ListApiKeysResponse(api_keys=own)

    async def DeleteApiKey(
        self, request: api_keys_pb2.DeleteApiKeyRequest, _: Any
    ) -> api_keys_pb2.DeleteApiKeyResponse:
        for text, (owner, key) in self.keys.items():
            if (owner, key.id) == (request.account_id, request.key_id):
                del self.keys[text]
                return api_keys_pb2.DeleteApiKeyResponse()
        raise missing()

    async def CheckApiKey(self, request: api_keys_pb2.CheckApiKeyRequest, _: Any) -> api_keys_pb2.CheckApiKeyResponse:
        self.checks += 1
        if self.fault is not None:
            raise self.fault
        if request.key not in self.keys:
            raise AppError(Kind.UNAUTHORIZED, "The API key is wrong, expired or deleted.")
        owner, key = self.keys[request.key]
        role = "admin" if "admin" in key.scopes else "user"
        return api_keys_pb2.CheckApiKeyResponse(api_key=key, account=accounts_pb2.Account(id=owner, role=role))


class FakeLogins(LoginsServiceServicer):
    """Keeps what is revoked. `revoke` is what an admin, or somebody elsewhere, does."""

    def __init__(self) -> None:
        self.logins: dict[str, list[logins_pb2.Login]] = {}
        self.revocations: list[logins_pb2.Revocation] = []
        self.fault: AppError | None = None

    def revoke(self, kind: logins_pb2.RevocationKind.ValueType, subject: str) -> logins_pb2.Revocation:
        at = Timestamp()
        at.GetCurrentTime()
        self.revocations.append(logins_pb2.Revocation(kind=kind, id=subject, at=at))
        return self.revocations[-1]

    async def ListLogins(self, request: logins_pb2.ListLoginsRequest, _: Any) -> logins_pb2.ListLoginsResponse:
        return logins_pb2.ListLoginsResponse(logins=self.logins.get(request.account_id, []))

    async def EndLogin(self, request: logins_pb2.EndLoginRequest, _: Any) -> logins_pb2.EndLoginResponse:
        own = self.logins.get(request.account_id, [])
        if request.login_id not in {one.id for one in own}:
            raise missing()
        self.logins[request.account_id] = [one for one in own if one.id != request.login_id]
        self.revoke(logins_pb2.REVOCATION_KIND_LOGIN, request.login_id)
        return logins_pb2.EndLoginResponse()

    async def EndLogins(self, request: logins_pb2.EndLoginsRequest, _: Any) -> logins_pb2.EndLoginsResponse:
        for one in self.logins.pop(request.account_id, []):
            self.revoke(logins_pb2.REVOCATION_KIND_LOGIN, one.id)
        return logins_pb2.EndLoginsResponse()

    async def ListRevocations(
        self, request: logins_pb2.ListRevocationsRequest, _: Any
    ) -> logins_pb2.ListRevocationsResponse:
        if self.fault is not None:
            raise self.fault
        as_of = Timestamp()
        as_of.GetCurrentTime()
        return logins_pb2.ListRevocationsResponse(revocations=self.revocations, as_of=as_of)
