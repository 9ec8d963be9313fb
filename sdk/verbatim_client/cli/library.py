"""`verbatim list`, `search`, `show`, `export`, `tasks`, `insights`: reading what is there."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from verbatim_client.cli.captions import Captions
from verbatim_client.cli.edge import run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.minutes import minutes_lines
from verbatim_client.cli.options import JsonLines, Limit, MeetingId
from verbatim_client.cli.printing import first, note, print_facts, print_hits, print_items, print_json, print_line
from verbatim_client.cli.settings import CliSettings

MEETING_COLUMNS = ("id", "created_at", "status", "audio_seconds", "title")
MEETING_FACTS = (
    *("id", "title", "status", "language", "participants", "created_at", "started_at", "ended_at"),
    *("segments", "draft_segments", "audio_seconds", "gap_seconds", "coverage"),
)
TASK_COLUMNS = ("id", "status", "due", "assignee", "title")


class Format(StrEnum):
    """How a transcript is written down."""

    TXT = "txt"
    MD = "md"
    SRT = "srt"
    VTT = "vtt"
    JSON = "json"


class TaskStatus(StrEnum):
    """Whether a task is to be done."""

    OPEN = "open"
    DONE = "done"


def list_meetings(
    ctx: typer.Context,
    status: Annotated[
        str | None, typer.Option(help="Only these: created, live, processing, completed or failed.")
    ] = None,
    limit: Limit = 50,
    json_lines: JsonLines = False,
) -> None:
    """List your meetings, newest first."""
    run(_meetings(ctx.obj, status, limit, json_lines=json_lines))


def search(
    ctx: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="WORDS...", help='All of them; "a phrase", -without, or.')],
    limit: Limit = 20,
    json_lines: JsonLines = False,
) -> None:
    """Find meetings by words of title, transcript or minutes: the best first, and where the words stand."""
    run(_search(ctx.obj, " ".join(words), limit, json_lines=json_lines))


async def _search(settings: CliSettings, query: str, limit: int, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        found = await first(limit, client.meetings(query))
    if json_lines or not sys.stdout.isatty():
        print_items(MEETING_COLUMNS, found, json_lines=json_lines)
        return
    for meeting in found:
        print_hits(meeting)


async def _meetings(settings: CliSettings, status: str | None, limit: int, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        print_items(MEETING_COLUMNS, await first(limit, client.meetings(status=status)), json_lines=json_lines)


def show(ctx: typer.Context, meeting: MeetingId, json_lines: JsonLines = False) -> None:
    """Show a meeting and its transcript; with --json the meeting, then one segment per line."""
    run(_show(ctx.obj, meeting, json_lines=json_lines))


async def _show(settings: CliSettings, meeting_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        meeting, segments = await client.meeting(meeting_id), await client.segments(meeting_id)
    if json_lines:
        for thing in [meeting, *segments]:
            print_json(thing)
        return
    print_facts(MEETING_FACTS, meeting)
    print()
    captions = Captions(sys.stdout, sys.stderr)
    for segment in segments:
        captions.show({"type": "segment"} | segment)


def share(ctx: typer.Context, meeting: MeetingId, json_lines: JsonLines = False) -> None:
    """Make a link that shows a meeting for a day to whoever has it, also while it is spoken. It goes to stdout."""
    run(_share(ctx.obj, meeting, json_lines=json_lines))


async def _share(settings: CliSettings, meeting_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        made = await client.share(meeting_id)
    if json_lines:
        print_json(made)
        return
    print_line(client.base_url + made["path"])
    note(f"until {made['expires_at']}")


def export(
    ctx: typer.Context,
    meeting: MeetingId,
    format_: Annotated[Format, typer.Option("--format", "-f", help="How it is written down.")] = Format.TXT,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; stdout if not given.")] = None,
) -> None:
    """Write a transcript as a file."""
    run(_export(ctx.obj, meeting, format_, output))


async def _export(settings: CliSettings, meeting_id: str, format_: Format, output: Path | None) -> None:
    async with logged_in(settings) as client:
        text = await client.export(meeting_id, format_)
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()
    else:
        await asyncio.to_thread(output.write_text, text, encoding="utf-8")
        note(f"wrote {output}")


def tasks(
    ctx: typer.Context,
    meeting: Annotated[str | None, typer.Option(help="Only those of this meeting.")] = None,
    status: Annotated[TaskStatus | None, typer.Option(help="Only those.")] = None,
    limit: Limit = 200,
    json_lines: JsonLines = False,
) -> None:
    """List tasks."""
    filters = {name: str(value) for name, value in (("meeting_id", meeting), ("status", status)) if value}
    run(_tasks(ctx.obj, filters, limit, json_lines=json_lines))


async def _tasks(settings: CliSettings, filters: dict[str, str], limit: int, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        print_items(TASK_COLUMNS, await first(limit, client.tasks(**filters)), json_lines=json_lines)


def insights(
    ctx: typer.Context,
    meeting: MeetingId,
    again: Annotated[bool, typer.Option("--again", help="Have them made again, and show the job.")] = False,
    json_lines: JsonLines = False,
) -> None:
    """Show the minutes of a meeting: summary, key points, decisions, action items."""
    run(_make_again(ctx.obj, meeting, json_lines=json_lines) if again else _insights(ctx.obj, meeting, json_lines))


async def _insights(settings: CliSettings, meeting_id: str, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        found = await client.insights(meeting_id)
    if json_lines:
        print_json(found)
        return
    lines = minutes_lines(found)
    for line in lines:
        print(line)
    if not lines:
        note(f"nothing yet: {found['status']}")


async def _make_again(settings: CliSettings, meeting_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        job = await client.request_insights(meeting_id)
    if json_lines:
        print_json(job)
    else:
        print_line(job["id"])
