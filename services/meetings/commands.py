"""What an operator does by hand: `python -m services.meetings …`. The first admin is made here."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from collections.abc import Sequence

from argon2 import PasswordHasher

from chassis import ids, postgres
from chassis.errors import AppError, Kind
from services.meetings.accounts import Account, AccountChange, Role, new_password, normal_email, registration
from services.meetings.accounts_store import AccountsStore
from services.meetings.digests_store import DigestsStore
from services.meetings.login import utc_now
from services.meetings.paging import Cursors
from services.meetings.passwords import password_hasher
from services.meetings.settings import Settings


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what the command line says. Exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m services.meetings", description="Starts the service, or:")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("migrate", help="bring the database to the newest schema")
    commands.add_parser("rebuild-digests", help="have search pages and figures of everything made again, by and by")
    add = commands.add_parser("add-account", help="open an account; the password is asked for, or read from stdin")
    add.add_argument("email")
    add.add_argument("username")
    add.add_argument("--admin", action="store_true", help="one that looks after the platform")
    for name, what in (
        ("make-admin", "let an account look after the platform"),
        ("make-user", "let it do so no longer"),
        ("disable", "let nobody in with an account, and close what it has open"),
        ("enable", "let it in again"),
        ("set-password", "give an account another password (asked for, or read from stdin) and end its logins"),
    ):
        commands.add_parser(name, help=what).add_argument("email")
    return parser.parse_args(arguments)


def change_account(settings: Settings, said: argparse.Namespace) -> None:
    """Do one command about accounts. Exits with status 1 and a line that says why if it cannot be done."""
    password = _password() if said.command in {"add-account", "set-password"} else ""
    try:
        print(asyncio.run(_change(settings, said, password)))  # noqa: T201 - this is a command's answer
    except AppError as error:
        problems = [f"{detail.field} {detail.problem}" for detail in error.details]
        raise SystemExit(f"error: {'; '.join([error.message, *problems])}") from None


def rebuild_digests(settings: Settings) -> None:
    """Let the running service digest everything again. Exits with status 1 and a line that says why if it cannot."""

    async def rebuild() -> None:
        url = settings.database_url_meetings.get_secret_value()
        direct_url = settings.database_direct_url_meetings.get_secret_value()
        async with postgres.database(url, direct_url=direct_url) as database:
            await DigestsStore(database).rebuild()

    try:
        asyncio.run(rebuild())
    except AppError as error:
        raise SystemExit(f"error: {error.message}") from None


async def _change(settings: Settings, said: argparse.Namespace, password: str) -> str:
    url = settings.database_url_meetings.get_secret_value()
    direct_url = settings.database_direct_url_meetings.get_secret_value()
    async with postgres.database(url, direct_url=direct_url) as database:
        store = AccountsStore(database, Cursors(settings.service_auth_key.get_secret_value()))
        if said.command == "add-account":
            return await _add(store, password_hasher(settings), said, password)
        account = await _account(store, said.email)
        if said.command == "set-password":
            await store.set_password(account.id, password_hasher(settings).hash(new_password(password)), utc_now())
            return f"{account.email} has another password; its logins have ended"
        change = {
            "make-admin": AccountChange(role=Role.ADMIN),
            "make-user": AccountChange(role=Role.USER),
            "disable": AccountChange(disabled=True),
            "enable": AccountChange(disabled=False),
        }[said.command]
        changed = await store.update(account.id, None, change, utc_now())
        return f"{changed.email} is {'disabled' if changed.disabled else f'enabled, as {changed.role}'}"


async def _add(store: AccountsStore, hasher: PasswordHasher, said: argparse.Namespace, password: str) -> str:
    wish = registration(said.email, said.username, password)
    role = Role.ADMIN if said.admin else Role.USER
    if await store.find(wish.email) is not None:
        return f"{wish.email} is there already; nothing was changed"
    password_hash = hasher.hash(wish.password)
    account = await store.add(ids.new_id(), wish.email, wish.username, password_hash, role)
    return f"{account.email} is opened, as {account.role}"


async def _account(store: AccountsStore, email: str) -> Account:
    found = await store.find(normal_email(email) or "")
    if found is None:
        raise AppError(Kind.NOT_FOUND, "There is no such account.")
    return found[0]


def _password() -> str:
    return getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
