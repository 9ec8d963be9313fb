"""What an operator does by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.meetings.accounts_store import AccountsStore
from services.meetings.guards import Place
from services.meetings.login import Login
from services.meetings.logins_store import LoginsStore
from services.meetings.tests.conftest import KEY, Calendar

ROOT = Path(__file__).resolve().parents[3]
HERE = Place("192.0.2.7")


class Operator:
    """Somebody at a shell of the service."""

    def __init__(self, database_url: str, private_pem: str) -> None:
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'build/gen'}",
            "DATABASE_URL_MEETINGS": database_url,
            "AUTH_PRIVATE_KEY": private_pem,
            "SERVICE_AUTH_KEY": KEY,
            "PASSWORD_HASH_MIB": "19",
            "PASSWORD_HASH_PASSES": "2",
        }

    def does(self, *arguments: str, typing: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "services.meetings", *arguments], env=self._environment, cwd=ROOT,
            capture_output=True, text=True, timeout=60, check=False, input=typing,
        )  # fmt: skip


@pytest.fixture
def operator(database_url: str, private_pem: str) -> Operator:
    return Operator(database_url, private_pem)


@pytest.mark.req("R-AUTH-1")
async def test_operator_makes_the_first_admin_and_looks_after_accounts(
    operator: Operator, login: Login, logins: LoginsStore, accounts: AccountsStore, calendar: Calendar
) -> None:
    made = operator.does("add-account", "Root@example.com", "root", "--admin", typing="correct horse\n")
    assert (made.returncode, made.stdout) == (0, "root@example.com is opened, as admin\n")
    found = await accounts.find("root@example.com")
    assert found is not None
    assert found[0].is_active_admin
    assert found[1].startswith("$argon2id$v=19$m=19456,t=2,p=4$")
    await login.login("root@example.com", "correct horse", HERE)
    again = operator.does("add-account", "root@example.com", "root", typing="other password\n")
    assert (again.returncode, again.stdout) == (0, "root@example.com is there already; nothing was changed\n")

    assert operator.does("set-password", "root@example.com", typing="battery staple\n").returncode == 0
    assert await logins.list(found[0].id, calendar.now) == []
    await login.login("root@example.com", "battery staple", HERE)

    last = operator.does("disable", "root@example.com")
    assert (last.returncode, last.stderr) == (1, "error: This is the last admin: make another one first.\n")


@pytest.mark.req("R-AUTH-1")
@pytest.mark.parametrize(
    ("arguments", "typing", "said"),
    [
        (["make-admin", "nobody@example.com"], "", "There is no such account."),
        pytest.param(
            ["add-account", "ann", "a"],
            "short\n",
            "email must be an e-mail address; username must have",
            marks=pytest.mark.long,
        ),
        pytest.param(
            ["add-account", "ann@example.com", "ann"],
            "",
            "password must have at least 8 characters",
            marks=pytest.mark.long,
        ),
    ],
)
def test_command_that_cannot_be_done_says_why(operator: Operator, arguments: list[str], typing: str, said: str) -> None:
    result = operator.does(*arguments, typing=typing)
    assert result.returncode == 1
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_command_is_refused_before_anything_is_read(operator: Operator) -> None:
    assert operator.does("dance").returncode == 2
