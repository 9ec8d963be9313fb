"""`verbatim analytics`: what a period amounts to."""

from __future__ import annotations

from typing import Annotated

import typer

from verbatim_client.cli.edge import run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.options import JsonLines
from verbatim_client.cli.printing import note, print_facts, print_json, print_rows
from verbatim_client.cli.settings import CliSettings

FACTS = ("from", "to", "tz", "meetings", "talk_seconds", "words", "tasks_open", "tasks_done")
DAY_COLUMNS = ("day", "meetings", "talk_seconds", "words", "tasks_open", "tasks_done")


def analytics(
    ctx: typer.Context,
    from_: Annotated[
        str | None, typer.Option("--from", help="First day; thirty days before the last if not given.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="Last day; today if not given.")] = None,
    tz: Annotated[str | None, typer.Option("--tz", help="Time zone in which days begin; else UTC.")] = None,
    json_lines: JsonLines = False,
) -> None:
    """Show the figures of a period: meetings, who talked how long, words, tasks."""
    run(_analytics(ctx.obj, from_, to, tz, json_lines=json_lines))


async def _analytics(
    settings: CliSettings, from_: str | None, to: str | None, tz: str | None, *, json_lines: bool
) -> None:
    async with logged_in(settings) as client:
        figures = await client.analytics(from_, to, tz)
    if json_lines:
        print_json(figures)
        return
    print_facts(FACTS, figures)
    print()
    speakers = [one | {"speaker": one["speaker"] or "(nobody named)"} for one in figures["speakers"]]
    print_rows(("speaker", "talk_seconds", "words"), speakers)
    print()
    print_rows(DAY_COLUMNS, [day for day in figures["days"] if any(day[name] for name in DAY_COLUMNS[1:])])
    if figures["stale"]:
        note(f"stale: as of {figures['as_of']}")
