"""`/api/auth`: accounts and their tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, EmailStr, Field, SecretStr, StringConstraints
from verbatim.meetings.v1 import accounts_pb2 as pb
from verbatim.meetings.v1.accounts_pb2_grpc import AccountsServiceStub

from chassis.errors import Kind
from chassis.rpc import Peer
from services.gateway.auth import Who
from services.gateway.errors import BODY, documented
from services.gateway.resources import Sent, moment

Email = Annotated[EmailStr, Field(max_length=254, examples=["ada@example.com"])]
Username = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{2,31}$"), Field(examples=["ada.lovelace"])
]
RefreshToken = Annotated[SecretStr, Field(min_length=1, max_length=512)]


class Registration(Sent):
    """A new account."""

    email: Email
    username: Username
    password: SecretStr = Field(min_length=8, max_length=128, examples=["correct horse battery staple"])


class Credentials(Sent):
    """What a person logs in with."""

    email: Email
    password: SecretStr = Field(min_length=1, max_length=128, examples=["correct horse battery staple"])


class Refresh(Sent):
    """A refresh token, which is used up by this call."""

    refresh_token: RefreshToken


class Account(BaseModel):
    """A person's account."""

    id: str
    email: str
    username: str
    role: str = Field(examples=["user"])
    created_at: datetime

    @classmethod
    def of(cls, account: pb.Account) -> Account:
        return cls(
            id=account.id,
            email=account.email,
            username=account.username,
            role=account.role,
            created_at=moment(account.created_at),
        )


class Tokens(BaseModel):
    """What a client goes on with: the access token for calls, the refresh token for the next pair."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the name of the scheme
    expires_in: int = Field(description="Seconds that the access token lives.", examples=[900])

    @classmethod
    def of(cls, tokens: pb.Tokens) -> Tokens:
        return cls(access_token=tokens.access_token, refresh_token=tokens.refresh_token, expires_in=tokens.expires_in_s)


def routes(meetings: Peer, *, timeout_s: float, login_timeout_s: float) -> APIRouter:
    """Return the routes of `/api/auth`."""
    router = APIRouter(prefix="/api/auth", tags=["accounts"])
    accounts = AccountsServiceStub(meetings.channel)

    @router.post("/register", status_code=201, responses=documented(*BODY, Kind.CONFLICT, Kind.RATE_LIMIT_EXCEEDED))
    async def register(body: Registration) -> Account:
        """Make an account."""
        request = pb.RegisterRequest(
            email=body.email, username=body.username, password=body.password.get_secret_value()
        )
        answer = await meetings.call(accounts.Register, request, timeout_s=login_timeout_s)
        return Account.of(answer.account)

    @router.post("/login", responses=documented(*BODY, Kind.UNAUTHORIZED, Kind.RATE_LIMIT_EXCEEDED))
    async def login(body: Credentials) -> Tokens:
        """Exchange address and password for tokens."""
        request = pb.LoginRequest(email=body.email, password=body.password.get_secret_value())
        answer = await meetings.call(accounts.Login, request, timeout_s=login_timeout_s)
        return Tokens.of(answer.tokens)

    @router.post("/refresh", responses=documented(*BODY, Kind.UNAUTHORIZED))
    async def refresh(body: Refresh) -> Tokens:
        """Exchange a refresh token for new tokens. One that was used before ends all that came from the same login."""
        request = pb.RefreshRequest(refresh_token=body.refresh_token.get_secret_value())
        answer = await meetings.call(accounts.Refresh, request, timeout_s=timeout_s)
        return Tokens.of(answer.tokens)

    @router.post("/logout", status_code=204, responses=documented(*BODY))
    async def logout(body: Refresh) -> None:
        """End a login: its refresh token is good for nothing any more."""
        request = pb.LogoutRequest(refresh_token=body.refresh_token.get_secret_value())
        await meetings.call(accounts.Logout, request, timeout_s=timeout_s)

    @router.get("/me", responses=documented(Kind.UNAUTHORIZED, Kind.NOT_FOUND))
    async def me(who: Who) -> Account:
        """Read your own account."""
        answer = await meetings.call(
            accounts.GetAccount, pb.GetAccountRequest(account_id=who.account_id), timeout_s=timeout_s
        )
        return Account.of(answer.account)

    return router
