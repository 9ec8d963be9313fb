"""Accounts as admins, other issuers and their own owners change them."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from verbatim.meetings.v1.events_pb2 import AccountDeleted
from verbatim.meetings.v1.logins_pb2 import REVOCATION_KIND_ACCOUNT, Revocation

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.meetings import store
from services.meetings.account_tables import accounts as table
from services.meetings.accounts import AccountChange, identity
from services.meetings.accounts_store import AccountsStore
from services.meetings.guards import Place
from services.meetings.login import Login
from services.meetings.meetings import new_meeting
from services.meetings.meetings_store import MeetingsStore
from services.meetings.revocations import revoked_since
from services.meetings.tasks import new_task
from services.meetings.tasks_store import TasksStore
from services.meetings.tests.conftest import Calendar

HERE = Place("192.0.2.7")
PASSWORD = "correct horse"


async def refused(call: object) -> AppError:
    with pytest.raises(AppError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def events(database: Database, subject: str) -> list[bytes]:
    rows = store.outbox_rows
    async with database.engine.begin() as connection:
        query = sa.select(rows.c.payload).where(rows.c.subject == subject).order_by(rows.c.seq)
        return list((await connection.execute(query)).scalars())


@pytest.mark.req("R-AUTH-1")
async def test_change_of_an_account_names_its_version_and_is_told(
    accounts: AccountsStore, calendar: Calendar, database: Database
) -> None:
    made = await accounts.add(ids.new_id(), "ann@example.com", "ann", "hash")
    changed = await accounts.update(made.id, 1, AccountChange(role="admin"), calendar.now)
    assert (changed.role, changed.version, changed.disabled) == ("admin", 2, False)
    error = await refused(accounts.update(made.id, 1, AccountChange(role="user"), calendar.now))
    assert (error.kind, error.version) == (Kind.PRECONDITION_FAILED, 2)
    assert (await refused(accounts.update(ids.new_id(), 1, AccountChange(), calendar.now))).kind is Kind.NOT_FOUND
    told = [Revocation.FromString(event) for event in await events(database, "events.account.revoked")]
    assert [(one.kind, one.id) for one in told] == [(REVOCATION_KIND_ACCOUNT, made.id)]


@pytest.mark.req("R-AUTH-1")
async def test_the_last_admin_stays_one_also_when_two_leave_at_once(
    accounts: AccountsStore, calendar: Calendar
) -> None:
    first = await accounts.add(ids.new_id(), "a@example.com", "first", "hash", "admin")
    second = await accounts.add(ids.new_id(), "b@example.com", "second", "hash", "admin")
    user = await accounts.add(ids.new_id(), "c@example.com", "third", "hash")
    results = await asyncio.gather(
        accounts.update(first.id, None, AccountChange(role="user"), calendar.now),
        accounts.update(second.id, None, AccountChange(disabled=True), calendar.now),
        return_exceptions=True,
    )
    refusals = [result for result in results if isinstance(result, AppError)]
    assert [error.kind for error in refusals] == [Kind.CONFLICT]
    last = first if (await accounts.get(first.id)).is_active_admin else second
    assert (await refused(accounts.delete(last.id, calendar.now))).kind is Kind.CONFLICT
    assert (await accounts.get(last.id)).is_active_admin
    await accounts.update(user.id, None, AccountChange(disabled=True), calendar.now)


@pytest.mark.req("R-AUTH-1")
async def test_deleted_account_is_gone_with_what_opened_it_and_that_is_told(
    login: Login, accounts: AccountsStore, meetings: MeetingsStore, tasks: TasksStore, calendar: Calendar,
    database: Database,
) -> None:  # fmt: skip
    account = await login.register("ann@example.com", "ann", PASSWORD, HERE)
    tokens = await login.login("ann@example.com", PASSWORD, HERE)
    await login.delete_account(account.id)
    assert (await refused(accounts.get(account.id))).kind is Kind.NOT_FOUND
    assert (await refused(login.delete_account(account.id))).kind is Kind.NOT_FOUND
    assert (await refused(login.refresh(tokens.refresh))).kind is Kind.UNAUTHORIZED
    assert (await refused(login.login("ann@example.com", PASSWORD, HERE))).kind is Kind.UNAUTHORIZED
    [event] = await events(database, "events.account.deleted")
    assert AccountDeleted.FromString(event).account_id == account.id
    assert [one.subject for one in await revoked_since(database, calendar.now)] == [account.id]

    # An access token that still lives makes nothing new.
    wish = new_meeting(ids.new_id(), account.id, title="Plan", language="", participants=())
    assert (await refused(meetings.create(wish))).kind is Kind.NOT_FOUND
    task = new_task(ids.new_id(), account.id, title="Send", meeting_id="", assignee="", due="", source_segment_id="")
    assert (await refused(tasks.create(task))).kind is Kind.NOT_FOUND
    # Her address and name are free again.
    await login.register("ann@example.com", "ann", PASSWORD, HERE)


@pytest.mark.req("R-AUTH-1")
async def test_somebody_of_another_issuer_has_one_account_from_the_first_sight(accounts: AccountsStore) -> None:
    who = identity("https://issuer.example", "subject-1", "Ann@Example.com", "Ann B.")
    found = await asyncio.gather(*(accounts.resolve(who, ids.new_id()) for _ in range(6)))
    assert len({account.id for account in found}) == 1
    assert (found[0].email, found[0].username, found[0].role) == ("ann@example.com", "Ann-B", "user")
    other = await accounts.resolve(identity("https://other.example", "subject-1", "", ""), ids.new_id())
    assert other.id != found[0].id
    assert other.username == "member"


@pytest.mark.req("R-AUTH-1")
async def test_an_address_that_another_issuer_tells_leads_into_nobodys_account(
    accounts: AccountsStore, login: Login
) -> None:
    """Nobody has proved the address of a local account: whoever opened it first would own what comes later."""
    local = await login.register("ann@example.com", "ann", PASSWORD, HERE)
    foreign = await accounts.resolve(identity("https://issuer.example", "s", "ann@example.com", "ann"), ids.new_id())
    assert foreign.id != local.id
    assert foreign.username.startswith("ann-")
    found = await accounts.find("ann@example.com")
    assert found is not None
    assert found[0].id == local.id
    # And a foreign account, which has no password, is not entered with one.
    later = await accounts.resolve(identity("https://issuer.example", "t", "ben@example.com", "ben"), ids.new_id())
    assert await accounts.find("ben@example.com") is None
    error = await refused(login.change_password(later.id, "", "", "another password"))
    assert error.kind is Kind.FORBIDDEN


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize("subject", ["", "x" * 513, "a\nb", "a\0b"])
def test_identity_that_cannot_be_kept_is_refused(subject: str) -> None:
    with pytest.raises(AppError):
        identity("https://issuer.example", subject, "", "")


@pytest.mark.req("R-AUTH-1")
async def test_accounts_are_listed_newest_first_and_found_by_address(
    accounts: AccountsStore, database: Database
) -> None:
    made = [await accounts.add(ids.new_id(), f"p{n}@example.com", f"person{n}", "hash") for n in range(5)]
    async with database.engine.begin() as connection:
        for minutes, account in enumerate(made):
            later = sa.func.now() + sa.text(f"interval '{minutes} minutes'")
            await connection.execute(table.update().where(table.c.id == account.id).values(created_at=later))
    first = await accounts.list("", 3, "")
    rest = await accounts.list("", 3, first.next_cursor)
    assert [one.id for one in [*first.items, *rest.items]] == [account.id for account in reversed(made)]
    assert rest.next_cursor == ""
    assert [one.id for one in (await accounts.list("p2@example.com", 3, "")).items] == [made[2].id]
