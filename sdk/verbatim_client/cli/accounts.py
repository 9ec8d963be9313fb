"""`verbatim login`, `logout`, `whoami`, `usage`, `password`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from verbatim_client.cli.edge import CliError, Exit, run
from verbatim_client.cli.logins import Login, Logins, logged_in, platform_url
from verbatim_client.cli.options import JsonLines
from verbatim_client.cli.printing import note, print_facts, print_json, told
from verbatim_client.cli.settings import CliSettings
from verbatim_client.client import VerbatimClient
from verbatim_client.errors import ApiError


def login(
    ctx: typer.Context,
    email: Annotated[str | None, typer.Option(help="Asked for if not given.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    json_lines: JsonLines = False,
) -> None:
    """Log in; the tokens stay in your config folder, readable by you alone."""
    if not email and password_stdin:
        raise typer.BadParameter("is needed with --password-stdin", param_hint="--email")
    email = email or typer.prompt("Email", err=True)
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = typer.prompt("Password", hide_input=True, err=True)
    run(_login(ctx.obj, str(email), str(password), json_lines=json_lines))


async def _login(settings: CliSettings, email: str, password: str, *, json_lines: bool) -> None:
    url, logins = platform_url(settings), Logins(settings.folder)
    async with VerbatimClient(url) as client:
        tokens = await client.login(email, password)
    async with logins.locked():
        logins.keep(url, Login(email, tokens["access_token"], tokens["refresh_token"]))
    told(f"logged in at {url} as {email}", {"url": url, "email": email}, json_lines=json_lines)


def logout(
    ctx: typer.Context,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="End your logins on other machines too.")] = False,
    json_lines: JsonLines = False,
) -> None:
    """End the login and forget its tokens."""
    run(_logout(ctx.obj, everywhere=everywhere, json_lines=json_lines))


async def _logout(settings: CliSettings, *, everywhere: bool, json_lines: bool) -> None:
    url, logins = platform_url(settings), Logins(settings.folder)
    async with logins.locked():
        kept = logins.at(url)
        if kept is None:
            raise CliError(f"not logged in at {url}", Exit.NOT_LOGGED_IN)
        try:
            async with VerbatimClient(url, access_token=kept.access_token, refresh_token=kept.refresh_token) as client:
                await (client.logout_everywhere() if everywhere else client.logout())
        except ApiError as error:
            if error.retryable:
                raise
            note(f"the platform did not know the login any more: {error.message}")
        logins.forget(url)
    told(f"logged out at {url}", {"url": url}, json_lines=json_lines)


def password(
    ctx: typer.Context,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the current password and the new one from stdin.")
    ] = False,
    json_lines: JsonLines = False,
) -> None:
    """Change your password; your other logins end."""
    if password_stdin:
        current, new = (sys.stdin.readline().rstrip("\n") for _ in range(2))
    else:
        current = typer.prompt("Current password", hide_input=True, err=True)
        new = typer.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    run(_password(ctx.obj, str(current), str(new), json_lines=json_lines))


async def _password(settings: CliSettings, current: str, new: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        await client.change_password(current, new)
    told("password changed; your other logins have ended", {"changed": True}, json_lines=json_lines)


def whoami(ctx: typer.Context, json_lines: JsonLines = False) -> None:
    """Show whose login is used."""
    run(_whoami(ctx.obj, json_lines=json_lines))


async def _whoami(settings: CliSettings, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        account = await client.me()
    if json_lines:
        print_json(account)
    else:
        print_facts(["email", "username", "role", "id"], account)


def usage(ctx: typer.Context, json_lines: JsonLines = False) -> None:
    """Show what you have used this month, and what you may."""
    run(_usage(ctx.obj, json_lines=json_lines))


async def _usage(settings: CliSettings, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        used = await client.usage()
    if json_lines:
        print_json(used)
        return
    limit = used["audio_seconds_limit"]
    most = "no limit" if limit is None else f"of {limit / 60:.0f}"
    tokens, tokens_limit = used.get("model_tokens"), used.get("model_tokens_limit")
    spent = "not known" if tokens is None else f"{tokens} ({f'of {tokens_limit}' if tokens_limit else 'no limit'})"
    print_facts(
        ["audio_minutes", "model_tokens", "until"],
        {
            "audio_minutes": f"{used['audio_seconds'] / 60:.1f} ({most})",
            "model_tokens": spent,
            "until": used["period_end"],
        },
    )
