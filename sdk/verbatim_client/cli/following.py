"""`verbatim watch`: reading along while others speak."""

from __future__ import annotations

import sys

import typer

from verbatim_client.cli.captions import Captions
from verbatim_client.cli.edge import CliError, run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.options import JsonLines, MeetingId
from verbatim_client.cli.printing import print_json
from verbatim_client.cli.settings import CliSettings


def watch(ctx: typer.Context, meeting: MeetingId, json_lines: JsonLines = False) -> None:
    """Follow a meeting as it is spoken, what was said before first; ends with the meeting."""
    run(_watch(ctx.obj, meeting, json_lines=json_lines))


async def _watch(settings: CliSettings, meeting_id: str, *, json_lines: bool) -> None:
    captions = Captions(sys.stdout, sys.stderr)
    finished = False
    async with logged_in(settings) as client:
        # Who is not there, or not allowed in, is told at once: following itself would try again for a while.
        await client.meeting(meeting_id)
        async for event in client.watch(meeting_id):
            finished = finished or event["type"] == "finished"
            if not json_lines:
                captions.show(event)
            elif event["type"] != "partial":
                print_json(event)
    if not finished:
        raise CliError("the meeting ended without its accounts")
