"""`verbatim admin accounts`, `disable`, `enable`, `promote`, `demote`: looking after accounts."""

from __future__ import annotations

from typing import Annotated

import typer

from verbatim_client.cli.edge import CliError, Exit, run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.options import JsonLines
from verbatim_client.cli.printing import print_json, print_rows, told
from verbatim_client.cli.settings import CliSettings

COLUMNS = ("id", "created_at", "role", "disabled", "username", "email")

Email = Annotated[str, typer.Argument(help="Address of the account.")]


def accounts(
    ctx: typer.Context,
    email: Annotated[str | None, typer.Option(help="Of this address only.")] = None,
    json_lines: JsonLines = False,
) -> None:
    """List accounts, newest first."""
    run(_accounts(ctx.obj, email, json_lines=json_lines))


async def _accounts(settings: CliSettings, email: str | None, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        found = [account async for account in client.accounts(email)]
    if json_lines:
        for account in found:
            print_json(account)
    else:
        print_rows(COLUMNS, found)


def disable(ctx: typer.Context, email: Email, json_lines: JsonLines = False) -> None:
    """Let an account in no longer, and close what it has open."""
    run(_change(ctx.obj, email, "disabled", disabled=True, json_lines=json_lines))


def enable(ctx: typer.Context, email: Email, json_lines: JsonLines = False) -> None:
    """Let an account in again."""
    run(_change(ctx.obj, email, "enabled", disabled=False, json_lines=json_lines))


def promote(ctx: typer.Context, email: Email, json_lines: JsonLines = False) -> None:
    """Let an account look after the platform."""
    run(_change(ctx.obj, email, "an admin", role="admin", json_lines=json_lines))


def demote(ctx: typer.Context, email: Email, json_lines: JsonLines = False) -> None:
    """Let an account look after the platform no longer."""
    run(_change(ctx.obj, email, "a user", role="user", json_lines=json_lines))


async def _change(settings: CliSettings, email: str, what: str, *, json_lines: bool, **fields: object) -> None:
    async with logged_in(settings) as client:
        found = [account async for account in client.accounts(email)]
        if not found:
            raise CliError(f"there is no account of {email}", Exit.NOT_FOUND)
        # The same address may also be that of somebody whom another issuer knows.
        for account in found:
            changed = await client.update_account(account["id"], account["version"], **fields)
            told(f"{email} is {what}", changed, json_lines=json_lines)
