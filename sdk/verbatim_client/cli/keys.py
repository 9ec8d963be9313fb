"""`verbatim keys create`, `list`, `delete`: keys for programs."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from verbatim_client.cli.edge import run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.options import JsonLines
from verbatim_client.cli.printing import note, print_json, print_line, print_rows, told
from verbatim_client.cli.settings import CliSettings

COLUMNS = ("id", "prefix", "scopes", "expires_at", "last_used_at", "name")
_SPAN = re.compile(r"([1-9][0-9]{0,4})(h|d)")


class Scope(StrEnum):
    """What may be done with a key."""

    READ = "read"
    WRITE = "write"
    STREAM = "stream"
    ADMIN = "admin"


def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[Scope] | None, typer.Option("--scope", help="May be given several times; without: read, write, stream.")
    ] = None,
    expires_in: Annotated[str | None, typer.Option("--expires-in", metavar="SPAN", help="As in 30d or 12h.")] = None,
    json_lines: JsonLines = False,
) -> None:
    """Make an API key. It goes to stdout, once: nobody can read it again."""
    run(_create(ctx.obj, name, scope or [], _ends_at(expires_in), json_lines=json_lines))


async def _create(
    settings: CliSettings, name: str, scopes: list[Scope], ends_at: str | None, *, json_lines: bool
) -> None:
    async with logged_in(settings) as client:
        made = await client.create_api_key(name, [scope.value for scope in scopes] or None, ends_at)
    if json_lines:
        print_json(made)
        return
    print_line(made["key"])
    note(f"may {', '.join(made['scopes'])}; use it as VERBATIM_TOKEN; delete it: verbatim keys delete {made['id']}")


def list_keys(ctx: typer.Context, json_lines: JsonLines = False) -> None:
    """List your API keys, newest first."""
    run(_list(ctx.obj, json_lines=json_lines))


async def _list(settings: CliSettings, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        keys = [key async for key in client.api_keys()]
    if json_lines:
        for key in keys:
            print_json(key)
    else:
        print_rows(COLUMNS, keys)


def delete(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key.")],
    json_lines: JsonLines = False,
) -> None:
    """Delete an API key: it opens nothing any more."""
    run(_delete(ctx.obj, key_id, json_lines=json_lines))


async def _delete(settings: CliSettings, key_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        await client.delete_api_key(key_id)
    told("deleted", {"id": key_id, "deleted": True}, json_lines=json_lines)


def _ends_at(span: str | None) -> str | None:
    """Return when a span from now ends. Raises typer.BadParameter."""
    if span is None:
        return None
    match = _SPAN.fullmatch(span)
    if match is None:
        raise typer.BadParameter("is written as 30d or 12h", param_hint="--expires-in")
    length = timedelta(days=int(match[1])) if match[2] == "d" else timedelta(hours=int(match[1]))
    return (datetime.now(UTC) + length).isoformat(timespec="seconds")
