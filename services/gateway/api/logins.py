"""`/api/auth`: logging in, staying in, logging out, and tickets for WebSockets."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from verbatim.meetings.v1 import accounts_pb2 as pb
from verbatim.meetings.v1 import logins_pb2 as logins_pb
from verbatim.meetings.v1.accounts_pb2_grpc import AccountsServiceStub
from verbatim.meetings.v1.logins_pb2_grpc import LoginsServiceStub

from chassis.errors import Kind
from services.gateway.api.accounts import CaptchaResponse, Email, OfferedPassword, Secret
from services.gateway.auth import STREAM, Known, Person
from services.gateway.callers import address_of
from services.gateway.entrance import Entrance
from services.gateway.errors import BODY, documented
from services.gateway.resources import Id, Page, Sent, moment

RefreshToken = Annotated[Secret, Field(min_length=1, max_length=512)]


class Credentials(Sent):
    """What a person logs in with."""

    email: Email
    password: OfferedPassword
    captcha: CaptchaResponse = None


class Refresh(Sent):
    """A refresh token, which is used up by this call."""

    refresh_token: RefreshToken


class Tokens(BaseModel):
    """What a client goes on with: the access token for calls, the refresh token for the next pair."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the name of the scheme
    expires_in: int = Field(description="Seconds that the access token lives.", examples=[900])

    @classmethod
    def of(cls, tokens: pb.Tokens) -> Tokens:
        return cls(access_token=tokens.access_token, refresh_token=tokens.refresh_token, expires_in=tokens.expires_in_s)


class Login(BaseModel):
    """A login: from the password to the logout."""

    id: str
    created_at: datetime
    last_used_at: datetime = Field(description="When its tokens were last renewed.")
    current: bool = Field(description="Whether this call came with it.")


class Ticket(BaseModel):
    """What opens a WebSocket once."""

    ticket: str
    expires_in: int = Field(description="Seconds that the ticket lives.", examples=[30])


def routes(entrance: Entrance) -> APIRouter:
    """Return the routes of `/api/auth` that are about logins."""
    router = APIRouter(prefix="/api/auth", tags=["accounts"])
    meetings, timeout_s = entrance.meetings, entrance.timeout_s
    accounts, logins = AccountsServiceStub(meetings.channel), LoginsServiceStub(meetings.channel)

    @router.post("/login", responses=documented(*BODY, Kind.UNAUTHORIZED, Kind.RATE_LIMIT_EXCEEDED))
    async def login(body: Credentials, request: Request, response: Response) -> Tokens:
        """Exchange address and password for tokens.

        After five failures in a quarter of an hour, and after many to one account, further tries are not looked at
        (429). A cookie marks the device that was in: nobody else uses up its tries.
        """
        await entrance.captcha.check("login", body.captcha, address_of(request))
        wanted = pb.LoginRequest(
            email=body.email, password=body.password.get_secret_value(), caller=entrance.callers.of(request)
        )
        answer = await meetings.call(accounts.Login, wanted, timeout_s=entrance.login_timeout_s)
        entrance.callers.mark(response, answer.tokens.device)
        return Tokens.of(answer.tokens)

    @router.post("/refresh", responses=documented(*BODY, Kind.UNAUTHORIZED))
    async def refresh(body: Refresh) -> Tokens:
        """Exchange a refresh token for new tokens. One that was used before ends all that came from the same login.

        Within some seconds, and as long as its successor was not used, a token may be sent again: the answer may have
        got lost. It is answered with the same successor.
        """
        wanted = pb.RefreshRequest(refresh_token=body.refresh_token.get_secret_value())
        answer = await meetings.call(accounts.Refresh, wanted, timeout_s=timeout_s)
        return Tokens.of(answer.tokens)

    @router.post("/logout", status_code=204, responses=documented(*BODY))
    async def logout(body: Refresh) -> None:
        """End a login: its tokens are good for nothing any more, and what is open with them is closed."""
        wanted = pb.LogoutRequest(refresh_token=body.refresh_token.get_secret_value())
        await meetings.call(accounts.Logout, wanted, timeout_s=timeout_s)
        await entrance.news.look()

    @router.get("/logins", responses=documented(Kind.UNAUTHORIZED))
    async def list_logins(who: Person) -> Page[Login]:
        """List your logins, the one used last first. There are fifty at most."""
        wanted = logins_pb.ListLoginsRequest(account_id=who.account_id)
        answer = await meetings.call(logins.ListLogins, wanted, timeout_s=timeout_s)
        items = [
            Login(
                id=one.id,
                created_at=moment(one.created_at),
                last_used_at=moment(one.last_used_at),
                current=one.id == who.login_id,
            )
            for one in answer.logins
        ]
        return Page(items=items, next_cursor=None)

    @router.delete("/logins", status_code=204, responses=documented(Kind.UNAUTHORIZED))
    async def log_out_everywhere(who: Person) -> None:
        """End every login of yours, this one too."""
        wanted = logins_pb.EndLoginsRequest(account_id=who.account_id)
        await meetings.call(logins.EndLogins, wanted, timeout_s=timeout_s)
        await entrance.news.look()

    @router.delete(
        "/logins/{login_id}",
        status_code=204,
        responses=documented(Kind.UNAUTHORIZED, Kind.NOT_FOUND, Kind.VALIDATION_FAILED),
    )
    async def end_login(login_id: Id, who: Person) -> None:
        """End one login of yours."""
        wanted = logins_pb.EndLoginRequest(account_id=who.account_id, login_id=login_id)
        await meetings.call(logins.EndLogin, wanted, timeout_s=timeout_s)
        await entrance.news.look()

    @router.post("/ticket", responses=documented(Kind.UNAUTHORIZED))
    async def ticket(who: Known) -> Ticket:
        """Get a ticket that opens `/transcribe?ticket=` once, within 30 s. An API key needs the scope `stream`."""
        who.require(STREAM)
        text, life_s = entrance.tickets.issue(who)
        return Ticket(ticket=text, expires_in=life_s)

    return router
