"""`verbatim admin controls list`, `set`, `unset`: switches of the running platform."""

from __future__ import annotations

from typing import Annotated

import typer

from verbatim_client.cli.edge import run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.options import JsonLines
from verbatim_client.cli.printing import print_json, print_rows, told
from verbatim_client.cli.settings import CliSettings
from verbatim_client.cli.spans import seconds

COLUMNS = ("name", "value", "until", "who", "why", "set_at")

Name = Annotated[str, typer.Argument(help="As rate_limits or breaker.openai.")]
Why = Annotated[str, typer.Option(help="For the record: others will read it.")]


def list_controls(ctx: typer.Context, json_lines: JsonLines = False) -> None:
    """List the switches that are set: who set them, why, and until when. All others have their defaults."""
    run(_list(ctx.obj, json_lines=json_lines))


async def _list(settings: CliSettings, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        found = await client.controls()
    if json_lines:
        for control in found:
            print_json(control)
    else:
        print_rows(COLUMNS, found)


def set_control(
    ctx: typer.Context,
    name: Name,
    value: Annotated[str, typer.Argument(help="As aggressive, or open.")],
    why: Why,
    span: Annotated[
        str | None, typer.Option("--for", metavar="SPAN", help="As in 30m or 2h; without, until somebody changes it.")
    ] = None,
    json_lines: JsonLines = False,
) -> None:
    """Set a switch for all services, at once."""
    for_s = None if span is None else seconds(span, "--for")
    run(_set(ctx.obj, name, value, why, for_s, json_lines=json_lines))


async def _set(
    settings: CliSettings, name: str, value: str | None, why: str, for_s: int | None, *, json_lines: bool
) -> None:
    async with logged_in(settings) as client:
        await client.set_control(name, value, why=why, for_s=for_s)
    lasting = f" for {for_s} s" if for_s else ""
    text = f"{name} is {value}{lasting}" if value else f"{name} has its default"
    told(text, {"name": name, "value": value, "why": why, "for_s": for_s}, json_lines=json_lines)


def unset_control(ctx: typer.Context, name: Name, why: Why, json_lines: JsonLines = False) -> None:
    """Give a switch back to its default."""
    run(_set(ctx.obj, name, None, why, None, json_lines=json_lines))
