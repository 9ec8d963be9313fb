"""`/api/admin/accounts`: accounts, by those who look after the platform."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import Field
from verbatim.meetings.v1 import accounts_pb2 as pb
from verbatim.meetings.v1.accounts_pb2_grpc import AccountsServiceStub

from chassis.errors import Kind
from services.gateway.api import accounts as own
from services.gateway.api.accounts import Email
from services.gateway.auth import Admin
from services.gateway.entrance import Entrance
from services.gateway.errors import BODY, CHANGE, READ, documented
from services.gateway.resources import ETAG, ExpectedVersion, Id, Page, Paging, Sent, fields_sent, tag


class Account(own.Account):
    """An account as admins see it."""

    disabled: bool
    version: int

    @classmethod
    def of(cls, account: pb.Account) -> Account:
        seen = own.Account.of(account)
        return cls(**seen.model_dump(), disabled=account.disabled, version=account.version)


class AccountFilter(Paging):
    """Which accounts."""

    email: Email | None = Field(None, description="Of this address only.")


class AccountChange(Sent):
    """What is to be changed."""

    role: Literal["user", "admin"] | None = None
    disabled: bool | None = Field(None, description="Whether it is let in no longer; what it has open is closed.")


def routes(entrance: Entrance) -> APIRouter:
    """Return the routes of `/api/admin/accounts`."""
    router = APIRouter(prefix="/api/admin/accounts", tags=["admin"])
    meetings, timeout_s = entrance.meetings, entrance.timeout_s
    accounts = AccountsServiceStub(meetings.channel)

    @router.get("", responses=documented(Kind.UNAUTHORIZED, Kind.VALIDATION_FAILED))
    async def list_accounts(_: Admin, wanted: Annotated[AccountFilter, Query()]) -> Page[Account]:
        """List accounts, newest first."""
        request = pb.ListAccountsRequest(email=wanted.email or "", limit=wanted.limit, cursor=wanted.cursor or "")
        answer = await meetings.call(accounts.ListAccounts, request, timeout_s=timeout_s)
        return Page(items=[Account.of(one) for one in answer.accounts], next_cursor=answer.next_cursor or None)

    @router.get("/{account_id}", responses={**documented(*READ), 200: {"headers": ETAG}})
    async def read_account(account_id: Id, _: Admin, response: Response) -> Account:
        """Read an account."""
        request = pb.GetAccountRequest(account_id=account_id)
        answer = await meetings.call(accounts.GetAccount, request, timeout_s=timeout_s)
        tag(response, answer.account.version)
        return Account.of(answer.account)

    @router.patch("/{account_id}", responses={**documented(*BODY, *CHANGE, Kind.CONFLICT), 200: {"headers": ETAG}})
    async def change_account(
        account_id: Id, _: Admin, expected_version: ExpectedVersion, body: AccountChange, response: Response
    ) -> Account:
        """Make an account an admin's or a user's, disable it or let it in again.

        Answers 409 if no admin would be left.
        """
        request = pb.UpdateAccountRequest(account_id=account_id, expected_version=expected_version)
        for name in fields_sent(body):
            if (value := getattr(body, name)) is not None:
                setattr(request, name, value)
        answer = await meetings.call(accounts.UpdateAccount, request, timeout_s=timeout_s)
        await entrance.news.look()
        tag(response, answer.account.version)
        return Account.of(answer.account)

    @router.delete("/{account_id}", status_code=204, responses=documented(*CHANGE, Kind.CONFLICT))
    async def delete_account(account_id: Id, _: Admin, expected_version: ExpectedVersion) -> None:
        """Delete an account with its meetings and all that belongs to them.

        Answers 409 if no admin would be left.
        """
        request = pb.DeleteAccountRequest(account_id=account_id, expected_version=expected_version)
        await meetings.call(accounts.DeleteAccount, request, timeout_s=timeout_s)
        await entrance.news.look()

    return router
