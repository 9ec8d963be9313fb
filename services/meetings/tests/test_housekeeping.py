"""What has expired is forgotten, and nothing else."""

from __future__ import annotations

import pytest

from chassis.errors import AppError
from chassis.postgres import Database
from services.meetings.guards import Place
from services.meetings.housekeeping import Housekeeping
from services.meetings.login import Login
from services.meetings.logins_store import LoginsStore
from services.meetings.tests.conftest import Calendar

HERE = Place("192.0.2.7")
PASSWORD = "correct horse"


@pytest.mark.req("R-AUTH-1", "R-RES-1")
async def test_expired_tries_logins_tokens_and_revocations_go(
    login: Login, logins: LoginsStore, database: Database, calendar: Calendar
) -> None:
    housekeeping = Housekeeping(database, calendar)
    account = await login.register("ann@example.com", "ann", PASSWORD, HERE)
    tokens = await login.login("ann@example.com", PASSWORD, HERE)
    await logins.end_all(account.id, calendar.now)
    tokens = await login.login("ann@example.com", PASSWORD, HERE)
    with pytest.raises(AppError):
        await login.login("ann@example.com", "wrong", HERE)
    assert await housekeeping.tidy() == dict.fromkeys(
        ("tries", "refresh_tokens", "logins", "known_networks", "revocations"), 0
    )
    await login.refresh(tokens.refresh)

    calendar.wait(days=2, hours=1)
    gone = await housekeeping.tidy()
    # The registration's and the failed login's; of the ended login and its successor; what told of its end.
    assert gone == {"tries": 3, "refresh_tokens": 3, "logins": 1, "known_networks": 0, "revocations": 1}
    calendar.wait(days=100)
    gone = await housekeeping.tidy()
    assert (gone["logins"], gone["known_networks"]) == (1, 1)
