"""`/api/auth`: accounts, by those who have or want one."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BaseModel, EmailStr, Field, SecretStr, StringConstraints
from verbatim.meetings.v1 import accounts_pb2 as pb
from verbatim.meetings.v1.accounts_pb2_grpc import AccountsServiceStub

from chassis.errors import AppError, Kind
from services.gateway.auth import Person, Who
from services.gateway.callers import address_of
from services.gateway.entrance import Entrance
from services.gateway.errors import BODY, documented
from services.gateway.resources import Sent, moment
from services.gateway.text import whole_secret

Email = Annotated[EmailStr, Field(max_length=254, examples=["ada@example.com"])]
Username = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{2,31}$"), Field(examples=["ada.lovelace"])
]
Secret = Annotated[SecretStr, AfterValidator(whole_secret)]
OfferedPassword = Annotated[Secret, Field(min_length=1, max_length=128, examples=["correct horse battery staple"])]
WantedPassword = Annotated[Secret, Field(min_length=8, max_length=128, examples=["correct horse battery staple"])]
CaptchaResponse = Annotated[
    str | None, Field(max_length=8192, description="What the CAPTCHA's widget gave, where this installation has one.")
]


class Registration(Sent):
    """A new account."""

    email: Email
    username: Username
    password: WantedPassword
    captcha: CaptchaResponse = None


class PasswordChange(Sent):
    """The password so far, and the one from now on."""

    current_password: OfferedPassword
    new_password: WantedPassword


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


def routes(entrance: Entrance) -> APIRouter:
    """Return the routes of `/api/auth` that are about the account itself."""
    router = APIRouter(prefix="/api/auth", tags=["accounts"])
    meetings, accounts = entrance.meetings, AccountsServiceStub(entrance.meetings.channel)

    @router.post(
        "/register",
        status_code=201,
        responses=documented(*BODY, Kind.FORBIDDEN, Kind.CONFLICT, Kind.RATE_LIMIT_EXCEEDED),
    )
    async def register(body: Registration, request: Request) -> Account:
        """Make an account. From one address, three in an hour."""
        await entrance.captcha.check("register", body.captcha, address_of(request))
        wanted = pb.RegisterRequest(
            email=body.email,
            username=body.username,
            password=body.password.get_secret_value(),
            caller=entrance.callers.of(request),
        )
        answer = await meetings.call(accounts.Register, wanted, timeout_s=entrance.login_timeout_s)
        return Account.of(answer.account)

    @router.get("/me", responses=documented(Kind.UNAUTHORIZED, Kind.NOT_FOUND))
    async def me(who: Who) -> Account:
        """Read your own account."""
        wanted = pb.GetAccountRequest(account_id=who.account_id)
        answer = await meetings.call(accounts.GetAccount, wanted, timeout_s=entrance.timeout_s)
        return Account.of(answer.account)

    @router.delete("/me", status_code=204, responses=documented(Kind.UNAUTHORIZED, Kind.NOT_FOUND, Kind.CONFLICT))
    async def delete_me(who: Person) -> None:
        """Delete your account with your meetings and all that belongs to them.

        Needs a login of the last quarter of an hour: a token that somebody left lying about must not do this.
        """
        if who.logged_in_at < time.time() - entrance.fresh_login_s:
            raise AppError(Kind.FORBIDDEN, "Log in again to delete your account.")
        wanted = pb.DeleteAccountRequest(account_id=who.account_id)
        await meetings.call(accounts.DeleteAccount, wanted, timeout_s=entrance.timeout_s)
        await entrance.news.look()

    @router.post(
        "/password",
        status_code=204,
        responses=documented(*BODY, Kind.UNAUTHORIZED, Kind.NOT_FOUND, Kind.RATE_LIMIT_EXCEEDED),
    )
    async def change_password(who: Person, body: PasswordChange) -> None:
        """Change your password. Every other login ends; API keys go on.

        Answers 403 if the current password is wrong.
        """
        wanted = pb.ChangePasswordRequest(
            account_id=who.account_id,
            current_password=body.current_password.get_secret_value(),
            new_password=body.new_password.get_secret_value(),
            login_id=who.login_id,
        )
        await meetings.call(accounts.ChangePassword, wanted, timeout_s=entrance.login_timeout_s)
        await entrance.news.look()

    return router
