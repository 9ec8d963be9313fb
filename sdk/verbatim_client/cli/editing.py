"""`verbatim edit`, `rename-speaker`: correcting what was heard."""

from __future__ import annotations

from typing import Annotated

import typer

from verbatim_client.cli.edge import run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.options import JsonLines, MeetingId
from verbatim_client.cli.printing import print_facts, print_json, told
from verbatim_client.cli.settings import CliSettings

SEGMENT_FACTS = ("id", "speaker", "text", "edited", "quality", "version")
FIELDS = ("text", "speaker")


def edit(
    ctx: typer.Context,
    meeting: MeetingId,
    segment: Annotated[str, typer.Argument(metavar="SEGMENT", help="The id of the segment: `show --json` has it.")],
    text: Annotated[str | None, typer.Option(help="What was said.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Who said it.")] = None,
    as_heard: Annotated[
        bool, typer.Option("--as-heard", help="Show again what was heard, where it is not given.")
    ] = False,
    json_lines: JsonLines = False,
) -> None:
    """Correct the text or the speaker of one segment; what you write is never overwritten."""
    given = {name: value for name, value in zip(FIELDS, (text, speaker), strict=True) if value is not None}
    changed: dict[str, str | None] = dict.fromkeys(FIELDS if as_heard else ()) | given
    if not changed:
        raise typer.BadParameter("give --text, --speaker or --as-heard")
    run(_edit(ctx.obj, meeting, segment, changed, json_lines=json_lines))


async def _edit(
    settings: CliSettings, meeting_id: str, segment_id: str, changed: dict[str, str | None], *, json_lines: bool
) -> None:
    async with logged_in(settings) as client:
        known = await client.segment(meeting_id, segment_id)
        found = await client.update_segment(meeting_id, segment_id, known["version"], **changed)
    if json_lines:
        print_json(found)
    else:
        print_facts(SEGMENT_FACTS, found)


def rename_speaker(
    ctx: typer.Context,
    meeting: MeetingId,
    speaker: Annotated[str, typer.Argument(metavar="SPEAKER", help="As it is shown; '': whoever has no name.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")],
    json_lines: JsonLines = False,
) -> None:
    """Rename a speaker in a whole meeting, also in what is yet to be said."""
    run(_rename(ctx.obj, meeting, speaker, name, json_lines=json_lines))


async def _rename(settings: CliSettings, meeting_id: str, speaker: str, name: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        version = (await client.meeting(meeting_id))["version"]
        changed = await client.rename_speaker(meeting_id, version, speaker or None, name)
    told(f"{speaker or 'whoever had no name'} is {name}", changed, json_lines=json_lines)
