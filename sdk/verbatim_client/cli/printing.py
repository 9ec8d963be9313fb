"""How things look: JSON lines for programs, tables for people, tabs in between."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

# What was said or typed by others must not steer the terminal.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")


def plain(text: object) -> str:
    """Give a text as one line that is only text."""
    return _CONTROLS.sub(" ", "" if text is None else str(text)).strip()


def print_json(thing: Json) -> None:
    """Print an object as one line."""
    print(json.dumps(thing, ensure_ascii=False), flush=True)


def print_line(text: object) -> None:
    """Print one line of text."""
    print(plain(text), flush=True)


def note(text: str) -> None:
    """Tell the person something that is no data."""
    print(plain(text), file=sys.stderr, flush=True)


def told(text: str, thing: Json, *, json_lines: bool) -> None:
    """Say that something is done: to a person in words, to a program what came of it."""
    if json_lines:
        print_json(thing)
    else:
        note(text)


def print_rows(columns: Sequence[str], items: Iterable[Json]) -> None:
    """Print a table: with a head on a terminal, with tabs between the fields elsewhere."""
    rows = [[plain(_cell(item.get(column))) for column in columns] for item in items]
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    Console().print(table)


async def first(limit: int, items: AsyncGenerator[Json, None]) -> list[Json]:
    """Give the first items of a list, and ask for no page more than is needed."""
    found: list[Json] = []
    async with aclosing(items) as pages:
        async for item in pages:
            found.append(item)
            if len(found) == limit:
                break
    return found


def print_items(columns: Sequence[str], items: Sequence[Json], *, json_lines: bool) -> None:
    """Print items as JSON lines, or as a table of some of their fields."""
    if json_lines:
        for item in items:
            print_json(item)
    else:
        print_rows(columns, items)


def print_facts(names: Sequence[str], thing: Json) -> None:
    """Print one thing, a fact a line; what is not known is left out."""
    for name in names:
        if (value := thing.get(name)) not in (None, "", []):
            print(f"{name.replace('_', ' '):<15} {plain(_cell(value))}")


def print_hits(meeting: Json) -> None:
    """Print a meeting that was found, and where, for people: the words are bold."""
    console = Console(highlight=False, soft_wrap=True)
    head = f"{plain(meeting['title'])}  {plain(meeting['created_at'])[:10]}  {meeting['id']}"
    console.print(Text(head, style="bold underline"))
    for hit in meeting.get("hits", []):
        start_s = hit.get("start")
        where = hit["kind"] if start_s is None else f"{int(start_s) // 60:02d}:{int(start_s) % 60:02d}"
        line = Text(f"  {where:<8}")
        for part in hit["snippet"]:
            # Blanks at its ends are part of a piece.
            line.append(_CONTROLS.sub(" ", part["text"]), style="bold yellow" if part["match"] else "")
        console.print(line)


def _cell(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    if isinstance(value, float):
        return f"{value:g}"
    return value
